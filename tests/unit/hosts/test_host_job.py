"""A job on a host: mirror and runtime together, and what happens while the link is lost.

Scripts are real; the link is a fake, Docker is a fake, and the worker is a few lines of shell.
"""

from __future__ import annotations

import itertools
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from src import log
from src.errors import HostError, LinkLost
from src.hosts import mirror, runtimes, transfer
from src.hosts.host import CommandResult
from src.hosts.host_job import HostJob
from src.hosts.job_folder import ABSENT, RUNNING, JobPaths, JobStatus, State
from src.hosts.launch import Launch
from src.hosts.mirror import SharedFolder
from tests.harness.fake_docker import FakeDocker
from tests.harness.fake_host import LOST_AFTER, LOST_BEFORE, NONE, FakeHost, Fault, prints
from tests.harness.records import frame_of, item, write_lines

IMAGE = "some/image:1"
RESULT = '{"id":"a","state":"upsampled"}\n'
# A worker that writes a result unless there is one, and ends. It makes its lock last, so that a start returns after its end.
WORKER = """
echo loading
grep -q . "$1/results.jsonl" 2>/dev/null || echo '{"id":"a","state":"upsampled"}' >> "$1/results.jsonl"
echo '{"event":"phase","time":1.0,"phase":"draining"}' >> "$1/events.jsonl"
echo '{"code": 0, "state": "done"}' > "$1/exit.json"
: > "$1/lock"
"""


@pytest.fixture
def staged(job: JobPaths) -> JobPaths:
    """The job with one batch of one item with one frame."""
    frame = b"a frame" * 1000
    (job.frames / frame_of(frame)).write_bytes(frame)
    write_lines(job.batches / "00000.jsonl", [item("a", frames=(f"frames/{frame_of(frame)}",))])
    job.worker.write_text(WORKER)
    return job


@pytest.fixture
def handle(launch: Launch, staged: JobPaths, host: FakeHost) -> HostJob:
    return HostJob(launch, staged, host)


@pytest.fixture
def daemon() -> FakeDocker:
    return FakeDocker(IMAGE)


@pytest.fixture
def box(daemon: FakeDocker) -> FakeHost:
    """A host with Docker."""
    return FakeHost(daemon)


@pytest.fixture
def docked(launch: Launch, staged: JobPaths, box: FakeHost) -> HostJob:
    """The job in a container on another machine."""
    return HostJob(replace(launch, image=replace(launch.image, reference=IMAGE)), staged, box)


def there(handle: HostJob) -> JobPaths:
    return JobPaths(Path(handle.location.folder))


def prepared(handle: HostJob) -> HostJob:
    handle.prepare()
    handle.push()
    return handle


def with_host(handle: HostJob, **fields: object) -> HostJob:
    launch = replace(handle.launch, host=replace(handle.launch.host, **fields))  # type: ignore[arg-type]
    return HostJob(launch, handle.job, handle.host)


def bring_to_its_end(handle: HostJob) -> State:
    """All that a supervisor asks of a handle, one after the other."""
    prepared(handle)
    handle.start()
    while (state := handle.poll()) == RUNNING:
        pass
    handle.job.closed.touch()
    handle.push()
    handle.finish()
    return state


# ------------------------------------------------------------------------------------------------------- to its end


def test_job_runs_and_leaves_only_frames(handle: HostJob, root: Path, tmp_path: Path) -> None:
    assert bring_to_its_end(handle) == State("ended", "done", 0)
    assert handle.job.results.read_text() == RESULT
    assert handle.job.log.read_text() == "loading\n"
    assert list((root / "jobs").iterdir()) == []
    assert len(list((root / "frames").iterdir())) == 1
    assert not (tmp_path / "interpreted").exists()


def test_kept_job_stays_on_the_host(handle: HostJob) -> None:
    kept = with_host(handle, keep_job=True)
    bring_to_its_end(kept)
    assert there(kept).results.read_text() == RESULT


