"""Carry out a plan: stage its job, start the worker, follow it, write down how each item ends.

First start, resume and re-attach are the same code: what already ended is read from the journals, a worker that still
runs is followed, one that does not is started, and only what is missing is asked.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
from src.progress import Progress, Quiet
from src.shards import shards
from src.sites import Site, site_for

MAX_WORKER_DEATHS = 3  # without one answer between them
SECOND_CTRL_C_S = 3.0


def execute(plan: Plan, paths: RunPaths, progress: Progress) -> dict[str, Outcome]:
    """Run the plan in its folder until every item has ended; the outcomes by item id.

    Raises EngineError when the engine cannot be loaded, HostError when a worker keeps dying; what ended before is
    in the journal. KeyboardInterrupt asks the workers to finish what they have in flight, writes that down, and goes
    on up.
    """
    journal = RunJournal(paths.journal)
    try:
        for item in plan.items:
            if not item.runs:
                journal.add(_never_sent(item))
        for folder in sorted(paths.jobs.glob("*/")):
            if new := _absorb(JobPaths(folder), journal):
                log.get().info("answers_taken_over", items=new)
        if plan.settings.reuse:
            _reuse(plan, journal)
        jobs_of_plan = [_Job(shard, paths, journal) for shard in shards(plan)]
        _see_through([job for job in jobs_of_plan if job.missing], plan, journal, progress)
        for job in jobs_of_plan:
            if not job.missing and job.is_left_behind:  # we were killed between the last answer and the end
                try:
                    _see_through([job], plan, journal, progress)
                except HostError as e:
                    log.get().warning("job_not_tidied", job=job.name, reason=e.message)
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


def _absorb(job: JobPaths, journal: RunJournal) -> int:
    """Take over what a job of this run answered while nobody watched; how many answers that were."""
    records = Tail(job.results).new()
    return sum(journal.add(Outcome.of(record)) for record in records if record["state"] != REFUSED)


def _see_through(jobs_here: Sequence[_Job], plan: Plan, journal: RunJournal, progress: Progress) -> None:
    """Carry jobs to their end, side by side, as one: one journal, one progress."""
    started = time.monotonic()
    try:
        going = [(job, job.follow(progress)) for job in jobs_here]
        while going:
            going = [(job, steps) for job, steps in going if next(steps, _ENDED) is not _ENDED]
            _tell(jobs_here, plan, journal, progress, time.monotonic() - started)
            if going:
                time.sleep(max(job.pause_s for job, _ in going))
    except BaseException as e:
        for job in jobs_here:
            job.stop_staging()
        _leave(e, [job for job in jobs_here if job.stager], journal)
        raise
    finally:
        for job in jobs_here:
            job.close()


_ENDED = object()


class _Job:
    """One worker's part of a run: its job folder, the place where that lies, and how far it has come."""

    def __init__(self, plan: Plan, paths: RunPaths, journal: RunJournal) -> None:
        self.plan, self.journal = plan, journal
        self.missing = {item.id for item in plan.items} - journal.outcomes.keys()
        self.folder = JobPaths(paths.jobs / jobs.job_id(plan.items, plan.settings))
        self.name = self.folder.root.name
        self.pause_s = 0.0  # until the next step is worth taking
        self.stager: _Stager | None = None
        self._site: Site | None = None
        self._phase = ""  # that the worker named last
        self._results, self._events = Tail(self.folder.results), Tail(self.folder.events)

    @property
    def is_left_behind(self) -> bool:
        return self.folder.job.exists() and not self.folder.tidied.exists()

    @property
    def is_answered(self) -> bool:
        return self.missing <= self.journal.outcomes.keys()

    @property
    def site(self) -> Site:
        if self._site is None:
            self._site = site_for(self.plan, self.folder)
        return self._site

    def follow(self, progress: Progress) -> Iterator[None]:
        """See the job to its end: start its worker when none runs, take what it answers, start it again when it dies.

        Yields when it has nothing to do for `pause_s`.
        """
        jobs.open_job(self.folder, jobs.job_record(self.plan.items, self.plan.settings))
        site = self.site
        site.prepare()
        self.stager = _Stager(self.plan, self.missing, self.folder, site, progress)
        self.pause_s = site.poll_s
        deaths, answers_at_death = 0, -1
        site.push()
        if self._look(Quiet()).status == "running":  # what was written until now is history
            log.get().info("job_found_running", job=self.name)
            if self._phase:
                progress.phase(self._phase)
        elif not self.is_answered:
            site.start()
            log.get().info("job_started", job=self.name, items=len(self.missing), engine=self.plan.settings.engine.name)
        while True:
            self.stager.collect(self.journal)
            state = self._look(progress)
            if self.is_answered:
                break
            if state.status != "running":
                _stop_if_final(state, self.folder, site)
                if state.ending != "done":  # done: it got tired of waiting for slow hints
                    answered = len(self.missing & self.journal.outcomes.keys())
                    deaths = deaths + 1 if answered == answers_at_death else 1
                    answers_at_death = answered
                    self._mourn(state, deaths)
                site.start()
            yield
        progress.phase("fetching")
        write_atomic(self.folder.closed, "")
        site.push()
        self.pause_s = min(site.poll_s, 0.1)
        while site.look().status == "running":
            yield
        site.finish()
        write_atomic(self.folder.tidied, "")

    def _look(self, progress: Progress) -> State:
        """How the worker stands; then what it wrote, for after its end it writes nothing."""
        state = self.site.look()
        for record in self._events.new():
            if record["event"] == "phase":
                self._phase = record["phase"]
                progress.phase(self._phase)
        before = len(self.journal.outcomes)
        refused = [_take(record, self.plan, self.folder, self.journal) for record in self._results.new()]
        if new := len(self.journal.outcomes) - before:
            progress.took("answers", time.monotonic(), new)
        if any(refused):
            self.site.push()
        return state

    def _mourn(self, state: State, deaths: int) -> None:
        """A worker ended before its work did: say why, make its place anew if that is gone, or give up."""
        if deaths > MAX_WORKER_DEATHS:
            raise HostError(f"the worker ended {deaths} times without an answer: {last_words(self.folder, state)}")
        if state.status == "absent" and self.site.goes_on_without_us:
            log.get().info("job_gone", job=self.name, note="another controller tidied it up; made again")
            self.site.prepare()
            self._events.begin_anew_if_shorter()
            self.site.push()
        else:
            log.get().warning("worker_restarted", job=self.name, ended=last_words(self.folder, state))

    def stop_staging(self) -> None:
        if self.stager:
            self.stager.stop.asked = True

    def close(self) -> None:
        self.stop_staging()
        if self.stager:
            self.stager.join()
        if self._site:
            self._site.close()


