"""`task=status`: how one run stands (run=FOLDER), or which jobs a host has (host=NAME). Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ExitCode, LinkLost
from ..hosts import stale_jobs
from ..hosts.connect import connect
from ..hosts.job_folder import JobPaths, JobStatus
from ..hosts.job_handle import JobHandle, handle_of_plan
from ..inference.generate import open_handles
from ..planning.configure import host_settings
from ..run_folder import RunPaths, is_locked
from ..runs.run_record import RunRecord, read_record
from ..runs.run_state import RunState, Word, ended_ids, items_of, state_of, written_ids
from ..runs.saved_run import jobs_of
from ..text import printable, resume_command
from ..worker.protocol import FAILED
from . import Invocation

LOG_LINES = 40


def run(invocation: Invocation) -> ExitCode:
    """Exit code of a run: 0 complete or running, 3 complete with items kept or failed, 130 interrupted or to be collected,
    2 planned and not started, 6 when its host cannot be reached."""
    if not invocation.config.run:
        return _host(invocation)
    paths = RunPaths(Path(invocation.config.run))
    record = read_record(paths)
    status = _status(paths, record, invocation)
    if invocation.wants_json:
        invocation.print_json(_as_json(status, paths, record))
    elif invocation.config.log:
        for job in status.jobs:
            _print_log(job.paths, invocation)
    else:
        _print(status, paths, record, invocation)
    return status.code


def _host(invocation: Invocation) -> ExitCode:
    settings = host_settings(invocation.config)
    host = connect(settings)
    try:
        found = stale_jobs.jobs_on(host, settings)
    finally:
        host.close()
    if invocation.wants_json:
        facts = [
            {"job": job.job_id, "state": job.status, "answered": job.answered, "bytes": job.kib * 1024} for job in found
        ]
        invocation.print_json({"host": settings.name, "jobs": facts})
        return ExitCode.OK
    if not found:
        invocation.print(f"no jobs on {settings.name}")
    for job in found:
        invocation.print(f"{job.job_id}  {job.status:8}  {job.answered} answered  {job.kib / 1024:.1f} MiB")
    return ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Job:
    """One job: where its files are here, its state in words, its phase."""

    paths: JobPaths
    state: str
    phase: str = ""
    is_running: bool = False
    unreachable: str = ""


@dataclass(frozen=True, slots=True)
class _Status:
    """A run with its jobs. note: why it is as it is."""

    state: RunState
    jobs: tuple[_Job, ...]
    note: str = ""

    @property
    def code(self) -> ExitCode:
        return ExitCode.LINK if any(job.unreachable for job in self.jobs) else self.state.exit_code


def _status(paths: RunPaths, record: RunRecord, invocation: Invocation) -> _Status:
    state = state_of(paths, record)
    if handles := open_handles(paths):  # upsampling is over then
        return _videos(paths, handles, invocation)
    if not any(paths.jobs.glob("*/job.json")) or (
        not invocation.config.log and (state.word == "complete" or state.unit == "videos")
    ):
        status = _Status(state, ())
    else:
        status = _upsampling(paths, record, state, invocation)
    failure = record.failure if status.state.word == "interrupted" else ""
    return replace(status, note=status.note or failure)


def _upsampling(paths: RunPaths, record: RunRecord, state: RunState, invocation: Invocation) -> _Status:
    """The run by what its hosts say."""
    plan, parts = jobs_of(paths)
    known, jobs = written_ids(paths).keys(), []
    ended = len(known)
    for part, folder in parts:
        here = len(known & part.distinct_ids)
        job, answered = _peeked(folder, handle_of_plan(part, folder), here >= len(part.distinct_ids), invocation)
        ended += max(0, answered - here)
        jobs.append(job)
    if state.word == "complete" or state.unit == "videos":
        return _Status(state, tuple(jobs))
    state = replace(state, done=items_of(ended, record))
    if is_locked(paths):
        return _Status(state, tuple(jobs))
    if any(job.is_running for job in jobs):
        note = f"on {plan.settings.host.name}, without a controller; resume reattaches to it"
        return _Status(replace(state, word="running"), tuple(jobs), note=note)
    new = state.done - items_of(len(ended_ids(paths.journal)), record)
    note = f"{new:,} of them were answered without a controller; resume collects them" if new else ""
    word: Word = "answered" if state.done == state.total else "interrupted"
    return _Status(replace(state, word=word), tuple(jobs), note=note)


def _peeked(folder: JobPaths, handle: JobHandle, is_whole: bool, invocation: Invocation) -> tuple[_Job, int]:
    """A job as its host knows it, and how much of it has ended."""
    try:
        status = handle.peek()
        if invocation.config.log and status.state.status != "absent":
            handle.fetch_logs()
    except LinkLost as e:
        return _Job(folder, "unknown", unreachable=e.message), 0
    finally:
        handle.close()
    return _Job(folder, _in_words(status, is_whole), status.phase, status.state.status == "running"), status.answered


def _in_words(status: JobStatus, is_whole: bool) -> str:
    state = status.state
    if state.status == "ended":
        return state.label + (f" (code {state.exit_code})" if state.exit_code is not None else "")
    absent = "finished and removed" if is_whole else "not there"
    return {"running": "running", "waiting": "created, not started", "absent": absent}[state.status]


def _videos(paths: RunPaths, handles: list[tuple[JobPaths, JobHandle]], invocation: Invocation) -> _Status:
    jobs, done, total = [], 0, 0
    for folder, handle in handles:
        job, answered = _peeked(folder, handle, False, invocation)
        jobs.append(job)
        done, total = done + answered, total + len(folder.staged())
    running = is_locked(paths) or any(job.is_running for job in jobs)
    return _Status(RunState("running" if running else "interrupted", done, total, {}, "videos"), tuple(jobs))


def _as_json(status: _Status, paths: RunPaths, record: RunRecord) -> dict[str, Any]:
    state = status.state
    jobs = [
        {"job": job.paths.root.name, "state": job.state, "phase": job.phase, "error": job.unreachable}
        for job in status.jobs
    ]
    return {
        "run": str(paths.root),
        "name": record.name,
        "state": state.word,
        "done": state.done,
        "total": state.total,
        "counts": state.unit,
        "states": dict(state.states),
        "note": status.note,
        "prompts": record.prompts,
        "host": record.host,
        "jobs": jobs,
        "resume": resume_command(paths.root) if state.is_open else None,
        "exit_code": int(status.code),
    }


def _print(status: _Status, paths: RunPaths, record: RunRecord, invocation: Invocation) -> None:
    state = status.state
    facts = [("run", str(paths.root)), ("prompts", record.title), ("status", str(state)), ("note", status.note)]
    facts.append(("host", record.host))
    for job in status.jobs:
        facts += [("job", job.paths.root.name), ("state", job.state), ("phase", job.phase), ("error", job.unreachable)]
    facts.append((state.unit, f"{state.done:,} of {state.total:,}"))
    if state.is_open or (state.word == "running" and not is_locked(paths)):
        facts.append(("resume", resume_command(paths.root)))
    elif state.states.get(FAILED):
        facts.append(("retry", f"{resume_command(paths.root)} retry=failed"))
    for name, value in facts:
        if value:
            invocation.print(f"{name:10}{printable(value)}")


def _print_log(job: JobPaths, invocation: Invocation) -> None:
    path = job.engine_log if job.engine_log.exists() else job.log
    if not path.exists():
        invocation.print("no log yet")
        return
    for line in path.read_text(errors="replace").splitlines()[-LOG_LINES:]:
        invocation.print(printable(line))
