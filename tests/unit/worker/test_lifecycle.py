"""The lifecycle of a worker: its lock, its signals, its exit record."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from src.worker import lifecycle
from src.worker.lifecycle import Control, JobLog, LoadFailed, NoAccess, NotThere, Stopped, run
from src.worker.protocol import BUG, CANCELLED, LOAD_FAILED, LOCKED, NO_ACCESS, OK, TIMEOUT, UNAVAILABLE, Exit
from tests.harness.fake_engine import exit_record
from tests.harness.records import journal_lines


class FakeWork:
    """Work that is one function of the controls."""

    def __init__(self, action: Callable[[Control], Exit], control: Control, time_limit_s: float = 0.0) -> None:
        self.action, self.control, self.time_limit_s, self.answered = action, control, time_limit_s, 2

    def run(self) -> Exit:
        return self.action(self.control)


def run_work(folder: Path, action: Callable[[Control], Exit], time_limit_s: float = 0.0) -> int:
    return run(folder, lambda folder, control: FakeWork(action, control, time_limit_s))


def ends(control: Control) -> Exit:
    return control.exit_of(())


def signals_itself(number: int, missing: tuple[str, ...]) -> Callable[[Control], Exit]:
    """Work during which a signal arrives."""

    def action(control: Control) -> Exit:
        os.kill(os.getpid(), number)
        assert control.stop.wait(5)
        return control.exit_of(missing)

    return action


# -------------------------------------------------------------------------------------------------------------- lock


def test_held_folder_is_refused_and_untouched(folder: Path) -> None:
    (folder / "exit.json").write_text("of the holder")
    with open(folder / "lock", "w") as held:
        held.write("4711")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_work(folder, ends) == LOCKED == 75
    assert (folder / "lock").read_text() == "4711"
    assert (folder / "exit.json").read_text() == "of the holder"


def test_brief_test_of_the_lock_is_tolerated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "LOCK_PATIENCE_S", 20.0)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    tester = threading.Timer(0.03, os.close, [fd])
    tester.start()
    assert run_work(folder, ends) == OK
    tester.join()


def test_lock_names_the_process_and_is_released(folder: Path) -> None:
    for _ in range(2):
        assert run_work(folder, ends) == OK
        assert (folder / "lock").read_text() == str(os.getpid())


# ------------------------------------------------------------------------------------------------------- exit record


def test_exit_record_exists_only_after_the_end(folder: Path) -> None:
    (folder / "exit.json").write_text('{"code": 1}')  # of an earlier attempt
    existed: list[bool] = []

    def action(control: Control) -> Exit:
        existed.append((folder / "exit.json").exists())
        return Exit(OK, "done", not_started=("a",))

    assert run_work(folder, action) == OK
    assert existed == [False]
    assert exit_record(folder) == {"code": 0, "state": "done", "reason": "", "not_started": ["a"], "answered": 2}


@pytest.mark.parametrize(
    ("error", "code", "state", "reason"),
    [
        (LoadFailed("CUDA out of memory"), LOAD_FAILED, "load_failed", "CUDA out of memory"),
        (NotThere("no route"), UNAVAILABLE, "unavailable", "no route"),
        (NoAccess("no key"), NO_ACCESS, "no_access", "no key"),
        (ZeroDivisionError("a bug"), BUG, "failed", "ZeroDivisionError: a bug"),
    ],
)
def test_error_is_the_reason_of_the_end(folder: Path, error: Exception, code: int, state: str, reason: str) -> None:
    def action(control: Control) -> Exit:
        raise error

    assert run_work(folder, action) == code
    end = exit_record(folder)
    assert (end["code"], end["state"], end["reason"], end["answered"]) == (code, state, reason, 2)


def test_failed_preparation_is_recorded_too(folder: Path) -> None:
    def prepare(folder: Path, control: Control) -> FakeWork:
        raise LoadFailed("no such engine")

    assert run(folder, prepare) == LOAD_FAILED
    assert exit_record(folder)["reason"] == "no such engine"


# ----------------------------------------------------------------------------------------------------------- signals


def test_sigterm_stops_and_lists_what_is_left(folder: Path) -> None:
    assert run_work(folder, signals_itself(signal.SIGTERM, ("b", "c"))) == CANCELLED == 143
    assert (exit_record(folder)["state"], exit_record(folder)["not_started"]) == ("cancelled", ["b", "c"])


def test_sigterm_while_preparing_is_remembered(folder: Path) -> None:
    def prepare(folder: Path, control: Control) -> FakeWork:
        os.kill(os.getpid(), signal.SIGTERM)
        return FakeWork(lambda control: control.exit_of(("a",)), control)

    assert run(folder, prepare) == CANCELLED


def test_sigterm_after_the_last_item_is_done(folder: Path) -> None:
    assert run_work(folder, signals_itself(signal.SIGTERM, ())) == OK


def test_sigint_is_ignored(folder: Path) -> None:
    def action(control: Control) -> Exit:
        os.kill(os.getpid(), signal.SIGINT)
        assert not control.stop.wait(0.02)
        return Exit(OK, "done")

    assert run_work(folder, action) == OK


def test_time_limit_is_a_timeout(folder: Path) -> None:
    def action(control: Control) -> Exit:
        assert control.stop.wait(5)
        return control.exit_of(("a",))

    assert run_work(folder, action, time_limit_s=0.01) == TIMEOUT == 124
    assert exit_record(folder)["state"] == "timeout"


def test_stop_breaks_off_loading_only() -> None:
    control = Control()
    with pytest.raises(Stopped), control.loading():
        control.on_stop()
    control.on_stop()  # outside of loading it only asks
    assert control.stop.is_set()


def test_stopped_worker_does_not_load() -> None:
    control = Control()
    control.on_stop()
    with pytest.raises(Stopped), control.loading():
        pytest.fail("loading started")


# ---------------------------------------------------------------------------------------------------------- journals


def test_phases_and_heartbeats_are_events(folder: Path) -> None:
    log = JobLog(folder)
    log.phase("serving", load_s=1.5)
    log.heartbeat(beat=1, answered=3)
    phase, heartbeat = journal_lines(folder / "events.jsonl")
    assert {k: v for k, v in phase.items() if k not in ("time", "crc")} == {
        "event": "phase",
        "phase": "serving",
        "load_s": 1.5,
    }
    assert (heartbeat["event"], heartbeat["beat"], heartbeat["answered"]) == ("heartbeat", 1, 3)


@pytest.mark.parametrize("variable", ["", "SLURM_JOB_ID", "JOB_COMPLETION_INDEX"])
def test_folder_without_locks_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """As of a Lustre without the mount option; a scheduler starts no second worker, so it does without."""
    for name in lifecycle.ONE_WORKER:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "7")

    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run_work(folder, ends) == (OK if variable else LOAD_FAILED)
    assert variable or "mount option flock" in exit_record(folder)["reason"]
    if variable:  # another worker is alive there
        JobLog(folder).heartbeat(beat=1)
        assert run_work(folder, ends) == LOCKED
