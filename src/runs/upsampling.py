"""Carry out a plan: stage its items, take their answers, write down how each item ends.

First start, resume and re-attach are the same code: what already ended is read from the journals, a worker that still
runs is followed (`runs.supervisor`), and only what is missing is asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from launchers.worker import REFUSED

from .. import log
from ..errors import HostError
from ..hosts import job_folder
from ..hosts.job_folder import JobPaths
from ..hosts.job_handle import Site, site_for
from ..planning.partition import shards
from ..planning.plan import Plan, PlanItem
from ..run_folder import RunPaths
from ..timing.progress import Progress
from . import staging
from .answer_cache import AnswerCache
from .outcomes import FAILED, KEPT, UPSAMPLED, Outcome, RunJournal
from .staging import Stop
from .supervisor import Follower, Record, Tail, Words, follow

WORDS = Words(
    worker="the worker",
    result="an answer",
    cannot_load="the model could not be loaded",
    time_limit="engine.time_limit_s",
    again="task=attach run",
)


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
        parts = [_Answers(shard, paths, journal) for shard in shards(plan)]
        _see_through([part for part in parts if part.missing], plan, journal, progress)
        for part in parts:
            if not part.missing and part.is_left_behind:  # we were killed between the last answer and the end
                try:
                    _see_through([part], plan, journal, progress)
                except HostError as e:
                    log.get().warning("job_not_tidied", job=part.folder.root.name, reason=e.message)
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


def _see_through(parts: Sequence[_Answers], plan: Plan, journal: RunJournal, progress: Progress) -> None:
    """Carry jobs to their end, side by side, as one: one journal, one progress."""
    started = time.monotonic()
    asked = len({item.id for item in plan.items})

    def tell(followers: Sequence[Follower]) -> None:
        staged, total = sum(part.staged for part in parts), sum(len(part.missing) for part in parts)
        sent_mib = sum(follower.sent_bytes for follower in followers) / 2**20
        rate = sent_mib / max(time.monotonic() - started, 1e-3)
        sending = f"{sent_mib:.1f} MiB sent, {rate:.1f} MiB/s" if sent_mib and staged < total else ""
        progress.step("hints", staged, total, sending)
        states = Counter(o.state for o in journal.outcomes.values())
        note = "  ".join(f"{states[s]} {s}" for s in (UPSAMPLED, KEPT, FAILED) if states[s])
        progress.step("answers", len(journal.outcomes), asked, note)

    follow(parts, progress, tell)


class _Answers:
    """One worker's share of a run's items: what is missing of it, staged in its job folder and written down."""

    words = WORDS

    def __init__(self, plan: Plan, paths: RunPaths, journal: RunJournal) -> None:
        self.plan, self.journal = plan, journal
        self.missing = {item.id for item in plan.items} - journal.outcomes.keys()
        self.folder = JobPaths(paths.jobs / staging.job_id(plan.items, plan.settings))
        self.load_log = self.folder.log
        self.about = {"items": str(len(self.missing)), "engine": plan.settings.engine.name}
        self._stager: _Stager | None = None

    @property
    def is_left_behind(self) -> bool:
        return self.folder.job.exists() and not self.folder.tidied.exists()

    @property
    def is_done(self) -> bool:
        return self.missing <= self.journal.outcomes.keys()

    @property
    def ended(self) -> int:
        return len(self.missing & self.journal.outcomes.keys())

    @property
    def staged(self) -> int:
        return self._stager.done if self._stager else 0

    def open(self) -> Site:
        job_folder.open_job(self.folder, staging.job_record(self.plan.items, self.plan.settings))
        return site_for(self.plan, self.folder)

    def begin(self, site: Site, progress: Progress) -> None:
        self._stager = _Stager(self.plan, self.missing, self.folder, site, progress)

    def collect(self) -> None:
        if self._stager:
            self._stager.collect(self.journal)

    def take(self, records: Sequence[Record], site: Site, progress: Progress) -> None:
        before = len(self.journal.outcomes)
        refused = [_take(record, self.plan, self.folder, self.journal) for record in records]
        if new := len(self.journal.outcomes) - before:
            progress.took("answers", time.monotonic(), new)
        if any(refused):
            site.push()

    def take_the_rest(self, site: Site) -> None:
        _absorb(self.folder, self.journal)

    def stop(self) -> None:
        if self._stager:
            self._stager.stop.asked = True

    def close(self) -> None:
        self.stop()
        if self._stager:
            self._stager.join()


def _take(record: Record, plan: Plan, job: JobPaths, journal: RunJournal) -> bool:
    """Write a result down; what the engine refused is staged again, smaller, while it answers the others (True)."""
    if record["id"] in journal.outcomes:
        return False
    if record["state"] == REFUSED:
        item = plan.by_id[record["id"]]
        if plan.settings.shrink:
            wrong = staging.stage_smaller(item, record, job, plan.settings)
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
            for ready in staging.stage(plan, missing, job, Path(plan.settings.cache_dir) / "hints", self.stop):
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
