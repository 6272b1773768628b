"""A worker as a job of Slurm: the states that Slurm's words mean. tests/e2e/test_slurm.py asks a real one."""

from __future__ import annotations

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


def state(folder: Path) -> State:
    host = LocalHost()
    runtime = SlurmRuntime(host, replace(HERE), Location(str(folder.parent), str(folder), "0:0"))
    return runtime.state(answer_of(host, runtime.question()))


@pytest.mark.parametrize(
    ("words", "files", "expected"),
    [
        ("PENDING\n", ("slurm.id",), QUEUED),
        ("REQUEUE_HOLD\n", ("slurm.id", "exit.json"), QUEUED),
        ("RUNNING\n", ("slurm.id",), RUNNING),
        ("COMPLETING\n", ("slurm.id", "exit.json", "events.jsonl"), RUNNING),
        ("", (), ABSENT),
        ("", ("slurm.id",), State("ended")),
        ("", ("slurm.id", "cancelled", "exit.json"), State("ended")),
        ("", ("slurm.id", "cancelled"), ended(CANCELLED)),
    ],
)
def test_state_is_what_slurm_says(folder: Path, words: str, files: tuple[str, ...], expected: State) -> None:
    (folder.parent / "states").write_text(words)
    for name in files:
        (folder / name).touch()
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
