"""`task=status`: how one run stands (run=FOLDER), or which jobs a host has (host=NAME). Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import log
from ..errors import ExitCode, HostError, LinkLost, UpsamplerError
from ..hosts import stale_jobs
from ..hosts.connect import connect
from ..hosts.job_folder import JobPaths, JobStatus
from ..hosts.job_handle import JobHandle, handle_of_plan
from ..inference.generate import open_handles
from ..planning.configure import machines_of
from ..planning.partition import Place
from ..planning.settings import HostSettings
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
        return _hosts(invocation)
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


def _hosts(invocation: Invocation) -> ExitCode:
    """The jobs on each machine. One of several that cannot be asked is reported, and the others go on."""
    machines, code = machines_of(invocation.config), ExitCode.OK
    facts: list[dict[str, Any]] = []
    for settings in machines:
        try:
            with closing(connect(settings)) as host:
                found = stale_jobs.jobs_on(host, settings)
        except UpsamplerError as e:
            if len(machines) == 1:
                raise
            hint = {"hint": e.hint} if e.hint else {}
            log.get().error(
                "host_left_out", host=settings.name, note="its jobs are not listed", reason=e.message, **hint
            )
            code = max(code, e.exit_code)
            facts.append({"host": settings.name, "error": e.message})
            continue
        facts.append({"host": settings.name, "jobs": [_facts_of(job) for job in found]})
        if not invocation.wants_json:
            _print_jobs(settings, found, invocation)
    if invocation.wants_json:
        invocation.print_json(facts[0] if len(machines) == 1 else facts)
    return code


def _facts_of(job: stale_jobs.StaleJob) -> dict[str, Any]:
    return {"job": job.job_id, "state": job.status, "answered": job.answered, "bytes": job.kib * 1024}


def _print_jobs(settings: HostSettings, found: Sequence[stale_jobs.StaleJob], invocation: Invocation) -> None:
    if not found:
        invocation.print(f"no jobs on {settings.name}")
    for job in found:
        invocation.print(f"{job.job_id}  {job.status:8}  {job.answered} answered  {job.kib / 1024:.1f} MiB")


@dataclass(frozen=True, slots=True)
class _Job:
    """One job: where its files are here, its state in words, its phase; of one of several workers, what it has and does."""

    paths: JobPaths
    state: str
    phase: str = ""
    is_running: bool = False
    unreachable: str = ""
    status: JobStatus | None = None
    worker: str = ""
    open: int = 0

    @property
    def row(self) -> str:
        """The worker in one line, for people."""
        status = self.status
        facts = [self.state, f"{self.open:,} open"]
        if status:
            facts.append(f"{status.answered:,} done")
            facts += [f"{status.per_s:.2f} prompts/s"] if status.per_s is not None and self.is_running else []
            facts += [f"last beat {status.beat_age_s:.0f} s ago"] if status.beat_age_s is not None else []
        return f"{self.worker}: {', '.join(facts)}"


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
    plan, found = jobs_of(paths)
    known, is_shared = written_ids(paths).keys(), len(found) > 1
    ended = len(known)

    def peeked(job: tuple[Place, JobPaths]) -> _Job:
        place, folder = job
        seen = _peeked(folder, handle_of_plan(plan, folder, place.settings), ended >= len(plan.distinct_ids), invocation,
                       HostError if is_shared else LinkLost)  # fmt: skip
        return replace(seen, worker=place.name, open=len(folder.staged() - known)) if is_shared else seen

    with ThreadPoolExecutor(len(found)) as threads:
        jobs = list(threads.map(peeked, found))
    for job in jobs:
        here = sum(1 for item_id in ended_ids(job.paths.results) if item_id in known)
        ended += max(0, job.status.answered - here) if job.status else 0
    ended = min(ended, len(plan.distinct_ids))
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


def _peeked(
    folder: JobPaths, handle: JobHandle, is_whole: bool, invocation: Invocation, unreachable: type[HostError] = LinkLost
) -> _Job:
    """A job as its host knows it. unreachable: what is no error of this task."""
    try:
        status = handle.peek()
        if invocation.config.log and status.state.status != "absent":
            handle.fetch_logs()
    except unreachable as e:
        return _Job(folder, "unknown", unreachable=e.message)
    finally:
        handle.close()
    return _Job(folder, _in_words(status, is_whole), status.phase, status.state.is_alive, status=status)


def _in_words(status: JobStatus, is_whole: bool) -> str:
    state = status.state
    if state.status == "ended":
        return state.label + (f" (code {state.exit_code})" if state.exit_code is not None else "")
    absent = "finished and removed" if is_whole else "not there"
    return {"running": "running", "queued": "queued", "waiting": "created, not started", "absent": absent}[state.status]


def _videos(paths: RunPaths, handles: list[tuple[JobPaths, JobHandle]], invocation: Invocation) -> _Status:
    jobs, done, total = [], 0, 0
    for folder, handle in handles:
        jobs.append(job := _peeked(folder, handle, False, invocation))
        done, total = done + (job.status.answered if job.status else 0), total + len(folder.staged())
    running = is_locked(paths) or any(job.is_running for job in jobs)
    return _Status(RunState("running" if running else "interrupted", done, total, {}, "videos"), tuple(jobs))


def _as_json(status: _Status, paths: RunPaths, record: RunRecord) -> dict[str, Any]:
    state = status.state
    jobs = [
        {"job": job.paths.root.name, "state": job.state, "phase": job.phase, "error": job.unreachable}
        | (_worker_facts(job) if job.worker else {})
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


def _worker_facts(job: _Job) -> dict[str, Any]:
    status = job.status
    return {
        "worker": job.worker,
        "open": job.open,
        "done": status and status.answered,
        "prompts_per_s": status and status.per_s,
        "beat_age_s": status and status.beat_age_s,
    }


def _print(status: _Status, paths: RunPaths, record: RunRecord, invocation: Invocation) -> None:
    state = status.state
    facts = [("run", str(paths.root)), ("prompts", record.title), ("status", str(state)), ("note", status.note)]
    facts.append(("host", record.host))
    for job in status.jobs:
        facts += [
            ("worker", job.row if job.worker else ""),
            ("job", job.paths.root.name),
            ("state", job.state),
            ("phase", job.phase),
            ("error", job.unreachable),
        ]
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