def _stop_if_final(state: State, job: JobPaths, site: Site) -> None:
    """Raise what makes starting the worker again pointless, or unwanted."""
    if state.ending == "load_failed":
        end = job.exit_record()
        raise EngineError(
            f"the model could not be loaded: {last_words(job, state)}", hint=f"see {job.log}" if end else ""
        )
    if state.ending == "timeout":
        raise HostError("the worker reached engine.time_limit_s", hint="resume the run for what is missing")
    if state.ending == "cancelled" and site.was_cancelled():
        raise HostError("the job was cancelled from elsewhere", hint="resume the run for what is missing")


def _leave(error: BaseException, started: Sequence[_Job], journal: RunJournal) -> None:
    """Go before the jobs have ended. Workers on this machine are asked to finish what they have in flight; elsewhere
    they go on, unless a second Ctrl-C comes."""
    elsewhere = [job for job in started if job.site.goes_on_without_us]
    for job in elsewhere:
        job.site.give_up_waiting()
    if elsewhere:
        if not isinstance(error, KeyboardInterrupt):
            return
        log.get().warning(
            "leaving",
            job=" ".join(job.name for job in elsewhere),
            note=f"Ctrl-C again within {SECOND_CTRL_C_S:.0f} s cancels the job",
        )
        try:
            time.sleep(SECOND_CTRL_C_S)
        except KeyboardInterrupt:
            log.get().warning("cancelling", job=" ".join(job.name for job in elsewhere))
        else:
            run = elsewhere[0].folder.run_folder
            raise Detached(
                f"left; the job goes on on {elsewhere[0].site.name}",
                hint=f"come back:  python -m src.run task=attach run={run}\n"
                f"    stop it:    python -m src.run task=cancel run={run}",
            ) from None
    for job in started:
        job.site.ask_to_stop()
        log.get().info("waiting_for_what_is_in_flight", job=job.name)
    for job in started:
        while job.site.look().status == "running":
            time.sleep(min(job.site.poll_s, 0.1))
        _absorb(job.folder, journal)


