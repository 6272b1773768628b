"""`task=collect run=FOLDER job=FOLDER`: take the results of a job that was run by hand into its run."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ..errors import ExitCode, InputError
from ..hosts.job_folder import JobPaths
from ..planning.plan_file import read_plan
from ..reports.run_outputs import write_results
from ..reports.tables import print_end
from ..run_folder import RunPaths, locked
from ..runs.outcomes import RunJournal
from ..runs.upsampling import absorb
from ..text import resume_command
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when every item of the run is upsampled, 3 when some are not, or not yet."""
    config = invocation.config
    if not (config.run and config.job):
        raise InputError("task=collect: which run and job?", hint="name both: run=FOLDER job=FOLDER")
    paths, job = RunPaths(Path(config.run)), JobPaths(Path(config.job))
    if not job.job.is_file():
        raise InputError(f"job={config.job}: there is no job.json", hint="name the folder that task=stage created")
    with locked(paths, invocation.config.output.lock_timeout_s):
        plan = read_plan(paths.plan)
        with closing(RunJournal(paths.journal, plan.places)) as journal:
            if not job.staged() <= plan.distinct_ids:
                raise InputError(f"job={config.job}: is not a job of {paths.root}", hint="name the run of task=stage")
            new = absorb(job, journal)
        written = write_results(plan, journal.outcomes, paths, invocation.command, "did not end")
    invocation.print(f"{new} new results")
    print_end(plan, written.totals, paths, None, invocation.out, written.exported)
    if missing := len(plan.distinct_ids - journal.outcomes.keys()):
        invocation.print(
            f"{missing} items have no result: collect again, or upsample them with  {resume_command(paths.root)}"
        )
    return ExitCode.OK if written.totals.is_whole else ExitCode.INCOMPLETE
