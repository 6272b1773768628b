"""`task=status`: how one run stands (run=FOLDER), or what there is on a host (host=NAME). Changes nothing."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from ..errors import ExitCode, InputError
from ..files import RunPaths
from ..hosts import stale_jobs
from ..hosts.host_job import HostSite, connect
from ..hosts.job_handle import Site, site_for
from ..log import printable
from ..planning.partition import shards
from ..planning.plan import Plan, read_plan
from ..planning.resolve import host_settings
from ..runs.outcomes import read_outcomes
from ..runs.staging import JobPaths, job_id
from ..text import command_line
from . import Invocation
from .pipeline import open_sites

LOG_LINES = 40


def run(invocation: Invocation) -> ExitCode:
    config = invocation.config
    if config.run:
        return _one(RunPaths(Path(config.run)), invocation)
    settings = host_settings(config)
    host = connect(settings)
    try:
        found = stale_jobs.jobs_on(host, settings)
    finally:
        host.close()
    if not found:
        invocation.out.print(f"no job of ours on {settings.name}")
    for job in found:
        invocation.out.print(
            f"{job.job_id}  {job.status:8}  {job.answered} answered  {job.kib / 1024:.1f} MiB", markup=False
        )
    return ExitCode.OK


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


def _one(paths: RunPaths, invocation: Invocation) -> ExitCode:
    if begun := open_sites(paths):  # upsampling is over then
        for job, site in begun:
            _inference(job, site, paths, invocation)
        return ExitCode.OK
    plan, parts = jobs_of(paths)
    taken = read_outcomes(paths.journal).keys()
    seen = [_glance(part, job, taken, invocation) for part, job in parts]
    elsewhere = {item.id for item in plan.items} - {item.id for part, _ in parts for item in part.items}
    asked = len({item.id for item in plan.items})
    known = len(taken & elsewhere) + sum(answered for *_, answered in seen)
    facts = [("run", str(paths.root)), ("host", plan.settings.host)]
    for (_, job), (state, phase, _) in zip(parts, seen, strict=True):
        facts += [("job", job.root.name), ("state", state), ("phase", phase or "–")]
    facts.append(("answered", f"{known} of {asked}"))
    for name, value in facts:
        invocation.out.print(f"{name:10}{printable(value)}", markup=False, highlight=False, soft_wrap=True)
    if invocation.config.log:
        for _, job in parts:
            _show_log(job.engine_log if job.engine_log.exists() else job.log, invocation)
    elif paths.pipeline.exists() and not paths.inference_results.exists():  # its videos come after
        _go_on("task=pipeline run", paths, invocation)
    elif known < asked:
        _go_on("task=attach run", paths, invocation)
    return ExitCode.OK


def _inference(job: JobPaths, site: Site, paths: RunPaths, invocation: Invocation) -> None:
    """How an inference job stands."""
    try:
        seen = looked_at(site).glance()
        if invocation.config.log and isinstance(site, HostSite) and seen.state.status != "absent":
            site.fetch_logs()
    finally:
        site.close()
    state, asked = seen.state, len(job.staged())
    said = f"ended: {state.ending}" if state.ending else state.status
    facts = {
        "run": str(paths.root),
        "host": site.name,
        "inference": job.root.name,
        "state": said,
        "phase": seen.phase or "–",
    }
    for name, value in {**facts, "ended": f"{seen.answered} of {asked}"}.items():
        invocation.out.print(f"{name:10}{printable(value)}", markup=False, highlight=False, soft_wrap=True)
    if invocation.config.log:
        _show_log(job.engine_log if job.engine_log.exists() else job.log, invocation)
    else:
        _go_on("task=pipeline run", paths, invocation)


def _go_on(words: str, paths: RunPaths, invocation: Invocation) -> None:
    invocation.out.print(f"go on     {command_line(words, paths.root)}", markup=False, highlight=False, soft_wrap=True)


def _glance(part: Plan, job: JobPaths, taken: Set[str], invocation: Invocation) -> tuple[str, str, int]:
    """How a job stands, in words, the phase of its worker, and how many of its items are answered, here or there."""
    site = opened(part, job)
    try:
        seen = site.glance()
        if invocation.config.log and isinstance(site, HostSite) and seen.state.status != "absent":
            site.fetch_logs()
    finally:
        site.close()
    state, ids = seen.state, {item.id for item in part.items}
    answered = max(seen.answered, len(taken & ids))
    words = {
        "running": "running",
        "waiting": "made, not started",
        "absent": "finished and removed" if answered >= len(ids) else "not there",
        "ended": f"ended: {state.ending}" + (f" (code {state.exit_code})" if state.exit_code is not None else ""),
    }
    return words[state.status], seen.phase, answered


def _show_log(path: Path, invocation: Invocation) -> None:
    if not path.exists():
        invocation.out.print("no log yet")
        return
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        invocation.out.print(printable(line), markup=False, highlight=False, soft_wrap=True)
