"""`task=status`: how one run stands (run=FOLDER), or which jobs a host has (host=NAME). Changes nothing."""

from __future__ import annotations

from pathlib import Path

from ..errors import ExitCode
from ..hosts import stale_jobs
from ..hosts.connect import connect
from ..hosts.job_folder import JobPaths, JobStatus
from ..hosts.job_handle import JobHandle, handle_of_plan
from ..inference.generate import open_handles
from ..planning.configure import host_settings
from ..run_folder import RunPaths
from ..runs.outcomes import Outcomes
from ..runs.saved_run import jobs_of
from ..text import printable, resume_command
from . import Invocation

LOG_LINES = 40


def run(invocation: Invocation) -> ExitCode:
    config = invocation.config
    if not config.run:
        return _host(invocation)
    paths = RunPaths(Path(config.run))
    if handles := open_handles(paths):  # upsampling is over then
        for job, handle in handles:
            _inference(job, handle, paths, invocation)
    else:
        _upsampling(paths, invocation)
    return ExitCode.OK


def _host(invocation: Invocation) -> ExitCode:
    settings = host_settings(invocation.config)
    host = connect(settings)
    try:
        found = stale_jobs.jobs_on(host, settings)
    finally:
        host.close()
    if not found:
        invocation.print(f"no jobs on {settings.name}")
    for job in found:
        invocation.print(f"{job.job_id}  {job.status:8}  {job.answered} answered  {job.kib / 1024:.1f} MiB")
    return ExitCode.OK


def _upsampling(paths: RunPaths, invocation: Invocation) -> None:
    plan, parts = jobs_of(paths)
    known = Outcomes(paths.journal).keys()
    facts = [("run", str(paths.root)), ("host", plan.settings.host.name)]
    elsewhere = plan.distinct_ids - {item_id for part, _ in parts for item_id in part.ids}
    answered = len(known & elsewhere)
    for part, job in parts:
        status, ids = _peek(handle_of_plan(part, job), invocation), part.distinct_ids
        ended = max(status.answered, len(known & ids))
        answered += ended
        facts += [("job", job.root.name), ("state", _state(status, ended >= len(ids))), ("phase", status.phase or "–")]
    asked = len(plan.distinct_ids)
    _print_facts([*facts, ("answered", f"{answered} of {asked}")], invocation)
    if invocation.config.log:
        for _, job in parts:
            _print_log(job, invocation)
    elif answered < asked or (
        paths.pipeline.exists() and not paths.inference_results.exists()
    ):  # its videos come after
        _print_facts([("resume", resume_command(paths.root))], invocation)


def _state(status: JobStatus, is_whole: bool) -> str:
    state = status.state
    if state.status == "ended":
        return state.label + (f" (code {state.exit_code})" if state.exit_code is not None else "")
    absent = "finished and removed" if is_whole else "not there"
    return {"running": "running", "waiting": "created, not started", "absent": absent}[state.status]


def _inference(job: JobPaths, handle: JobHandle, paths: RunPaths, invocation: Invocation) -> None:
    status = _peek(handle, invocation)
    facts = [("run", str(paths.root)), ("host", handle.name), ("inference", job.root.name)]
    facts += [("state", status.state.label), ("phase", status.phase or "–")]
    _print_facts([*facts, ("ended", f"{status.answered} of {len(job.staged())}")], invocation)
    if invocation.config.log:
        _print_log(job, invocation)
    else:
        _print_facts([("resume", resume_command(paths.root))], invocation)


def _peek(handle: JobHandle, invocation: Invocation) -> JobStatus:
    try:
        status = handle.peek()
        if invocation.config.log and status.state.status != "absent":
            handle.fetch_logs()
        return status
    finally:
        handle.close()


def _print_facts(facts: list[tuple[str, str]], invocation: Invocation) -> None:
    for name, value in facts:
        invocation.print(f"{name:10}{printable(value)}")


def _print_log(job: JobPaths, invocation: Invocation) -> None:
    path = job.engine_log if job.engine_log.exists() else job.log
    if not path.exists():
        invocation.print("no log yet")
        return
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        invocation.print(printable(line))