def test_container_job_leaves_no_container(docked: HostJob, daemon: FakeDocker, root: Path) -> None:
    def work(_: object) -> None:
        there(docked).results.write_text(RESULT)
        there(docked).exit.write_text('{"code": 0, "state": "done"}')
        daemon.end(0)

    daemon.on_start = work
    assert bring_to_its_end(docked) == State("ended", "done", 0)
    assert docked.job.results.read_text() == RESULT
    assert daemon.containers == {}
    assert list((root / "jobs").iterdir()) == []


def test_container_here_shares_the_folder(docked: HostJob, daemon: FakeDocker) -> None:
    local = with_host(docked, kind="local")
    local.prepare()
    local.start()
    assert isinstance(local.mirror, SharedFolder)
    assert local.location.folder == str(local.job.root.resolve())
    assert local.poll() == RUNNING
    assert local.sent_bytes == 0


# -------------------------------------------------------------------------------------------------------- link lost


def finished_at_once(handle: HostJob) -> Fault:
    """A start after which the worker has ended already."""

    def work() -> None:
        folder = there(handle)
        folder.results.write_text(RESULT)
        folder.exit.write_text('{"code": 0, "state": "done"}')
        folder.lock.touch()

    return Fault(meanwhile=work, done=CommandResult(0, b"", b""))


def test_link_may_be_lost_at_any_command(launch: Launch, staged: JobPaths, root: Path) -> None:
    commands = 0  # lost after one command is as lost before the next one, but for what the first one did
    for number in itertools.count():  # 0: the whole job without a fault
        host = FakeHost()
        handle = HostJob(launch, staged, host)
        host.fail(runtimes._START, finished_at_once(handle))
        if number:
            host.fail_at(number, LOST_AFTER)
        assert bring_to_its_end(handle) == State("ended", "done", 0), number
        assert staged.results.read_text() == RESULT
        assert list((root / "jobs").iterdir()) == []
        shutil.rmtree(root)
        for path in (staged.results, staged.exit, staged.closed):
            path.unlink()
        commands = commands or len(host.commands)
        if number + 1 == commands:
            return


def test_first_connection_is_not_retried(handle: HostJob, host: FakeHost) -> None:
    host.fail_at(0, LOST_BEFORE)
    with pytest.raises(LinkLost):
        handle.prepare()
    assert len(host.commands) == 1


def test_patience_with_a_lost_link_ends(handle: HostJob, host: FakeHost) -> None:
    impatient = with_host(handle, patience_s=0.02)
    prepared(impatient)
    host.fail(mirror._POLL, *[LOST_BEFORE] * 100_000)
    with pytest.raises(LinkLost):
        impatient.poll()


def test_failing_fast_does_not_wait(handle: HostJob, host: FakeHost) -> None:
    prepared(handle)
    handle.fail_fast()
    host.fail(mirror._POLL, LOST_BEFORE)
    with pytest.raises(LinkLost):
        handle.poll()
    assert host.count(mirror._POLL) == 1


def test_retries_are_logged_with_their_reason(handle: HostJob, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, dict[str, object]]] = []

    class Log:
        def debug(self, event: str, **facts: object) -> None: ...

        def warning(self, event: str, **facts: object) -> None:
            logged.append((event, facts))

    monkeypatch.setattr(log, "get", Log)
    prepared(handle)
    host.fail(mirror._POLL, LOST_BEFORE, LOST_BEFORE)
    handle.poll()
    assert logged == [("link_lost", {"host": "box", "reason": "box: the link is cut", "again_in": "0s"})] * 2


def test_absent_daemon_is_waited_for(docked: HostJob, box: FakeHost, daemon: FakeDocker) -> None:
    prepared(docked)
    docked.start()
    daemon.is_up = False
    box.fail(mirror._POLL, NONE, NONE, Fault(meanwhile=lambda: setattr(daemon, "is_up", True)))
    polls = box.count(mirror._POLL)
    assert docked.poll() == RUNNING
    assert box.count(mirror._POLL) - polls == 3


