"""`task=stage job=FOLDER`: a job folder with everything that a worker needs, to be run by hand where no link leads.

launchers/run_job.sh runs it, `task=collect` takes its results into the run that was created here.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ..errors import ExitCode, InputError
from ..files import bundled, relative, write_atomic
from ..hosts.job_folder import JobPaths, open_job
from ..planning.plan import Plan
from ..run_folder import RunPaths, locked
from ..runs import staging
from ..runs.outcomes import RunJournal
from ..runs.upsampling import never_sent
from ..text import path_override, run_command
from . import Invocation
from .resolving import saved_plan


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when every item is staged, 3 when some cannot be."""
    config, paths = invocation.config, invocation.paths
    if not config.job:
        raise InputError("task=stage: which folder?", hint="name a new one: job=FOLDER")
    if config.run or config.resume:
        raise InputError("task=stage: starts a run of its own", hint="leave run= and resume= out")
    job = JobPaths(Path(config.job))
    if job.job.exists():
        raise InputError(f"job={config.job}: is a job folder already", hint="name a new folder")
    with locked(paths, config.output.lock_timeout_s):
        plan = saved_plan(invocation)
        staged = _stage(plan, job, paths, invocation)
    invocation.print(f"{staged} of {len(plan.items)} items staged in {job.root}")
    collect = f"{run_command('task=collect run', paths.root)} {path_override('job', job.root)}"
    launcher = shlex.quote(str(relative(bundled("launchers/run_job.sh"))))
    invocation.print(f"run           {launcher} {shlex.quote(str(job.root))} [IMAGE [CHECKPOINT]]")
    invocation.print(f"collect       {collect}")
    return ExitCode.OK if staged == len(plan.items) else ExitCode.INCOMPLETE


def _stage(plan: Plan, job: JobPaths, paths: RunPaths, invocation: Invocation) -> int:
    """Render and stage all items that run; how many of the plan's items that is. The others end here."""
    open_job(job, staging.upsample_job(plan))
    journal, done = RunJournal(paths.journal), 0
    missing = {item_id for batch in plan.batches for item_id in batch}
    try:
        journal.add(never_sent(item) for item in plan.never_sent())
        with invocation.progress() as progress:
            for batch in staging.stage(plan, missing, job, staging.Stop()):
                done += batch.count
                progress.step("hints", done, len(missing))
                journal.add(batch.lost)
        ended = journal.outcomes
    finally:
        journal.close()
    write_atomic(job.closed, "")
    return sum(item_id not in ended for item_id in plan.ids)
