"""A worker that something else starts: how it stands, by the files of its folder, and what a launcher does with them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import LinkLost
from src.files import bundled
from src.hosts.host import LocalHost
from src.hosts.job_folder import ABSENT, QUEUED, RUNNING, State, ended
from src.hosts.mirror import Location, answer_of
from src.hosts.shared_pool import LOST_S, PoolRuntime
from src.worker.protocol import CANCELLED
from tests.unit.hosts.test_local_job import HERE

JOB = "0123456789abcdef"
LAUNCHER = bundled("launchers/pool_worker.sh")
Run = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "jobs" / JOB
    made.mkdir(parents=True)
    return made


@pytest.fixture
def runtime(folder: Path) -> PoolRuntime:
    return PoolRuntime(LocalHost(), replace(HERE), Location(str(folder.parents[1]), str(folder), "0:0"))


def state(runtime: PoolRuntime) -> State:
    return runtime.state(answer_of(runtime.host, runtime.question()))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((), QUEUED),
        (("events.jsonl",), RUNNING),
        (("events.jsonl", "closed", "cancelled"), RUNNING),
        (("events.jsonl", "exit.json"), State("ended")),
        (("cancelled",), ended(CANCELLED)),
        (("closed",), QUEUED),
    ],
)
def test_files_tell_how_it_stands(runtime: PoolRuntime, files: tuple[str, ...], expected: State) -> None:
    for name in files:
        (Path(runtime.location.folder) / name).touch()
    assert state(runtime) == expected


def test_worker_without_heartbeat_is_awaited(runtime: PoolRuntime, folder: Path) -> None:
    (folder / "events.jsonl").touch()
    os.utime(folder / "events.jsonl", (0, time.time() - LOST_S - 1))
    assert state(runtime) == QUEUED


def test_removed_folder_is_absent(runtime: PoolRuntime, folder: Path) -> None:
    folder.rmdir()
    assert state(runtime) == ABSENT


@pytest.fixture
def launch(folder: Path) -> Run:
    """Start the launcher with a worker that is some lines of shell."""

    def started(worker: str) -> subprocess.Popen[str]:
        python = folder.parents[1] / "python"
        python.write_text(f"#!/bin/sh\ncd $2\necho x >> starts\n{worker}\n")
        python.chmod(0o755)
        argv = ("sh", str(LAUNCHER), str(folder.parents[1]), str(python), JOB)
        for name in ("job.json", "worker.pyz"):
            (folder / name).touch()
        return subprocess.Popen(argv, env={**os.environ, "WORKER": "0"}, stdout=subprocess.PIPE, text=True)

    return started


@pytest.mark.parametrize(
    ("worker", "code", "starts"),
    [
        ("exit 0", 0, 1),
        ("touch exit.json; exit 7", 7, 1),
        ("[ $(grep -c x starts) -gt 1 ] || kill -KILL $$; exit 0", 0, 2),  # it was killed: again
        ("touch cancelled exit.json; exit 143", 0, 1),
    ],
)
def test_launcher_starts_what_was_killed(launch: Run, folder: Path, worker: str, code: int, starts: int) -> None:
    assert launch(worker).wait(20) == code
    assert len((folder / "starts").read_text()) == 2 * starts


def test_launcher_passes_sigterm_on(launch: Run, folder: Path) -> None:
    process = launch("trap 'touch asked exit.json; exit 143' TERM; while :; do sleep 0.05; done")
    while not (folder / "starts").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.terminate()
    assert process.wait(20) == 143 and (folder / "asked").exists()


def test_launcher_ends_after_its_run(launch: Run, runtime: PoolRuntime, folder: Path) -> None:
    runtime.remove()
    assert launch("exit 1").wait(20) == 0 and not (folder / "starts").exists()
    runtime.start()
    assert launch("exit 0").wait(20) == 0 and (folder / "starts").exists()


def test_disk_that_is_away_is_a_lost_link(runtime: PoolRuntime) -> None:
    with pytest.raises(LinkLost, match="the shared disk does not answer"):
        runtime.state("away\n")


def test_worker_that_comes_after_cancel_ends(launch: Run, runtime: PoolRuntime, folder: Path) -> None:
    """It was asked to stop before its folder was there: a controller had not come yet."""
    folder.rmdir()
    runtime.ask_to_stop()
    folder.mkdir()
    assert launch("exit 1").wait(20) == 0 and not (folder / "starts").exists()
    assert state(runtime) == ended(CANCELLED)  # and so a controller that resumes the run starts it
    runtime.start()
    assert state(runtime) == QUEUED
    assert launch("exit 0").wait(20) == 0 and (folder / "starts").exists()


@pytest.mark.parametrize(
    ("state", "is_requeued"),
    [
        ("RUNNING None", True), ("COMPLETING None", False), ("COMPLETING TimeLimit", True), ("", False),
        ("'' >&2; exit 1", True),
    ],
)  # fmt: skip
def test_array_element_alone_is_queued_again(
    launch: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, state: str, is_requeued: bool
) -> None:
    """At its time limit; one that was canceled does not run any more. Slurm's programs are fakes."""
    programs = folder.parents[1] / "bin"
    programs.mkdir()
    for name, line in {"squeue": f"echo {state}", "scontrol": f'echo "$@" >> {folder}/asked'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "7", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    process = launch("trap 'touch exit.json; exit 143' TERM; touch ready; while :; do sleep 0.05; done")
    while not (folder / "ready").exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(20) == 143
    asked = folder / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7_0\n" if is_requeued else "")
