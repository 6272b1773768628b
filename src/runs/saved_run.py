"""What lies in a run folder: its plan, its jobs."""

from __future__ import annotations

from ..errors import InputError
from ..files import appearing
from ..hosts.host_job import HostSite
from ..hosts.job_folder import JobPaths
from ..hosts.job_handle import Site, site_for
from ..planning.partition import shards
from ..planning.plan import Plan
from ..planning.plan_file import read_plan, write_plan
from ..run_folder import RunPaths
from ..text import command_line
from .staging import job_id


def refuse_another_run(plan: Plan, paths: RunPaths) -> None:
    """Raises InputError where the folder holds the answers of a run that asked something else."""
    if paths.journal.exists() and paths.plan.exists():
        before = [item.id for item in read_plan(paths.plan).items]
        if before != [item.id for item in plan.items]:
            raise InputError(
                f"{paths.root}: holds another run already, of {len(before)} items",
                hint=f"name another folder; that run goes on with  {command_line('resume', paths.root)}",
            )


def save_plan(plan: Plan, paths: RunPaths) -> None:
    with appearing(paths.plan) as f:
        write_plan(plan, f)


def jobs_of(paths: RunPaths) -> tuple[Plan, list[tuple[Plan, JobPaths]]]:
    """The plan of a run, and its jobs with each one's part of it; InputError when nothing was ever staged.

    A run that a worker of another version began has jobs of other names: then its newest one stands for all.
    """
    plan = read_plan(paths.plan)
    parts = [(part, JobPaths(paths.jobs / job_id(part.items, part.settings))) for part in shards(plan)]
    found = [(part, job) for part, job in parts if job.job.exists()]
    others = sorted(paths.jobs.glob("*/job.json"), key=lambda p: p.stat().st_mtime)
    if not others:
        raise InputError(f"{paths.root}: nothing was started in this run yet", hint="resume it")
    return plan, found or [(plan, JobPaths(others[-1].parent))]


def opened(plan: Plan, job: JobPaths) -> Site:
    """The place of a job, ready to be looked at."""
    return looked_at(site_for(plan, job))


def looked_at(site: Site) -> Site:
    """A place, ready to be looked at."""
    if isinstance(site, HostSite):
        site.give_up_waiting()  # who asks wants an answer now
        site.locate()
    return site
