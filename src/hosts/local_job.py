"""A job on this machine: the worker is a process that reads the very folder that we stage, and outlives us."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from launchers import worker

from ..errors import HostError
from ..planning import gpus
from ..planning.settings import Settings
from .job_folder import RUNNING, Glance, JobPaths, State, state_by_exit_record

PROJECT = Path(__file__).resolve().parent.parent.parent


def worker_argv(settings: Settings, job: Path) -> tuple[str, ...]:
    """The command that works off a job folder here. Engines that need no package of their own run in our interpreter."""
    if settings.engine.name == "offline":
        return (sys.executable, "-P", "-m", "src.offline", str(job))  # -P: a `src` where the person stands is not ours
    python = sys.executable if settings.engine.name == "endpoint" else settings.python
    return (python, worker.__file__, str(job))


class LocalSite:
    """This machine: the worker is a process that reads the very folder that we stage."""

    poll_s = 0.05
    sent_bytes = 0
    goes_on_without_us = False

    def __init__(self, settings: Settings, job: JobPaths, argv: tuple[str, ...]) -> None:
        self.name, self.job, self.argv = settings.place.name, job, argv
        self.shown = gpus.environment(settings.place.gpus)
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        pass

    def push(self) -> None:
        pass

    def start(self) -> None:
        """Start a worker in a session of its own, so that our end is not its end."""
        self.job.exit.unlink(missing_ok=True)
        self.job.cancelled.unlink(missing_ok=True)
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **self.shown}
        with open(self.job.log, "ab") as said, _undisturbed():
            try:
                self._child = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as e:
                raise HostError(f"the worker cannot be started: {self.argv[0]}: {e.strerror}") from e
        while self._child.poll() is None and not self._is_held():
            time.sleep(0.01)

    def look(self) -> State:
        """Running while a worker holds the lock, also one that somebody else started."""
        if self._is_held():
            return RUNNING
        if self._child and self._child.poll() is None:  # it let go of the lock and is about to end
            self._child.wait()
        return state_by_exit_record(self.job)

    def glance(self) -> Glance:
        ended_items = {r["id"] for r in worker.read_records(self.job.results) if r["state"] != worker.REFUSED}
        phases = [e["phase"] for e in worker.read_records(self.job.events) if e["event"] == "phase"]
        return Glance(self.look(), len(ended_items), phases[-1] if phases else "")

    def _is_held(self) -> bool:
        try:
            fd = os.open(self.job.lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def ask_to_stop(self) -> None:
        self.job.cancelled.touch()
        if self._child and self._child.poll() is None:  # also one that does not hold the job yet
            self._child.terminate()
        elif self._is_held():
            os.kill(int(self.job.lock.read_text()), signal.SIGTERM)

    def was_cancelled(self) -> bool:
        return self.job.cancelled.exists()

    def fetch(self, names: Collection[str]) -> None:
        pass

    def give_up_waiting(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C waiting, so that it cannot come between the start of a process and our knowing of it.

    A signal mask would not do: with several threads, another one takes the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(came[0], None)
