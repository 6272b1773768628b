"""A job whose worker runs in this process: at each start, until it has nothing to do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from src.hosts.job_folder import JobPaths, JobStatus, State, state_by_exit_record
from src.worker import lifecycle

Prepare = Callable[[Path, lifecycle.Control], lifecycle.Work]


class InProcessJob:
    """The handle of such a job. prepare: what a worker does with its job folder; starts: how many workers ran."""

    name, poll_s, silent_s, sent_bytes, survives_controller = "here", 0.0, 0.0, 0, False

    def __init__(self, job: JobPaths, prepare: Prepare) -> None:
        self.job, self._prepare = job, prepare
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
        handlers = {number: signal.getsignal(number) for number in numbers}
        try:
            lifecycle.run(self.job.root, self._prepare)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def poll(self) -> State:
        return state_by_exit_record(self.job)

    def peek(self) -> JobStatus:
        return JobStatus(self.poll(), 0, "")

    def was_cancelled(self) -> bool:
        return False

    def prepare(self) -> None: ...
    def push(self) -> None: ...
    def ask_to_stop(self) -> None: ...
    def fetch(self, sizes: Mapping[str, int]) -> None: ...
    def fetch_logs(self) -> None: ...
    def fail_fast(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...
