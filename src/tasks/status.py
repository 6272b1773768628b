"""`task=status`: how one run stands (run=FOLDER), or what there is on a host (host=NAME). Changes nothing."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from ..errors import ExitCode
from ..hosts import stale_jobs
from ..hosts.connect import connect
from ..hosts.host_job import HostSite
from ..hosts.job_folder import JobPaths
from ..hosts.job_handle import Site
from ..inference.generate import open_sites
from ..planning.configure import host_settings
from ..planning.plan import Plan
from ..run_folder import RunPaths
from ..runs.outcomes import read_outcomes
from ..runs.saved_run import jobs_of, looked_at, opened
from ..text import command_line, printable
from . import Invocation

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
