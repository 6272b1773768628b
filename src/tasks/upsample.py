"""`task=upsample`: plan, render, ask, report; with resume=, a run continues where it stopped."""

from __future__ import annotations

from pathlib import Path

from .. import log
from ..choices import Retry, TaskName
from ..errors import Detached, EngineError, ExitCode, HostError
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.run_outputs import versions, workers_of, write_results, written_before
from ..reports.tables import advice, print_end
from ..reports.totals import Totals
from ..run_folder import RunPaths, locked
from ..runs.outcomes import Outcomes
from ..runs.run_record import record_more
from ..runs.upsampling import execute, retryable
from ..text import printable, resume_command, run_command
from ..timing import estimates
from ..timing.phases import Measured, Stopwatch, add_start
from ..timing.workload import work_of
from . import Invocation
from .checkpoints import SOON, Checkpoints
from .resolving import saved_plan, warn_ignored_overrides

EXPECTED_S = 5e-4  # that writing the outputs takes an item, until it was measured


def run(invocation: Invocation, *, most: int | None = None, files: list[Path] | None = None) -> ExitCode:
    """Exit code 0 when every item was upsampled, 3 when some were kept or failed.

    most: so many items at most. files: prompt files in place of those that the config names.
    """
    config, paths = invocation.config, invocation.paths
    failed: EngineError | None = None
    with locked(paths, config.output.lock_timeout_s):
        plan = _plan(invocation, most, files)
        is_typical = not config.resume and not config.reuse  # a run that finds answers would look faster than it is
        work = work_of(plan) if is_typical else None
        expected = estimates.estimate_work(work, estimates.earlier_runs(plan)) if work else None
        if text := estimates.estimate_text(expected, estimates.where_text(plan)):
            log.get().info("estimate", text=text)
        with invocation.progress(expected.total_s if expected else None) as display:
            watch = Stopwatch(display)
            expected_s = EXPECTED_S * len(plan.items)
            checkpoints = Checkpoints(
                lambda so_far: write_results(plan, so_far, paths, invocation.command, SOON, quick=True), expected_s
            )
            try:
                retry = config.retry is Retry.failed
                outcomes = execute(
                    plan, paths, watch, retry_failed=retry, detach=config.detach, on_round=checkpoints.now_and_then
                )
            except Detached:
                if not config.detach:
                    raise
                return _submitted(plan, invocation)
            except EngineError as e:
                failed, outcomes = e, Outcomes(paths.journal, plan.places)
            except (KeyboardInterrupt, HostError):
                checkpoints.at_interruption(paths.journal)
                raise
            finally:
                measured = _write_down(watch, expected, paths)
        totals = _finish(plan, outcomes, invocation, failed.message if failed else "did not end", measured)
        if failed:
            raise failed
        if work and totals.seconds:  # for the estimates of later runs
            estimates.remember(plan, estimates.run_timing(work, measured, workers_of(paths), totals.seconds))
        return ExitCode.OK if totals.is_whole else ExitCode.INCOMPLETE


def _submitted(plan: Plan, invocation: Invocation) -> ExitCode:
    """After detach=true: everything is where the worker finds it."""
    root, host = invocation.paths.root, plan.settings.host.name
    invocation.print(f"submitted     {len(plan.items):,} items, on {host}; this program need not run meanwhile")
    invocation.print(f"status        {run_command('task=status run', root)}")
    invocation.print(f"collect       {resume_command(root)}")
    invocation.print(f"cancel        {run_command('task=cancel run', root)}")
    return ExitCode.OK


def _write_down(watch: Stopwatch, expected: estimates.Estimate | None, paths: RunPaths) -> Measured:
    """What this start took goes beside the others; a full disk is met again where it matters more."""
    measured = watch.measured(expected.as_seconds() if expected else {}, versions())
    try:
        add_start(paths.timings, measured)
    except OSError as e:
        log.get().warning("timings_not_written", file=str(paths.timings), reason=e.strerror)
    return measured


def _plan(invocation: Invocation, most: int | None, files: list[Path] | None) -> Plan:
    """The plan of the run folder when resuming, else a new one, on disk before anything else happens."""
    config, paths = invocation.config, invocation.paths
    if config.resume:
        if config.task.name is not TaskName.pipeline:
            warn_ignored_overrides(invocation, "plan.json")
        log.get().info("run_resumed", run=str(paths.root), note="its plan.json decides; prompts are not read again")
        if config.retry is Retry.failed:
            record_more(paths, states={})  # not as it ended before
        return read_plan(paths.plan)
    plan = saved_plan(invocation, files=files, most=most)
    if config.console.level.value in ("debug", "info"):
        for line in advice(plan):
            invocation.err.print(printable(line), markup=False, highlight=False, soft_wrap=True, style="dim")
    return plan


def _finish(plan: Plan, outcomes: Outcomes, invocation: Invocation, unfinished: str, measured: Measured) -> Totals:
    """Write what the run leaves behind and say how it ended."""
    paths = invocation.paths
    also = [export.value for export in invocation.config.output.exports]
    is_same = invocation.config.resume and len(outcomes) == len(plan.distinct_ids)
    written = written_before(plan, paths, also) if is_same else None
    if written is None:
        with invocation.progress() as display:
            written = write_results(plan, outcomes, paths, invocation.command, unfinished, also, display.step)
    print_end(plan, written.totals, paths, measured.seconds, invocation.out, written.exported)
    if off := estimates.error_text(measured.estimated_s, measured.seconds):
        invocation.print(off)
    if retryable(plan, outcomes):
        invocation.print(f"retry failed  {resume_command(paths.root)} retry=failed")
    return written.totals