# ------------------------------------------------------------------------------------------------------------ checks


def test_missing_image_stages_nothing(docked: HostJob, daemon: FakeDocker, root: Path) -> None:
    daemon.images = set()
    with pytest.raises(HostError, match="there is no image"):
        docked.prepare()
    assert not (root / "jobs").exists()


def test_disk_space_is_measured_again(handle: HostJob, host: FakeHost, root: Path) -> None:
    prepared(handle)
    host.fail(mirror._SPACE, prints(f"0\n0\n{root}\n100\n"))
    with pytest.raises(HostError, match="the disk is full"):
        handle.prepare()


def test_full_disk_while_sending_is_not_retried(handle: HostJob, host: FakeHost) -> None:
    handle.prepare()
    host.fail(transfer._TAKE, prints("", 2, b"tar: No space left on device"))
    with pytest.raises(HostError, match="No space left"):
        handle.push()
    assert host.count(transfer._TAKE) == 1


# ------------------------------------------------------------------------------------------------------------- state


def test_prepared_job_is_absent(handle: HostJob) -> None:
    assert prepared(handle).poll() == ABSENT


@pytest.mark.parametrize(
    ("worker", "state"),
    [
        ("echo 'out of luck'; : > \"$1/lock\"", State("ended", "failed")),
        ("echo '{\"code\": 7, \"state\": \"load_failed\"}' > \"$1/exit.json\"; : > \"$1/lock\"",
         State("ended", "load_failed", 7)),
        ("echo '{\"code\": 124, \"state\": \"timeout\"}' > \"$1/exit.json\"; : > \"$1/lock\"",
         State("ended", "timeout", 124)),
    ],
    ids=["killed", "load failed", "timeout"],
)  # fmt: skip
def test_end_is_known_by_the_exit_record(handle: HostJob, worker: str, state: State) -> None:
    handle.job.worker.write_text(worker)
    prepared(handle).start()
    assert handle.poll() == state
    assert handle.job.log.exists() is (state.exit_code is None)  # a killed worker's output is fetched


def test_full_disk_under_the_worker_is_reported(handle: HostJob, host: FakeHost, root: Path) -> None:
    handle.job.worker.write_text(': > "$1/lock"')
    prepared(handle).start()
    host.fail(mirror._SPACE, prints(f"0\n0\n{root}\n100\n"))
    with pytest.raises(HostError, match="the disk is full"):
        handle.poll()


def test_damaged_exit_record_is_a_death(handle: HostJob) -> None:
    handle.job.worker.write_text('echo "{}" > "$1/exit.json"; : > "$1/lock"')
    prepared(handle).start()
    assert handle.poll() == State("ended", "failed")


