"""A job's folder: states, files, what is staged, which jobs are unfinished."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from src.hosts.bundle import worker_bundle
from src.hosts.job_folder import ABSENT, RUNNING, JobPaths, State, ended, open_job, open_jobs, state_by_exit_record
from src.worker.protocol import Exit, InferJob
from src.worker.records import from_line
from tests.harness.records import JOB, item, write_lines


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (0, "done"), (7, "load_failed"), (75, "locked"), (124, "timeout"), (130, "cancelled"), (143, "cancelled"),
        (1, "failed"), (2, "failed"), (125, "failed"), (137, "failed"), (139, "failed"), (None, "failed"),
    ],
)  # fmt: skip
def test_exit_code_tells_how_a_worker_ended(code: int | None, ending: str) -> None:
    state = ended(code)
    assert (state.status, state.ending, state.exit_code) == ("ended", ending, code)
    assert state.label == f"ended: {ending}"


@pytest.mark.parametrize(("code", "ending"), [(None, "oom"), (0, "oom"), (143, "cancelled"), (124, "timeout")])
def test_out_of_memory_yields_to_deliberate_ends(code: int | None, ending: str) -> None:
    assert ended(code, oom_killed=True).ending == ending


def test_other_states_are_their_own_label() -> None:
    assert [state.label for state in (ABSENT, RUNNING, State("waiting"))] == ["absent", "running", "waiting"]


# ------------------------------------------------------------------------------------------------------- exit record


def test_exit_record_is_none_until_written(job: JobPaths) -> None:
    assert job.exit_record() is None
    job.exit.write_text('{"code": 7, "state": "load_failed", "reason": "no GPU"}')
    assert job.exit_record() == Exit(7, "load_failed", "no GPU")


@pytest.mark.parametrize(
    ("text", "field"),
    [("", "not JSON"), ('{"state": "done"}', "code: missing"), ('{"code": "0", "state": ""}', "code: ")],
)
def test_damaged_exit_record_is_set_aside(
    job: JobPaths, text: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.exit.write_text(text)
    job.lock.touch()
    assert state_by_exit_record(job) == State("ended", "failed")
    assert f"{job.exit}: {field}" in capsys.readouterr().out
    assert job.exit.with_name("exit.json.damaged").read_text() == text


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ({}, ABSENT),
        ({"lock": ""}, State("ended", "failed")),
        ({"lock": "", "exit.json": '{"code": 0, "state": "done"}'}, State("ended", "done", 0)),
    ],
    ids=["never started", "killed", "ended"],
)
def test_state_without_a_worker(job: JobPaths, files: dict[str, str], state: State) -> None:
    for name, text in files.items():
        (job.root / name).write_text(text)
    assert state_by_exit_record(job) == state


# ------------------------------------------------------------------------------------------------------------ folder


def test_opened_job_can_be_started(job: JobPaths) -> None:
    assert job.worker.read_bytes() == worker_bundle()
    assert from_line(type(JOB), job.job.read_bytes()) == JOB
    assert job.batches.is_dir() and job.frames.is_dir()
    assert not job.header().infers


@pytest.mark.parametrize("is_held", [True, False])
def test_only_our_own_program_is_started(job: JobPaths, is_held: bool) -> None:
    job.worker.write_bytes(b"of somebody else")
    job.job.write_text("{}")
    with open(job.lock, "w") as lock:
        if is_held:  # what a worker runs is not changed under it
            fcntl.flock(lock, fcntl.LOCK_EX)
        open_job(job, JOB)
    assert (job.worker.read_bytes() == worker_bundle()) != is_held
    assert from_line(type(JOB), job.job.read_bytes()) == JOB


def test_header_tells_inference_apart(tmp_path: Path) -> None:
    job = JobPaths(tmp_path / "job")
    open_job(job, InferJob(1, ("torchrun",), "", {}, ({},), 2, 3, 5.0, 0.0))
    assert job.header().infers


def test_staged_ids_come_from_every_batch(job: JobPaths) -> None:
    assert job.staged() == set()
    write_lines(job.batches / "00000.jsonl", [item("a"), item("b")])
    write_lines(job.batches / "smaller-a-1.jsonl", [item("a", step=1)])
    assert job.staged() == {"a", "b"}


def test_finished_jobs_are_not_open(tmp_path: Path) -> None:
    jobs = [JobPaths(tmp_path / "job" / name) for name in ("c", "a", "b")]
    for job in jobs:
        open_job(job, JOB)
    jobs[0].finished.touch()
    (tmp_path / "job" / "half made").mkdir()
    assert open_jobs(tmp_path / "job") == [jobs[1], jobs[2]]
    assert open_jobs(tmp_path / "nowhere") == []
    assert jobs[0].run_folder == tmp_path
