"""A worker as a job of Slurm: the states that Slurm's words mean. tests/e2e/test_slurm.py asks a real one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import LinkLost
from src.hosts.host import LocalHost
from src.hosts.job_folder import ABSENT, QUEUED, RUNNING, State, ended
from src.hosts.mirror import Location, answer_of
from src.hosts.slurm import SlurmRuntime
from src.worker.protocol import CANCELLED
from tests.unit.hosts.test_local_job import HERE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's folder, and a squeue that prints what the file `states` holds, or fails without it."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\ncat "{tmp_path}/states"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:/usr/bin:/bin")
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
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
    for second, name in enumerate(files):
        (folder / name).touch()
        os.utime(folder / name, (0, 1000 + second))
    assert state(folder) == expected


def test_requeued_job_waits_for_its_new_worker(folder: Path) -> None:
    """Of the worker before, there are events and no fresh heartbeat."""
    for name, written_at in (("slurm.id", 1000), ("events.jsonl", 2000)):
        (folder / name).touch()
        os.utime(folder / name, (0, written_at))
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
    folder.rmdir()
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
