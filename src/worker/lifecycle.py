"""The life of a worker in a job folder, the same for every kind of job: lock, signals, time limit, journals, exit.json."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from .journal import Journal, write_json
from .protocol import BUG, CANCELLED, HEARTBEAT_S, LOAD_FAILED, LOCKED, NO_ACCESS, OK, TIMEOUT, UNAVAILABLE, Event, Exit

LOCK_PATIENCE_S = 1.0
NO_LOCKS = (
    "the file system has no locks (flock); Lustre has them with the mount option flock, NFS with its lock service"
)
ONE_WORKER = {
    "SLURM_JOB_ID",
    "JOB_COMPLETION_INDEX",
}  # variables of what starts a worker again, and seldom a second one


class LoadFailed(Exception):
    """What the job needs could not be started; the message holds its own last lines."""

    code, state = LOAD_FAILED, "load_failed"


class NotThere(LoadFailed):
    """A server cannot be reached."""

    code, state = UNAVAILABLE, "unavailable"


class NoAccess(LoadFailed):
    """A server refuses the key, or there is none."""

    code, state = NO_ACCESS, "no_access"


class Stopped(Exception):
    """The worker was asked to end while it was loading."""


class Control:
    """Whether the worker was asked to end, and why."""

    def __init__(self) -> None:
        self.stop = threading.Event()  # nothing new is started
        self.timed_out = False
        self._loading = False

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """A block that a request to end breaks off, by raising Stopped in the main thread."""
        if self.stop.is_set():
            raise Stopped
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    def on_stop(self, *_: object) -> None:
        """Signal handler, in the main thread: start nothing new, break off a load."""
        self.stop.set()
        if self._loading:
            self._loading = False
            raise Stopped

    def on_timeout(self, *_: object) -> None:
        """Signal handler: the job's time limit is reached."""
        self.timed_out = True
        self.on_stop()

    def exit_of(self, missing: Collection[str], expects_more: bool = False) -> Exit:
        """The end of a worker that was not interrupted by an error; missing: ids of the items that it left; expects_more:
        whether items could still have come, so that a worker that was asked to end is not done."""
        if not (self.stop.is_set() and (missing or expects_more)):
            return Exit(OK, "done", not_started=tuple(missing))
        code, state = (TIMEOUT, "timeout") if self.timed_out else (CANCELLED, "cancelled")
        return Exit(code, state, not_started=tuple(missing))


class JobLog:
    """The journals of a job folder: results.jsonl and events.jsonl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = Journal(folder / "results.jsonl")
        self.events = Journal(folder / "events.jsonl")

    def phase(self, name: str, **facts: Any) -> None:
        """Write down that a phase begins; facts: fields of `Event`."""
        self.events.append(Event("phase", round(time.time(), 3), phase=name, **facts))

    def window(self, **facts: Any) -> None:
        """Write down how many requests may be in flight, and why."""
        self.events.append(Event("window", round(time.time(), 3), **facts))

    def busy(self, reason: str) -> None:
        """Write down why the engine answers nothing at the moment."""
        self.events.append(Event("busy", round(time.time(), 3), reason=reason))

    def heartbeat(self, **facts: Any) -> None:
        """Write down that the worker lives, and end it where that is wanted, for not every controller reaches its process."""
        try:
            self.events.append(Event("heartbeat", round(time.time(), 3), **facts))
        finally:
            if (self.folder / "cancelled").exists() or not self.folder.exists():
                os.kill(os.getpid(), signal.SIGTERM)


def left_out(what: str) -> None:
    """A damaged line is left out; worker.log names it."""
    print(f"left out: {what}", file=sys.stderr, flush=True)


class Work(Protocol):
    """What a worker does with its job folder."""

    time_limit_s: float

    @property
    def answered(self) -> int:
        """How many items have ended."""

    def run(self) -> Exit:
        """Do what is missing. Raises LoadFailed when what it needs cannot be started."""


def run(folder: Path, prepare: Callable[[Path, Control], Work]) -> int:
    """Work in a job folder until it is done; returns the exit code, which exit.json has too."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            is_ours = take_lock(lock, folder)
        except OSError as e:
            reason = f"{folder}: {e.strerror}: {NO_LOCKS}"
            write_json(folder / "exit.json", Exit(LOAD_FAILED, "load_failed", reason))
            return LOAD_FAILED
        if not is_ours:
            print(f"{folder}: another worker holds this job", file=sys.stderr)
            return LOCKED
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return _run_locked(folder, prepare)
    finally:
        os.close(lock)


def _run_locked(folder: Path, prepare: Callable[[Path, Control], Work]) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "exit.json")  # of an earlier attempt
    work, control = None, Control()
    signal.signal(signal.SIGTERM, control.on_stop)
    signal.signal(signal.SIGALRM, control.on_timeout)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller's Ctrl-C is not meant for the worker
    try:
        work = prepare(folder, control)
        signal.setitimer(signal.ITIMER_REAL, work.time_limit_s)
        try:
            end = work.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except LoadFailed as e:
        end = Exit(e.code, e.state, str(e))
    except Exception as e:
        end = Exit(BUG, "failed", f"{type(e).__name__}: {e}")
    answered = work.answered if work else 0
    write_json(folder / "exit.json", Exit(end.code, end.state, end.reason, end.not_started, answered))
    return end.code


def take_lock(lock: int, folder: Path) -> bool:
    """Hold the lock; a controller that tests whether it is held has it for an instant, hence the patience. Raises OSError where the
    file system has no locks, unless something else starts the workers there: then the last heartbeat tells whether one runs."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        except OSError:
            if not os.environ.keys() & ONE_WORKER:
                raise
            return folder_time(folder) - written_at(folder / "events.jsonl") > 5 * HEARTBEAT_S
        else:
            return True


def folder_time(folder: Path) -> float:
    """The time now by the clock of whoever keeps a job folder, which may not be this machine, nor have its clock."""
    os.utime(folder / "lock")
    return written_at(folder / "lock")


def written_at(file: Path) -> float:
    """When a file was written last; 0 for none."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
