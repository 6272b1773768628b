"""A worker as a job of Slurm: the states that Slurm's words mean. tests/e2e/test_slurm.py asks a real one."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import LinkLost
from src.hosts.host import LocalHost
from src.hosts.job_folder import ABSENT, QUEUED, RUNNING, State, ended
from src.hosts.mirror import Location, answer_of
from src.hosts.slurm import START_S, SlurmRuntime
from src.worker.protocol import CANCELLED
from tests.unit.hosts.test_local_job import HERE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's folder, and a squeue that prints what the files `states` and `starts` hold, or fails without them."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        f'#!/bin/sh\ncase "$*" in *RestartCnt*) cat "{tmp_path}/starts" ;; *) cat "{tmp_path}/states" ;; esac\n'
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    (tmp_path / "starts").write_text("0\n")
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "slurm.starts").write_text("0\n")
    return folder


def runtime_of(folder: Path, *sbatch: str) -> SlurmRuntime:
    launch = replace(HERE, host=replace(HERE.host, sbatch=sbatch))
    return SlurmRuntime(LocalHost(), launch, Location(str(folder.parent), str(folder), "0:0"))


def state(folder: Path) -> State:
    runtime = runtime_of(folder)
    return runtime.state(answer_of(runtime.host, runtime.question()))


@pytest.mark.parametrize(
    ("words", "files", "expected"),
    [
        ("PENDING\n", ("slurm.id",), QUEUED),
        ("REQUEUE_HOLD\n", ("slurm.id", "exit.json"), QUEUED),
        ("SUSPENDED\n", ("slurm.id", "events.jsonl", "exit.json"), QUEUED),
        ("CONFIGURING\n", ("slurm.id",), QUEUED),
        ("RUNNING\n", ("slurm.id",), QUEUED),  # its node boots, or an image is pulled: no worker yet
        ("RUNNING\n", ("slurm.id", "events.jsonl", "exit.json"), RUNNING),
        ("COMPLETING\n", ("slurm.id", "exit.json", "events.jsonl"), QUEUED),  # it ends, in Slurm's own time
        ("", (), ABSENT),
        ("", ("slurm.id",), State("ended")),
        ("", ("slurm.id", "cancelled", "exit.json"), State("ended")),
        ("", ("slurm.id", "cancelled"), ended(CANCELLED)),
    ],
)
def test_state_is_what_slurm_says(folder: Path, words: str, files: tuple[str, ...], expected: State) -> None:
    (folder.parent / "states").write_text(words)
    start = time.time() - 1000
    for second, name in enumerate(files):
        (folder / name).touch()
        os.utime(folder / name, (0, start + second))
    assert state(folder) == expected


def test_requeued_job_waits_for_its_new_worker(folder: Path) -> None:
    """Of the worker before, there are events and no fresh heartbeat."""
    for name, age_s in (("slurm.id", 1000), ("events.jsonl", 500)):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - age_s))
    for words, expected in (("RUNNING", RUNNING), ("PENDING", QUEUED), ("RUNNING", QUEUED)):
        (folder.parent / "states").write_text(words)
        assert state(folder) == expected


def test_fresh_heartbeat_needs_no_slurm(folder: Path) -> None:
    (folder / "events.jsonl").touch()
    assert state(folder) == RUNNING


def test_silent_slurm_is_a_lost_link(folder: Path) -> None:
    with pytest.raises(LinkLost, match="Slurm does not answer"):
        state(folder)


def test_removed_folder_is_absent(folder: Path) -> None:
    shutil.rmtree(folder)
    assert state(folder) == ABSENT


def test_job_is_not_submitted_beside_an_unseen_one(folder: Path) -> None:
    sbatch = folder.parent / "bin" / "sbatch"
    sbatch.write_text(f"#!/bin/sh\ntouch {folder}/submitted\n")
    sbatch.chmod(0o755)
    with pytest.raises(LinkLost, match="Slurm does not answer"):
        runtime_of(folder).start()
    assert not (folder / "submitted").exists()


def test_own_options_win_over_those_of_the_user(folder: Path) -> None:
    """By its name a job is found again, and in its folder is its log."""
    sbatch = folder.parent / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/options\n')
    sbatch.chmod(0o755)
    (folder.parent / "states").touch()
    runtime_of(folder, "--job-name=mine", "--comment=a job").start()
    options = (folder / "options").read_text().splitlines()
    assert options.index("--job-name=mine") < options.index(f"--job-name=upsample-{folder.name}")
    assert "--comment=a job" in options


def has_run_for_long(folder: Path) -> None:
    for name, age_s in (("slurm.id", 1000), ("events.jsonl", 100)):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - age_s))
    (folder.parent / "states").write_text("RUNNING")


def test_requeue_that_nobody_saw_counts(folder: Path) -> None:
    """Slurm is not asked while there are heartbeats; it counts how often it has started the job."""
    has_run_for_long(folder)
    assert state(folder) == RUNNING
    (folder.parent / "starts").write_text("1")
    assert state(folder) == QUEUED


def test_restart_before_slurm_was_asked_counts(folder: Path) -> None:
    (folder / "slurm.starts").unlink()
    has_run_for_long(folder)
    (folder.parent / "starts").write_text("1   ")
    assert state(folder) == QUEUED


def test_first_start_after_a_long_wait_has_its_time(folder: Path) -> None:
    """Nobody asked Slurm while it was queued; its image is pulled now."""
    (folder / "slurm.starts").unlink()
    (folder / "slurm.id").touch()
    os.utime(folder / "slurm.id", (0, time.time() - START_S - 10))
    (folder.parent / "states").write_text("RUNNING")
    assert state(folder) == QUEUED


def test_job_of_an_older_version_is_not_held_for_new(folder: Path) -> None:
    (folder / "slurm.starts").unlink()
    has_run_for_long(folder)
    assert state(folder) == RUNNING


def test_start_that_hangs_counts_as_silent(folder: Path) -> None:
    (folder / "slurm.id").touch()
    os.utime(folder / "slurm.id", (0, time.time() - START_S - 10))
    (folder.parent / "states").write_text("RUNNING")
    assert state(folder) == RUNNING


@pytest.mark.parametrize(
    ("states", "has_worker", "expected"),
    [
        ("7 RUNNING", True, "--signal=TERM --batch 7"), ("7 RUNNING", False, "7"), ("7 PENDING", True, "7"),
        ("7 SUSPENDED", True, "7"), ("7 COMPLETING", True, ""), ("", True, ""),
    ],
)  # fmt: skip
def test_stop_reaches_jobs_in_every_state(folder: Path, states: str, has_worker: bool, expected: str) -> None:
    scancel = folder.parent / "bin" / "scancel"
    scancel.write_text(f'#!/bin/sh\necho "$@" >> {folder}/canceled\n')
    scancel.chmod(0o755)
    (folder.parent / "states").write_text(f"{states}\n")
    for name in ("slurm.id", *(("events.jsonl",) if has_worker else ())):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - (100 if name == "slurm.id" else 50)))
    runtime_of(folder).ask_to_stop()
    canceled = folder / "canceled"
    assert (canceled.read_text().strip() if canceled.exists() else "") == expected


def test_stop_that_slurm_does_not_hear_is_a_lost_link(folder: Path) -> None:
    with pytest.raises(LinkLost, match="Slurm does not answer"):
        runtime_of(folder).ask_to_stop()
