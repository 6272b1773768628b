"""Where a job runs: its folder on a host, and how the worker lives there (a process or a container).

A site is looked at, never asked to remember: whether the worker runs, how it ended and what it wrote is read anew from
the host each time, so that it is the same whether we started it, came back, or look from another machine.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..planning.plan import Plan
from .connect import connect
from .host_job import HostSite, Launch, worker_launch
from .job_folder import Glance, JobPaths, State
from .local_job import LocalSite, worker_argv


class Site(Protocol):
    """What `execute` needs of a place. Every call may raise HostError; `look` and `push` go on over a lost link."""

    name: str
    poll_s: float
    sent_bytes: int  # that travelled so far
    goes_on_without_us: bool  # what Ctrl-C means: leave, or stop the worker

    def prepare(self) -> None:
        """Check the place before anything is staged, and make the job's folder there."""

    def push(self) -> None:
        """Bring what is staged in the local job folder to where the worker sees it."""

    def start(self) -> None:
        """Start a worker; it is nobody's child, and a second one refuses by itself."""

    def look(self) -> State:
        """How the worker stands. What it wrote until then is in the local job folder afterwards."""

    def glance(self) -> Glance:
        """How the job stands, for somebody who only looks: our copies stay as they are."""

    def ask_to_stop(self) -> None:
        """The worker finishes what is in flight and ends."""

    def was_cancelled(self) -> bool:
        """Whether the worker's end was asked for, by us or by another controller."""

    def fetch(self, names: Collection[str]) -> None:
        """Bring files that the job made, by their names in its folder, into the local job folder."""

    def give_up_waiting(self) -> None:
        """From now on a lost link is not waited for."""

    def finish(self) -> None:
        """The job is done and its results are safe here: take the logs, leave nothing behind."""

    def close(self) -> None: ...


def site_for(plan: Plan, job: JobPaths) -> Site:
    """The place that the plan names for a job."""
    return place_for(worker_launch(plan), job, worker_argv(plan.settings, job.root))


def place_for(launch: Launch, job: JobPaths, here: tuple[str, ...]) -> Site:
    """The place that the settings name for whatever is launched; here: its command as a plain process on this machine."""
    settings = launch.settings
    if settings.place.kind == "local" and not settings.container.reference:
        return LocalSite(settings, job, here)
    return HostSite(launch, job, connect(settings.place))
