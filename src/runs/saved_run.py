"""What lies in a run folder: what kind of run it is, its plan, its jobs and their handles, and whether it may be used."""

from __future__ import annotations

from typing import Literal

from .. import seals
from ..errors import InputError
from ..hosts.job_folder import JobPaths
from ..planning.partition import Place, places
from ..planning.plan import Plan
from ..planning.plan_file import read_plan, write_plan
from ..run_folder import RunPaths
from ..text import resume_command
from .outcomes import Outcomes
from .run_record import record_plan
from .staging import jobs_for

Kind = Literal["upsample", "pipeline", "limits", "review"]


def kind_of(paths: RunPaths) -> Kind:
    """The task that resumes a run folder; a review only where all items have ended and some have been reviewed."""
    if paths.pipeline.exists():
        return "pipeline"
    if paths.points.exists():
        return "limits"
    if paths.review.exists() and paths.results.exists():
        known = Outcomes(paths.journal)
        if all(item_id in known for item_id in read_plan(paths.plan).ids):
            return "review"
    return "upsample"


def refuse_another_run(plan: Plan, paths: RunPaths) -> None:
    """Raises InputError where the folder holds the answers of a run that asked for something else."""
    if paths.journal.exists() and paths.plan.exists():
        before = read_plan(paths.plan).ids
        if before != plan.ids:
            raise InputError(
                f"{paths.root}: holds another run already, of {len(before)} items",
                hint=f"name another folder; to resume that run:  {resume_command(paths.root)}",
            )


def save_plan(plan: Plan, paths: RunPaths, name: str = "") -> None:
    """Write plan.json, and run.json for the list of runs."""
    with seals.open_sealed(paths.plan) as f:
        write_plan(plan, f)
    record_plan(plan, paths, name)


def jobs_of(paths: RunPaths) -> tuple[Plan, list[tuple[Place, JobPaths]]]:
    """The plan of a run, and its jobs with the place of each; InputError when nothing was ever staged."""
    plan = read_plan(paths.plan)
    found = [(place, jobs[-1]) for place in places(plan) if (jobs := jobs_for(plan, paths.jobs, place.name))]
    if plan.settings.host.kind == "ray":
        raise InputError(
            f"{paths.root}: a run on Ray has no jobs of its own", hint="it ends with its controller: Ctrl-C"
        )
    if not found:
        raise InputError(
            f"{paths.root}: nothing was started in this run yet", hint=f"start it:  {resume_command(paths.root)}"
        )
    return plan, found