def _take(record: dict[str, Any], plan: Plan, job: JobPaths, journal: RunJournal) -> bool:
    """Write a result down; what the engine refused is staged again, smaller, while it answers the others (True)."""
    if record["id"] in journal.outcomes:
        return False
    if record["state"] == REFUSED:
        item = plan.by_id[record["id"]]
        if plan.settings.shrink:
            wrong = jobs.stage_smaller(item, record, job, plan.settings)
        else:
            wrong = f"the engine refused it: {record['reason']}"
        if wrong is None:
            log.get().warning("hint_made_smaller", item=item.name, reason=record["reason"])
            return True
        record = {**record, "state": KEPT if item.prompt.strip() else FAILED, "reason": wrong}
    journal.add(Outcome.of(record))
    return False


class _Stager:
    """Renders and stages in a thread of its own, so that answers come in while hints are still being made."""

    def __init__(self, plan: Plan, missing: set[str], job: JobPaths, site: Site, progress: Progress) -> None:
        self.stop, self.done, self.total = Stop(), 0, len(missing)
        self._out: queue.Queue[tuple[int, list[Outcome]] | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(plan, missing, job, site, progress), name="stage")
        self._thread.start()

    def _run(self, plan: Plan, missing: set[str], job: JobPaths, site: Site, progress: Progress) -> None:
        try:
            began = time.monotonic()
            for ready in jobs.stage(plan, missing, job, Path(plan.settings.cache_dir) / "hints", self.stop):
                progress.took("hints", began, ready[0])
                began, sent = time.monotonic(), site.sent_bytes
                site.push()
                if site.sent_bytes > sent:
                    progress.took("sending", began, site.sent_bytes - sent)
                self._out.put(ready)
                began = time.monotonic()
        except BaseException as e:  # handed to the main thread, which raises it
            self._out.put(e)

    def collect(self, journal: RunJournal) -> None:
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

    def join(self) -> None:
        self._thread.join()


class Tail:
    """The whole lines that were added to a journal since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def begin_anew_if_shorter(self) -> None:
        """After a journal may have been emptied, and before it can have grown beyond where we were."""
        if not self.path.exists() or self.path.stat().st_size < self.at:
            self.at = 0

    def new(self) -> Iterator[dict[str, Any]]:
        self.begin_anew_if_shorter()
        try:
            f = open(self.path, "rb")
        except FileNotFoundError:
            return
        with f:
            f.seek(self.at)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                self.at += len(line)
                yield json.loads(line)


def _tell(jobs_here: Sequence[_Job], plan: Plan, journal: RunJournal, progress: Progress, seconds: float) -> None:
    """The state of all jobs together."""
    staged, total = sum(job.stager.done for job in jobs_here if job.stager), sum(len(job.missing) for job in jobs_here)
    sent_mib = sum(job.site.sent_bytes for job in jobs_here) / 2**20
    rate = sent_mib / max(seconds, 1e-3)
    progress.step(
        "hints", staged, total, f"{sent_mib:.1f} MiB sent, {rate:.1f} MiB/s" if sent_mib and staged < total else ""
    )
    states = Counter(o.state for o in journal.outcomes.values())
    note = "  ".join(f"{states[s]} {s}" for s in (UPSAMPLED, KEPT, FAILED) if states[s])
    progress.step("answers", len(journal.outcomes), len({item.id for item in plan.items}), note)


def last_words(job: JobPaths, state: State) -> str:
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
