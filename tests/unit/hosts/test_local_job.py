"""A job on this machine; its worker is a few lines of shell."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from src.errors import HostError
from src.hosts import local_job
from src.hosts.host_job import HostJob
from src.hosts.job_folder import ABSENT, RUNNING, JobPaths, JobStatus, State
from src.hosts.job_handle import handle_for
from src.hosts.local_job import LocalJob
from src.interrupts import interrupts_deferred
from src.worker.protocol import Event, Outcome
from tests.harness.fake_engine import wait_until
from tests.harness.fake_host import HOST, LAUNCH
from tests.harness.records import write_lines

HERE = replace(LAUNCH, host=replace(HOST, name="local", kind="local", gpus="device=3"))
# Holds the lock until SIGTERM.
HOLDS = """
trap 'echo "{\\"code\\": 143, \\"state\\": \\"cancelled\\"}" > "$1/exit.json"; exit 143' TERM
exec 9>>"$1/lock"
flock -w 1 9 || exit 75
echo $$ > "$1/lock"
echo "on GPU $CUDA_VISIBLE_DEVICES"
while :; do sleep 0.01; done
"""
ENDS = 'exec 9>>"$1/lock"; flock 9; echo "{\\"code\\": 0, \\"state\\": \\"done\\"}" > "$1/exit.json"'


@pytest.fixture
def handle(job: JobPaths) -> Iterator[LocalJob]:
    job.worker.write_text(HOLDS)
    made = LocalJob(HERE, job)
    yield made
    if made._child:
        made._child.kill()
        made._child.wait()


def holder(job: JobPaths) -> str:
    return job.lock.read_text().strip()


def test_handle_depends_on_host_and_image(job: JobPaths) -> None:
    assert isinstance(handle_for(HERE, job), LocalJob)
    assert isinstance(handle_for(LAUNCH, job), HostJob)
    assert isinstance(handle_for(replace(HERE, image=replace(HERE.image, reference="some/image")), job), HostJob)


def test_started_worker_runs_until_stopped(handle: LocalJob, job: JobPaths) -> None:
    job.exit.touch()
    job.cancelled.touch()
    handle.start()
    assert handle.poll() == RUNNING
    assert not job.exit.exists() and not handle.was_cancelled()
    wait_until(lambda: job.log.read_text() == "on GPU 3\n")
    handle.ask_to_stop()
    wait_until(lambda: handle.poll() == State("ended", "cancelled", 143))
    assert handle.was_cancelled()


def test_worker_that_freezes_before_its_lock_is_ended(
    handle: LocalJob, job: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_job, "START_S", 0.05)
    job.worker.write_text("while :; do sleep 0.01; done")
    handle.start()
    assert handle.poll() == RUNNING
    handle.kill()
    wait_until(lambda: handle.poll().status != "running")


def test_worker_of_another_controller_is_found(handle: LocalJob, job: JobPaths) -> None:
    handle.start()
    wait_until(lambda: holder(job))
    other = LocalJob(HERE, job)
    assert other.poll() == RUNNING
    other.ask_to_stop()
    wait_until(lambda: handle.poll() == State("ended", "cancelled", 143))


def test_second_worker_ends_by_itself(handle: LocalJob, job: JobPaths) -> None:
    handle.start()
    wait_until(lambda: holder(job))
    first = holder(job)
    other = LocalJob(HERE, job)
    job.worker.write_text(HOLDS.replace("-w 1", "-n"))
    other.start()
    assert other._child and other._child.wait() == 75
    assert (other.poll(), holder(job)) == (RUNNING, first)


def test_job_is_absent_before_its_start(handle: LocalJob) -> None:
    assert handle.poll() == ABSENT
    handle.ask_to_stop()


@pytest.mark.parametrize(
    ("worker", "state"),
    [(ENDS, State("ended", "done", 0)), (': > "$1/lock"; kill -9 $$', State("ended", "failed"))],
    ids=["done", "killed"],
)
def test_end_is_known_by_the_exit_record(handle: LocalJob, job: JobPaths, worker: str, state: State) -> None:
    job.worker.write_text(worker)
    handle.start()
    wait_until(lambda: handle.poll() == state)


def test_missing_interpreter_is_named(job: JobPaths) -> None:
    with pytest.raises(HostError, match="cannot be started: /no/such/python: No such file"):
        LocalJob(replace(HERE, python="/no/such/python"), job).start()


def test_peek_counts_final_outcomes(handle: LocalJob, job: JobPaths) -> None:
    assert handle.peek() == JobStatus(ABSENT, 0, "")
    outcomes = [Outcome("a", "refused"), Outcome("a", "kept"), Outcome("b", "upsampled")]
    write_lines(job.results, outcomes)
    write_lines(job.events, [Event("phase", 1.0, phase="loading"), Event("heartbeat", 2.0, beat=1)])
    status = handle.peek()
    assert (status.state, status.answered, status.phase, status.per_s) == (ABSENT, 2, "loading", None)


def test_damaged_line_is_named_when_peeking(
    handle: LocalJob, job: JobPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    job.results.write_text('{"id": 1}\n{"id": "a", "state": "kept"}\n')
    assert handle.peek().answered == 1
    assert "results.jsonl, line 1: id: 1 is not a valid str" in capsys.readouterr().out


def test_ctrl_c_waits_for_a_started_worker() -> None:
    started = []

    def start() -> None:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            started.append("the assignment that follows the start")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
