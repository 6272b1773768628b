"""Child processes: groups that end with their parent, stale servers, reasons in logs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.worker.processes import (
    _group_members,
    _lives,
    end_child,
    end_group,
    failure_reason,
    free_port,
    guard_group,
    guard_group_gently,
    idle_cores,
    kill_marked,
    kill_stale_server,
    last_line,
)
from tests.harness.fake_engine import wait_until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a command in a process group of its own, which ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*argv: str | Path, **options: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes]
        started.append(process := subprocess.Popen(argv, start_new_session=True, **options))  # type: ignore[call-overload]
        command_line = Path(f"/proc/{process.pid}/cmdline")  # and what else is found by: empty until the kernel is done
        wait_until(lambda: process.poll() is not None or command_line.read_bytes())
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


# ---------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("guard", [guard_group, partial(guard_group_gently, mark="NOBODY=1")])
def test_group_dies_with_a_killed_parent(guard: Callable[[int], subprocess.Popen[bytes]]) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        child = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
        guard(child.pid)
        os.write(write, str(child.pid).encode())
        time.sleep(60)
    group = int(os.read(read, 20))
    wait_until(lambda: len(_group_members(group)) == 2)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: not _group_members(group))


def test_guard_finds_sessions_of_their_own(tmp_path: Path) -> None:
    """As torchrun's ranks have them, which it may not have time to end."""
    written, parent = tmp_path / "pid", os.fork()
    if parent == 0:
        other = f"setsid sh -c 'echo $$ > {written}.part; mv {written}.part {written}; exec sleep 60' & wait"
        child = subprocess.Popen(["sh", "-c", other], start_new_session=True, env=os.environ | {"MARK": str(tmp_path)})
        guard_group_gently(child.pid, f"MARK={tmp_path}")
        time.sleep(60)
    wait_until(written.exists)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: not _lives(int(written.read_text())))


def test_deaf_group_is_killed_after_patience(start: Start) -> None:
    process = start("sh", "-c", "trap '' TERM; echo; while :; do sleep 0.01; done", stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    end_group(process.pid, process, patience_s=0.05)
    assert process.poll() == -signal.SIGKILL


def test_leader_ends_the_others_of_its_group(start: Start, tmp_path: Path) -> None:
    """Only what the leader leaves is sent a signal."""
    other = f"trap 'echo signal >> {tmp_path}/others' TERM; echo; while [ ! -e {tmp_path}/end ]; do sleep 0.01; done"
    leader = f"trap 'touch {tmp_path}/end; wait; exit 5' TERM; sh -c \"{other}\" & while :; do sleep 0.01; done"
    process = start("sh", "-c", leader, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    end_group(process.pid, process)
    assert process.poll() == 5 and not (tmp_path / "others").exists()


def test_ending_a_group_that_ended_is_harmless(start: Start) -> None:
    process = start("true")
    process.wait()
    end_group(process.pid, process)


@pytest.mark.parametrize(
    ("script", "code"),
    [("exec sleep 60", -signal.SIGTERM), ("trap '' TERM; echo; while :; do sleep 0.01; done", -signal.SIGKILL)],
    ids=["obedient", "deaf"],
)
def test_child_is_ended_within_its_patience(start: Start, script: str, code: int) -> None:
    process = start("sh", "-c", script, stdout=subprocess.PIPE)
    if process.stdout and "trap" in script:
        process.stdout.readline()
    end_child(process, 0.05)
    assert process.poll() == code


# ----------------------------------------------------------------------------------------------------------- strays


def test_stale_server_is_ended(start: Start, tmp_path: Path) -> None:
    server = start("sh", "-c", "sleep 60; true", tmp_path)
    (tmp_path / "server.pid").write_text(str(server.pid))
    kill_stale_server(tmp_path)
    assert not is_alive(server)


@pytest.mark.parametrize("content", [None, "", "no number"])
def test_unknown_server_pid_is_ignored(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "server.pid").write_text(content)
    kill_stale_server(tmp_path)


def test_foreign_process_with_the_pid_survives(start: Start, tmp_path: Path) -> None:
    foreign = start("sleep", "60")
    (tmp_path / "server.pid").write_text(str(foreign.pid))
    kill_stale_server(tmp_path)
    assert is_alive(foreign)


def test_only_marked_processes_are_killed(start: Start, tmp_path: Path) -> None:
    marked = start("sleep", "60", env={**os.environ, "MY_MARK": str(tmp_path)})
    other = start("sleep", "60", env={**os.environ, "MY_MARK": f"{tmp_path}2"})
    kill_marked("MY_MARK", tmp_path)
    assert marked.wait(5) == -signal.SIGKILL
    assert is_alive(other)


def test_free_port_is_a_port() -> None:
    assert 1024 <= free_port() < 65536


@pytest.mark.parametrize(("mine", "load", "idle"), [(8, 0.9, 8), (8, 3.2, 7), (16, 3.2, 13), (8, 99.0, 1)])
def test_idle_cores_are_those_others_leave(monkeypatch: pytest.MonkeyPatch, mine: int, load: float, idle: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mine)))
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert idle_cores() == idle


# ------------------------------------------------------------------------------------------------------------- logs

LOG = """\
INFO 11-26 loading
(EngineCore pid=7) WARNING 11-26 low memory
(EngineCore pid=7) ERROR 11-26 torch.OutOfMemoryError: CUDA out of memory
INFO 11-26 shutting down after an Error
"""
LLAMACPP_LOG = """\
0.00.018.100 I srv          init: an Error is no error here
0.00.129.718 E llama_model_load: error loading model: it is incomplete
0.00.165.267 E srv    load_model: failed to load model
0.00.165.193 E llama_model_load: error loading model: it is incomplete
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (LOG, "(EngineCore pid=7) ERROR 11-26 torch.OutOfMemoryError: CUDA out of memory"),
        (LLAMACPP_LOG, "error: error loading model: it is incomplete | error: failed to load model"),
        ("one\n\ntwo\n", "one | two"),
        ("", ""),
        ("\n".join(f"Error {n}" for n in range(20)), " | ".join(f"Error {n}" for n in range(8, 20))),
    ],
    ids=["errors only", "llama.cpp", "without errors", "empty", "the last of many"],
)
def test_failure_reason_is_the_last_errors(tmp_path: Path, log: str, reason: str) -> None:
    path = tmp_path / "server.log"
    path.write_text("ERROR of an earlier start\n" + log)
    assert failure_reason(path, 26) == reason


@pytest.mark.parametrize(
    ("log", "line"),
    [(None, ""), ("", ""), ("one\ntwo\n\n", "two"), ("0%\r50%\r100%\n", "100%"), ("x" * 9000, "x" * 300)],
)
def test_last_line_is_the_last_visible_one(tmp_path: Path, log: str | None, line: str) -> None:
    path = tmp_path / "server.log"
    if log is not None:
        path.write_text(log)
    assert last_line(path) == line