def test_backlog_comes_before_the_end(handle: HostJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LIMIT", 60)
    handle.job.worker.write_text(
        f"for i in 1 2 3 4; do echo '{RESULT.strip()}' >> \"$1/results.jsonl\"; done\n{WORKER}"
    )
    prepared(handle).start()
    assert handle.poll() == State("ended", "done", 0)
    assert handle.job.results.read_text() == RESULT * 4


def test_folder_removed_by_another_is_absent(handle: HostJob, host: FakeHost) -> None:
    prepared(handle).start()
    handle.poll()
    other = HostJob(handle.launch, handle.job, host)
    other.finish()
    assert handle.poll() == ABSENT
    handle.prepare()
    handle.push()
    assert there(handle).results.read_text() == RESULT  # restored, so that nothing is asked twice
    assert sorted(p.name for p in there(handle).batches.iterdir()) == ["00000.jsonl"]


def test_folder_removed_before_the_start_is_created_again(handle: HostJob, host: FakeHost) -> None:
    handle.prepare()
    HostJob(handle.launch, handle.job, host).finish()
    handle.push()
    handle.start()
    assert handle.poll() == State("ended", "done", 0)


def test_what_was_not_sent_follows_once_the_folder_is_there(handle: HostJob, host: FakeHost) -> None:
    prepared(handle).start()
    while handle.poll() == RUNNING:
        pass
    HostJob(handle.launch, handle.job, host).finish()
    handle.job.closed.touch()
    handle.push()
    assert handle.poll() == ABSENT
    HostJob(handle.launch, handle.job, host).prepare()
    handle.poll()
    assert there(handle).closed.exists()


def test_folder_removed_during_a_poll_is_absent(handle: HostJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a journal that shrank: what the other controller removes disappears at once."""
    prepared(handle).start()
    handle.poll()
    removes = f"(set -- {shlex.join([str(there(handle).root), handle.location.root])}\n{mirror.REMOVE})"
    monkeypatch.setattr(mirror, "_POLL", mirror._POLL.replace("for pair in", f"{removes}\nfor pair in"))
    assert handle.poll() == ABSENT
    assert not list(Path(handle.location.root, "jobs").glob("*/results.jsonl"))


def test_two_controllers_share_one_worker(handle: HostJob, host: FakeHost, tmp_path: Path) -> None:
    other_job = JobPaths(tmp_path / "other" / "job" / handle.job.root.name)
    for path in sorted(p for p in handle.job.root.rglob("*") if p.is_file()):
        target = other_job.root / path.relative_to(handle.job.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    other = HostJob(handle.launch, other_job, host)
    for one in (handle, other):
        prepared(one)
        one.start()
    assert [one.poll() for one in (handle, other)] == [State("ended", "done", 0)] * 2
    assert handle.job.results.read_text() == other_job.results.read_text() == RESULT


# ------------------------------------------------------------------------------------------------ canceled, peeked


def test_canceling_marks_the_job(handle: HostJob, host: FakeHost) -> None:
    prepared(handle)
    assert not handle.was_cancelled()
    HostJob(handle.launch, handle.job, host).ask_to_stop()
    assert handle.was_cancelled()
    handle.start()
    assert not handle.was_cancelled()


def test_canceling_ends_the_container(docked: HostJob, daemon: FakeDocker) -> None:
    prepared(docked).start()
    docked.ask_to_stop()
    assert [sign for _, sign in daemon.signals] == ["TERM"]
    daemon.end(143)
    assert docked.poll() == State("ended", "cancelled", 143)
    assert docked.was_cancelled()


def test_peek_changes_nothing_here(handle: HostJob, host: FakeHost) -> None:
    prepared(handle).start()
    peeking = HostJob(handle.launch, handle.job, host)
    status = peeking.peek()
    assert status == JobStatus(State("ended", "done", 0), 1, "draining")
    assert not handle.job.results.exists()


def test_peek_does_not_wait_for_the_link(handle: HostJob, host: FakeHost) -> None:
    prepared(handle)
    host.fail(runtimes._PROCESS, LOST_BEFORE)
    with pytest.raises(LinkLost):
        handle.peek()


def test_damaged_record_is_an_error_when_peeking(handle: HostJob) -> None:
    handle.job.worker.write_text('echo "{}" > "$1/exit.json"; : > "$1/lock"')
    prepared(handle).start()
    with pytest.raises(HostError, match=r"code: missing"):
        handle.peek()


def test_closing_closes_the_host(handle: HostJob, host: FakeHost) -> None:
    handle.close()
    assert host.closed


def test_fetch_waits_for_the_link(handle: HostJob, host: FakeHost) -> None:
    prepared(handle)
    (there(handle).root / "a.mp4").write_bytes(b"a video")
    host.fail("tar", LOST_BEFORE)
    handle.fetch({"a.mp4": 7})
    assert (handle.job.root / "a.mp4").read_bytes() == b"a video"
