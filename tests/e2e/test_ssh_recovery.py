"""Controllers and workers of runs over SSH that are killed, and a host whose disk is full."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.processes import has_ended
from tests.harness.program import Ended, wait_for
from tests.harness.remote import Remote, RemoteRun

MOMENTS: dict[str, Callable[[Remote, RemoteRun], object]] = {
    "before staging": lambda remote, run: (run.folder / "plan.json").exists(),
    "while staging": lambda remote, run: remote.jobs(),
    "while running": lambda remote, run: len(remote.answered()) >= 3,
    "after the last answer": lambda remote, run: len(remote.answered()) == 12,
}


def test_controller_killed_in_each_phase_resumes(remote: Remote) -> None:
    remote.proxied(delay_s=0.05)  # so that staging takes long enough to be hit
    run = RemoteRun(remote, 12, "budget.max_batch_size=4")
    remote.server.allow(0)
    process = run.start()
    for moment, has_come in MOMENTS.items():
        remote.server.allow({"while running": 3, "after the last answer": 12}.get(moment, 0))
        wait_for(lambda: has_come(remote, run), step_s=0.002)  # noqa: B023 - called at once
        process.kill()
        process = remote.start(f"resume={run.folder}")
    run.assert_whole(process.ended())
    assert run.loads() == 1
    assert remote.workers() == []


def test_killed_worker_restarts_and_asks_nothing_twice(remote: Remote) -> None:
    run = RemoteRun(remote)
    process = run.after_answers(3)
    [worker] = remote.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: has_ended(worker))
    remote.server.allow()
    end = process.ended()
    run.assert_whole(end)
    assert run.loads() == 2
    assert "is restarted" in end.err


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def resize(remote: Remote) -> Iterator[Callable[[str], None]]:
    """A function that gives the host's root a disk of its own of some size, or changes its size."""
    remote.root.mkdir()

    def resize(size: str) -> None:
        mounted = remote.root.is_mount()
        options = ["-o", f"remount,size={size}"] if mounted else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        done = subprocess.run(["mount", *options, str(remote.root)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")

    yield resize
    if remote.root.is_mount():
        subprocess.run(["umount", "-l", str(remote.root)], check=True)


def fill(folder: Path) -> Path:
    """Use up the disk of a folder with one file."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):  # no space left
        while True:
            f.write(b"\0" * 4096)
    return filler


def assert_full(end: Ended) -> None:
    assert end.code == 4, end.err
    assert "full" in end.err or "no space" in end.err.lower()


def test_full_disk_while_sending_is_resumable(remote: Remote, resize: Callable[[str], None]) -> None:
    resize("8m")
    remote.proxied(delay_s=0.1)
    run = RemoteRun(remote, offline=True)
    process = run.start()
    wait_for(remote.jobs, step_s=0.002)
    filler = fill(remote.root)
    assert_full(process.ended())
    filler.unlink()
    run.assert_whole(run.resumed())
