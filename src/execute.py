"""Carry out a plan: stage its job, start the worker, follow it, write down how each item ends.

First start, resume and re-attach are the same code: what already ended is read from the journals, a worker that still
runs is followed, one that does not is started, and only what is missing is asked.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launchers.worker import REFUSED
from src import jobs, log
from src.containers import State
from src.errors import Detached, EngineError, HostError, RunLocked
from src.jobs import JobPaths, Stop
from src.outcomes import FAILED, KEPT, UPSAMPLED, AnswerCache, Outcome, RunJournal
from src.paths import RunPaths, write_atomic
from src.plan import Plan, PlanItem
from src.progress import Progress
from src.sites import Site, site_for

MAX_WORKER_DEATHS = 3  # without one answer between them
SECOND_CTRL_C_S = 3.0


def execute(plan: Plan, paths: RunPaths, progress: Progress) -> dict[str, Outcome]:
    """Run the plan in its folder until every item has ended; the outcomes by item id.

    Raises EngineError when the engine cannot be loaded, HostError when the worker keeps dying; what ended before is
    in the journal. KeyboardInterrupt asks the worker to finish what it has in flight, writes that down, and goes on up.
    """
    journal = RunJournal(paths.journal)
    try:
        for item in plan.items:
            if not item.runs:
                journal.add(_never_sent(item))
        for folder in sorted(paths.jobs.glob("*/")):
            _absorb(JobPaths(folder), journal)
        if plan.settings.reuse:
            _reuse(plan, journal)
        missing = {item.id for item in plan.items} - journal.outcomes.keys()
        job = JobPaths(paths.jobs / jobs.job_id(plan.items, plan.settings))
        if missing:
            _run_job(plan, missing, job, journal, progress)
        elif job.job.exists() and not job.tidied.exists():  # we were killed between the last answer and the end
            try:
                _run_job(plan, missing, job, journal, progress)
            except HostError as e:
                log.get().warning("job_not_tidied", job=job.root.name, reason=e.message)
        return journal.outcomes
    finally:
        AnswerCache(Path(plan.settings.cache_dir)).put(journal.outcomes.values())
        journal.close()


def _never_sent(item: PlanItem) -> Outcome:
    """The outcome of an item that the plan already knows cannot be served."""
    state = KEPT if item.prompt.strip() else FAILED
    return Outcome(item.id, state, item.problem)


def _reuse(plan: Plan, journal: RunJournal) -> None:
    cache = AnswerCache(Path(plan.settings.cache_dir))
    found = sum(journal.add(o) for o in cache.find(item.id for item in plan.items if item.id not in journal.outcomes))
    if found:
        log.get().info("answers_reused", items=found)


def _absorb(job: JobPaths, journal: RunJournal) -> None:
    """Take over what a job of this run answered while nobody watched."""
    records = _Tail(job.results).new()
    new = sum(journal.add(Outcome.of(record)) for record in records if record["state"] != REFUSED)
    if new:
        log.get().info("answers_taken_over", items=new)


def _run_job(plan: Plan, missing: set[str], job: JobPaths, journal: RunJournal, progress: Progress) -> None:
    jobs.open_job(job, jobs.job_record(plan.items, plan.settings))
    site = site_for(plan, job)
    try:
        site.prepare()
        stager = _Stager(plan, missing, job, site)
        try:
            _follow(plan, missing, job, site, stager, journal, progress)
        except BaseException as e:
            stager.stop.asked = True
            _leave(e, job, site, journal)
            raise
        finally:
            stager.stop.asked = True
            stager.join()
    finally:
        site.close()


def _follow(
    plan: Plan,
    missing: set[str],
    job: JobPaths,
    site: Site,
    stager: _Stager,
    journal: RunJournal,
    progress: Progress,
) -> None:
    """See a job through to its end: start its worker when none runs, take what it answers, start it again when it dies."""
    results, events = _Tail(job.results), _Tail(job.events)
    deaths, answers_at_death = 0, -1

    def look() -> State:
        """How the worker stands; then what it wrote, for after its end it writes nothing."""
        state = site.look()
        for record in events.new():
            if record["event"] == "phase":
                progress.phase(record["phase"])
        refused = [_take(record, plan, job, journal) for record in results.new()]
        if any(refused):
            site.push()
        return state

    site.push()
    if look().status == "running":
        log.get().info("job_found_running", job=job.root.name)
    elif not missing <= journal.outcomes.keys():
        site.start()
        log.get().info("job_started", job=job.root.name, items=len(missing), engine=plan.settings.engine.name)
    while True:
        stager.collect(journal, progress)
        state = look()
        if missing <= journal.outcomes.keys():
            break
        if state.status != "running":
            _stop_if_final(state, job, site)
            if state.ending != "done":  # done: it got tired of waiting for slow hints
                answered = len(journal.outcomes)
                deaths = deaths + 1 if answered == answers_at_death else 1
                answers_at_death = answered
                if deaths > MAX_WORKER_DEATHS:
                    raise HostError(f"the worker ended {deaths} times without an answer: {_last_words(job, state)}")
                if state.status == "absent" and site.goes_on_without_us:
                    log.get().info("job_gone", job=job.root.name, note="another controller tidied it up; made again")
                    site.prepare()
                    site.push()
                else:
                    log.get().warning("worker_restarted", job=job.root.name, ended=_last_words(job, state))
            site.start()
        _tell(plan, journal, progress)
        time.sleep(site.poll_s)
    _tell(plan, journal, progress)
    write_atomic(job.closed, "")
    site.push()
    while site.look().status == "running":
        time.sleep(min(site.poll_s, 0.1))
    site.finish()
    write_atomic(job.tidied, "")


def _stop_if_final(state: State, job: JobPaths, site: Site) -> None:
    """Raise what makes starting the worker again pointless, or unwanted."""
    if state.ending == "load_failed":
        end = job.exit_record()
        raise EngineError(
            f"the model could not be loaded: {_last_words(job, state)}", hint=f"see {job.log}" if end else ""
        )
    if state.ending == "timeout":
        raise HostError("the worker reached engine.time_limit_s", hint="resume the run for what is missing")
    if state.ending == "cancelled" and site.was_cancelled():
        raise HostError("the job was cancelled from elsewhere", hint="resume the run for what is missing")


def _leave(error: BaseException, job: JobPaths, site: Site, journal: RunJournal) -> None:
    """Go before the job has ended. A worker on this machine is asked to finish what it has in flight; elsewhere it goes
    on, unless a second Ctrl-C comes."""
    results = _Tail(job.results)
    if site.goes_on_without_us:
        site.give_up_waiting()
        if not isinstance(error, KeyboardInterrupt):
            return
        log.get().warning(
            "leaving", job=job.root.name, note=f"Ctrl-C again within {SECOND_CTRL_C_S:.0f} s cancels the job"
        )
        try:
            time.sleep(SECOND_CTRL_C_S)
        except KeyboardInterrupt:
            log.get().warning("cancelling", job=job.root.name)
        else:
            raise Detached(
                f"left; the job goes on on {site.name}",
                hint=f"come back:  python -m src.run task=attach run={job.run_folder}\n"
                f"    stop it:    python -m src.run task=cancel run={job.run_folder}",
            ) from None
    site.ask_to_stop()
    log.get().info("waiting_for_what_is_in_flight", job=job.root.name)
    while site.look().status == "running":
        time.sleep(min(site.poll_s, 0.1))
    for record in results.new():
        if record["state"] != REFUSED:
            journal.add(Outcome.of(record))


def _take(record: dict[str, Any], plan: Plan, job: JobPaths, journal: RunJournal) -> bool:
    """Write a result down; what the engine refused is staged again, smaller, while it answers the others (True)."""
    if record["id"] in journal.outcomes:
        return False
    if record["state"] == REFUSED:
        item = plan.by_id[record["id"]]
        wrong = jobs.stage_smaller(item, record, job, plan.settings)
        if wrong is None:
            log.get().warning("hint_made_smaller", item=item.name, reason=record["reason"])
            return True
        record = {**record, "state": KEPT if item.prompt.strip() else FAILED, "reason": wrong}
    journal.add(Outcome.of(record))
    return False


class _Stager:
    """Renders and stages in a thread of its own, so that answers come in while hints are still being made."""

    def __init__(self, plan: Plan, missing: set[str], job: JobPaths, site: Site) -> None:
        self.stop, self.done, self.total = Stop(), 0, len(missing)
        self.site, self.started = site, time.monotonic()
        self._out: queue.Queue[tuple[int, list[Outcome]] | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(plan, missing, job, site), name="stage")
        self._thread.start()

    def _run(self, plan: Plan, missing: set[str], job: JobPaths, site: Site) -> None:
        try:
            for ready in jobs.stage(plan, missing, job, Path(plan.settings.cache_dir) / "hints", self.stop):
                site.push()
                self._out.put(ready)
        except BaseException as e:  # handed to the main thread, which raises it
            self._out.put(e)

    def collect(self, journal: RunJournal, progress: Progress) -> None:
        """Write down what could not be staged; raises what went wrong in the thread."""
        while not self._out.empty():
            ready = self._out.get()
            if isinstance(ready, OSError):
                raise HostError(f"hints cannot be written: {ready.filename or ''} {ready.strerror}") from ready
            if isinstance(ready, BaseException):
                raise ready
            count, lost = ready
            self.done += count
            for outcome in lost:
                journal.add(outcome)
        sent_mib = self.site.sent_bytes / 2**20
        rate = sent_mib / max(time.monotonic() - self.started, 1e-3)
        note = f"{sent_mib:.1f} MiB sent, {rate:.1f} MiB/s" if sent_mib and self.done < self.total else ""
        progress.step("hints", self.done, self.total, note)

    def join(self) -> None:
        self._thread.join()


class _Tail:
    """The whole lines that were added to a journal since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        try:
            f = open(self.path, "rb")
        except FileNotFoundError:
            return
        with f:
            if f.seek(0, os.SEEK_END) < self.at:  # begun anew
                self.at = 0
            f.seek(self.at)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                self.at += len(line)
                yield json.loads(line)


def _tell(plan: Plan, journal: RunJournal, progress: Progress) -> None:
    states = Counter(o.state for o in journal.outcomes.values())
    note = "  ".join(f"{states[s]} {s}" for s in (UPSAMPLED, KEPT, FAILED) if states[s])
    progress.step("answers", len(journal.outcomes), len({item.id for item in plan.items}), note)


def _last_words(job: JobPaths, state: State) -> str:
    """Why a worker ended, as far as anybody could say."""
    if state.ending == "oom":
        return "killed because the container's memory was used up"
    if end := job.exit_record():
        return str(end.get("reason") or end["state"])
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    code = f" (exit code {state.exit_code})" if state.exit_code is not None else ""
    return f"killed without a word{code}{': ' + lines[-1] if lines else ''}"


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run folder for this process; raises RunLocked when another one has it."""
    import fcntl

    paths.root.mkdir(parents=True, exist_ok=True)
    with open(paths.lock, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(
                f"{paths.root}: another process works in this run folder",
                hint="wait for it, or stop it; then run the same command again",
            ) from None
        yield
