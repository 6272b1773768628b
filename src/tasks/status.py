"""`task=status`: how one run stands (run=FOLDER), or what there is on a host (host=NAME). Changes nothing."""

from __future__ import annotations

from pathlib import Path

from src import leftovers
from src.errors import ExitCode, InputError
from src.host_site import HostSite, connect
from src.jobs import JobPaths
from src.log import printable
from src.outcomes import read_outcomes
from src.paths import RunPaths
from src.plan import Plan, read_plan
from src.resolve import host_settings
from src.sites import Site, site_for
from src.tasks import Invocation

LOG_LINES = 40


def run(invocation: Invocation) -> ExitCode:
    config = invocation.config
    if config.run:
        return _one(RunPaths(Path(config.run)), invocation)
    settings = host_settings(config)
    host = connect(settings)
    try:
        found = leftovers.jobs_on(host, settings)
    finally:
        host.close()
    if not found:
        invocation.out.print(f"no job of ours on {settings.name}")
    for job in found:
        invocation.out.print(
            f"{job.job_id}  {job.status:8}  {job.answered} answered  {job.kib / 1024:.1f} MiB", markup=False
        )
    return ExitCode.OK


def job_of(paths: RunPaths) -> tuple[Plan, JobPaths]:
    """The plan of a run and its newest job; InputError when nothing was ever staged."""
    plan = read_plan(paths.plan)
    folders = sorted(paths.jobs.glob("*/job.json"), key=lambda p: p.stat().st_mtime)
    if not folders:
        raise InputError(f"{paths.root}: nothing was started in this run yet", hint="resume it")
    return plan, JobPaths(folders[-1].parent)


def opened(plan: Plan, job: JobPaths) -> Site:
    """The place of a job, ready to be looked at."""
    site = site_for(plan, job)
    if isinstance(site, HostSite):
        site.give_up_waiting()  # who asks wants an answer now
        site.locate()
    return site


def _one(paths: RunPaths, invocation: Invocation) -> ExitCode:
    plan, job = job_of(paths)
    asked = len({item.id for item in plan.items})
    site = opened(plan, job)
    try:
        seen = site.glance()
        if invocation.config.log and isinstance(site, HostSite) and seen.state.status != "absent":
            site.fetch_logs()
    finally:
        site.close()
    state = seen.state
    known = max(seen.answered, len(read_outcomes(paths.journal)))
    words = {
        "running": "running",
        "waiting": "made, not started",
        "absent": "finished and removed" if asked <= known else "not there",
        "ended": f"ended: {state.ending}" + (f" (code {state.exit_code})" if state.exit_code is not None else ""),
    }
    facts = {
        "run": str(paths.root),
        "host": plan.settings.host,
        "job": job.root.name,
        "state": words[state.status],
        "phase": seen.phase or "–",
        "answered": f"{known} of {asked}",
    }
    for name, value in facts.items():
        invocation.out.print(f"{name:10}{printable(value)}", markup=False, highlight=False, soft_wrap=True)
    if invocation.config.log:
        _show_log(job.engine_log if job.engine_log.exists() else job.log, invocation)
    elif known < asked:
        invocation.out.print(f"go on     python -m src.run task=attach run={paths.root}", markup=False, soft_wrap=True)
    return ExitCode.OK


def _show_log(path: Path, invocation: Invocation) -> None:
    if not path.exists():
        invocation.out.print("no log yet")
        return
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        invocation.out.print(printable(line), markup=False, highlight=False, soft_wrap=True)
