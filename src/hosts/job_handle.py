"""A job where it runs: what the rest of the program may ask of it, wherever that is.

A handle remembers nothing of the worker: whether it runs, how it ended and what it wrote is read from the host each time, so
that it is the same for the controller that started the job, for one that resumes it, and for one on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..planning.plan import Plan
from ..planning.settings import Settings
from .connect import connect
from .host_job import HostJob
from .job_folder import JobPaths, JobStatus, State
from .launch import Launch
from .local_job import LocalJob


class JobHandle(Protocol):
    """One job on its host. Every call may raise HostError; `push`, `poll` and `finish` wait until a lost link is restored.

    sent_bytes: that travelled so far. survives_controller: whether Ctrl-C detaches from the worker, or stops it. silent_s: how long
    a worker may go without a heartbeat; 0: for ever.
    """

    name: str
    poll_s: float
    silent_s: float
    survives_controller: bool

    @property
    def sent_bytes(self) -> int: ...

    def prepare(self) -> None:
        """Check the host before anything is staged, and create the job's folder there."""

    def push(self) -> None:
        """Bring what is staged in the local job folder to where the worker reads it."""

    def start(self) -> None:
        """Start a worker, detached; a second one refuses by itself."""

    def poll(self) -> State:
        """How the worker stands. What it wrote until then is in the local job folder afterwards."""

    def peek(self) -> JobStatus:
        """How the job stands, at once or not at all; the local copies of its files stay as they are."""

    def ask_to_stop(self) -> None:
        """The worker finishes what is in flight and ends."""

    def kill(self) -> None:
        """End a worker that does not react, whatever it has in flight."""

    def was_cancelled(self) -> bool:
        """Whether the worker's end was asked for, by this controller or another one."""

    def fetch(self, sizes: Mapping[str, int]) -> None:
        """Bring files that the job made, by their names in its folder and their sizes, into the local job folder."""

    def fetch_logs(self) -> None:
        """Bring what the worker and the engine printed into the local job folder."""

    def fail_fast(self) -> None:
        """From now on, do not wait for a lost link."""

    def finish(self) -> None:
        """The job is done and its results are safe here: take the logs, leave nothing behind."""

    def close(self) -> None: ...


def handle_for(launch: Launch, job: JobPaths) -> JobHandle:
    """The handle of a job where its launch puts it."""
    if launch.host.kind == "local" and not launch.image.reference:
        return LocalJob(launch, job)
    return HostJob(launch, job, connect(launch.host))


def handle_of_plan(plan: Plan, job: JobPaths, settings: Settings) -> JobHandle:
    """The handle of a job that upsamples. settings: those of the plan, with the machine and the GPUs of this job."""
    return handle_for(Launch.of(settings, plan.run_id), job)
