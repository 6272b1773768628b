"""A job on this machine: the worker is a process that reads the very folder that is staged, and survives the controller."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .. import log
from ..errors import HostError
from ..interrupts import interrupts_deferred
from ..planning import gpus
from ..worker.journal import read_records
from ..worker.protocol import REFUSED, Ended, Event
from .job_folder import BEATS, RUNNING, JobPaths, JobStatus, State, pace, state_by_exit_record
from .launch import Launch

START_S = 5.0  # until a worker has the lock; one that takes longer counts as running, and is judged by its heartbeat


class LocalJob:
    """One job on this machine."""

    poll_s = 0.05
    sent_bytes = 0
    survives_controller = False

    def __init__(self, launch: Launch, job: JobPaths) -> None:
        self.name, self.silent_s, self.job = launch.host.name, launch.host.silent_s, job
        self.argv = launch.command(str(job.root.resolve()))
        self.visible = gpus.environment(launch.host.gpus)
        self._child: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None: ...

    def push(self) -> None: ...

    def start(self) -> None:
        """Start a worker in a session of its own, so that the controller's end is not its end."""
        self.job.exit.unlink(missing_ok=True)
        self.job.cancelled.unlink(missing_ok=True)
        with open(self.job.log, "ab") as printed, interrupts_deferred():
            try:
                self._child = subprocess.Popen(
                    self.argv, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True,
                    env={**os.environ, **self.visible},
                )  # fmt: skip
            except OSError as e:
                raise HostError(f"the worker cannot be started: {self.argv[0]}: {e.strerror}") from e
        until = time.monotonic() + START_S
        while self._child.poll() is None and not self.job.is_held and time.monotonic() < until:
            time.sleep(0.01)

    def poll(self) -> State:
        """Running while a worker holds the lock, also one that another controller started."""
        if self.job.is_held:
            self.job.renew_lease()
            return RUNNING
        if self._child and self._child.poll() is None:  # it has not taken the lock yet, or is about to end
            return RUNNING
        return state_by_exit_record(self.job)

    def peek(self) -> JobStatus:
        answered = {r.id for r in read_records(self.job.results, Ended, log.left_out) if r.state != REFUSED}
        events = list(read_records(self.job.events, Event, log.left_out))
        phases = [e.phase for e in events if e.event == "phase"]
        beats = [e for e in events if e.event == "heartbeat"][-BEATS:]
        return JobStatus(self.poll(), len(answered), phases[-1] if phases else "", *pace(beats, time.time()))

    def ask_to_stop(self) -> None:
        self.job.cancelled.touch()
        if self._child and self._child.poll() is None:  # also one that does not hold the job yet
            self._child.terminate()
        elif self.job.is_held:
            for pid in workers_in(self.job):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        for pid in workers_in(self.job):  # also one that froze before it took the lock
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # it leads a session of its own

    def was_cancelled(self) -> bool:
        return self.job.cancelled.exists()

    def fetch(self, sizes: Mapping[str, int]) -> None: ...

    def fetch_logs(self) -> None: ...

    def fail_fast(self) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


def workers_in(job: JobPaths) -> list[int]:
    """The processes that were started as workers of this job: by their command lines, for the number in a lock file may be
    that of any process by now."""
    program = os.fsencode(job.worker.resolve())
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if program in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
