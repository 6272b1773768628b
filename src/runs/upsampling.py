"""A plan to its end: stage its items, take their answers, write down how each item ends.

First start, resuming and reattaching are the same code: what already ended is read from the journals, a worker that still
runs is supervised (`runs.supervisor`), and only what is missing is asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from .. import log
from ..errors import Detached, HostError
from ..hosts.job_folder import JobPaths, open_job, open_jobs
from ..hosts.job_handle import JobHandle, handle_of_plan
from ..planning import observed_limits
from ..planning.observed_limits import ObservedLimit
from ..planning.partition import shards
from ..planning.plan import Plan, PlanItem
from ..run_folder import RunPaths
from ..timing.progress import Progress
from ..worker.protocol import DAMAGED, FAILED, KEPT, REFUSED, UPSAMPLED, Outcome
from ..worker.upsample import fallback_state
from . import staging
from .answer_cache import AnswerCache
from .outcomes import Outcomes, RunJournal
from .staging import Stop
from .supervisor import Labels, Supervisor, Tail, supervise

OnRound = Callable[[Outcomes], None]
LABELS = Labels(
    worker="the worker",
    result="an answer",
    cannot_load="the model could not be loaded",
    time_limit="engine.time_limit_s",
)


def execute(
    plan: Plan,
    paths: RunPaths,
    progress: Progress,
    *,
    retry_failed: bool = False,
    detach: bool = False,
    on_round: OnRound = lambda outcomes: None,
) -> Outcomes:
    """Run the plan in its folder until every item has ended; the outcomes by item id.

    retry_failed: items that failed before are asked again. detach: raises Detached once everything is staged and every
    worker runs; they run on, also on this machine. on_round: called now and then with the outcomes so far. Raises EngineError
    when the engine cannot be loaded, HostError when a worker keeps dying; what ended before is in the journal. On
    KeyboardInterrupt the workers finish what they have in flight, that is written down, and the interrupt is raised again.
    """
    journal = RunJournal(paths.journal, plan.distinct_ids)
    try:
        journal.add(never_sent(item) for item in plan.never_sent())
        for folder in sorted(paths.jobs.glob("*/")):
            if new := absorb(JobPaths(folder), journal):
                log.get().info("answers_taken_over", items=new)
        failed = retryable(plan, journal.outcomes) if retry_failed else []
        if failed and open_jobs(paths.jobs):  # a job that is not finished would end them again as before
            _run_missing(plan, paths, journal, progress, on_round)
        journal.reopen(failed)
        _run_missing(plan, paths, journal, progress, on_round, detach)
        return journal.outcomes
    finally:
        AnswerCache(Path(plan.settings.cache_dir)).put(journal.new_answers())
        journal.close()


def _run_missing(
    plan: Plan, paths: RunPaths, journal: RunJournal, progress: Progress, on_round: OnRound, detach: bool = False
) -> None:
    """Ask what has not ended, and bring jobs to their end that have ended everything."""
    if plan.settings.reuse:
        _reuse(plan, journal)
    parts = [_Answers(shard, paths, journal) for shard in shards(plan)]
    _run_jobs([part for part in parts if part.missing], plan, journal, progress, on_round, detach)
    for part in parts:
        if not part.missing and part.is_unfinished:  # the controller was killed between the last answer and the end
            try:
                _run_jobs([part], plan, journal, progress, on_round)
            except HostError as e:
                log.get().warning("job_not_cleaned_up", job=part.folder.root.name, reason=e.message)


def retryable(plan: Plan, outcomes: Outcomes) -> list[str]:
    """The items for which asking again may help: they failed, and not because of what the plan already knows of them."""
    if not outcomes.states[FAILED]:
        return []
    return [item_id for batch in plan.batches for item_id in batch if outcomes.state_of(item_id) == FAILED]


def never_sent(item: PlanItem) -> Outcome:
    """The outcome of an item that cannot be served by the plan itself."""
    return Outcome(item.id, fallback_state(item.prompt), item.problem)


def _reuse(plan: Plan, journal: RunJournal) -> None:
    cache = AnswerCache(Path(plan.settings.cache_dir))
    found = journal.add(cache.find(item_id for item_id in plan.distinct_ids if item_id not in journal.outcomes))
    if found:
        log.get().info("answers_reused", items=len(found))


def absorb(job: JobPaths, journal: RunJournal) -> int:
    """Add what a job of this run answered while no controller was attached; how many answers that were."""
    outcomes = Tail(job.results, Outcome).new()
    return len(journal.add(outcome for outcome in outcomes if outcome.state != REFUSED))


def _run_jobs(
    parts: Sequence[_Answers],
    plan: Plan,
    journal: RunJournal,
    progress: Progress,
    on_round: OnRound,
    detach: bool = False,
) -> None:
    """Bring jobs to their end, side by side, as one: one journal, one progress."""
    started = time.monotonic()
    asked, states = len(plan.distinct_ids), journal.outcomes.states

    def show(supervisors: Sequence[Supervisor]) -> None:
        staged, total = sum(part.staged for part in parts), sum(part.asked for part in parts)
        sent_mib = sum(supervisor.sent_bytes for supervisor in supervisors) / 2**20
        rate = sent_mib / max(time.monotonic() - started, 1e-3)
        sending = f"{sent_mib:.1f} MiB sent, {rate:.1f} MiB/s" if sent_mib and staged < total else ""
        progress.step("hints", staged, total, sending)
        note = "  ".join(f"{states[s]} {s}" for s in (UPSAMPLED, KEPT, FAILED) if states[s])
        progress.step("answers", len(journal.outcomes), asked, note)
        on_round(journal.outcomes)
        if detach and staged == total and not all(part.is_done for part in parts):
            for part, supervisor in zip(parts, supervisors, strict=True):
                if not part.is_done:
                    supervisor.submit()
            raise Detached("the workers run on")

    supervise(parts, progress, show)


class _Answers:
    """One worker's share of a run's items: what is missing of it, staged in its job folder and written down."""

    labels = LABELS
    outcome = Outcome

    def __init__(self, plan: Plan, paths: RunPaths, journal: RunJournal) -> None:
        self.plan, self.journal = plan, journal
        self.missing = {item_id for item_id in plan.distinct_ids if item_id not in journal.outcomes}
        self.asked = len(self.missing)
        self.folder = staging.job_folder(plan, paths.jobs)
        self.load_log = self.folder.log
        self.started_with = {"items": str(self.asked), "engine": plan.settings.engine.name}
        self._stager: _Stager | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.folder.job.exists() and not self.folder.finished.exists()

    @property
    def is_done(self) -> bool:
        return not self.missing

    @property
    def is_staged(self) -> bool:
        return self.staged >= self.asked

    @property
    def ended(self) -> int:
        return self.asked - len(self.missing)

    @property
    def staged(self) -> int:
        return self._stager.done if self._stager else 0

    def open(self) -> JobHandle:
        open_job(self.folder, staging.upsample_job(self.plan))
        return handle_of_plan(self.plan, self.folder)

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        self._stager = _Stager(self.plan, self.missing, self.folder, handle, progress)

    def collect(self) -> None:
        if self._stager:
            self._add(self._stager.collect())

    def take(self, outcomes: Iterable[Outcome], handle: JobHandle, progress: Progress) -> None:
        ended, again = [], False
        for outcome in self.journal.asked_for(outcomes):
            if outcome.state == REFUSED and outcome.id not in self.journal.outcomes:
                final = _stage_again(outcome, self.plan, self.folder)
                again = again or final is None
            else:
                final = outcome
            ended += [final] if final else []
        if new := self._add(ended):
            progress.took("answers", time.monotonic(), new)
        if again:
            handle.push()

    def _add(self, outcomes: Iterable[Outcome]) -> int:
        new = self.journal.add(outcomes)
        self.missing.difference_update(new)
        return len(new)

    def take_rest(self, handle: JobHandle) -> None:
        absorb(self.folder, self.journal)

    def stop(self) -> None:
        if self._stager:
            self._stager.stop.asked = True

    def close(self) -> None:
        self.stop()
        if self._stager:
            self._stager.join()


def _stage_again(refused: Outcome, plan: Plan, job: JobPaths) -> Outcome | None:
    """Stage what was refused again, smaller or with its frames rendered again, while the engine answers the others; its final
    outcome where that cannot be."""
    item = plan.find(refused.id)
    if refused.refusal == DAMAGED:
        wrong = staging.stage_again(item, refused, job, plan.settings)
    else:
        _remember_limit(refused, item, plan)
        if plan.settings.shrink:
            wrong = staging.stage_smaller(item, refused, job, plan.settings)
        else:
            wrong = f"the engine refused it: {refused.reason}"
    if wrong is None:
        if refused.refusal == DAMAGED:
            log.get().warning("frame_sent_again", item=item.name, reason=refused.reason)
        else:
            log.get().warning("hint_made_smaller", item=item.name, reason=refused.reason)
        return None
    return replace(refused, state=fallback_state(item.prompt), reason=wrong)


def _remember_limit(refused: Outcome, item: PlanItem, plan: Plan) -> None:
    """Keep for later plans what the engine was observed to refuse, where max_model_len allows it."""
    settings = plan.settings
    length = (refused.tokens.measured or item.tokens.prompt) + settings.max_output_tokens
    shortest = min(length, refused.limit + 1) if refused.limit else length
    if shortest > settings.max_model_len:
        return
    file, key = observed_limits.limits_file(Path(settings.cache_dir)), observed_limits.key_of(settings)
    known = observed_limits.read(file).get(key)
    if known and known.refused is not None and known.refused <= shortest:
        return
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    version = f"{refused.engine.name} {refused.engine.version}"
    new = ObservedLimit(
        settings.host.name, settings.image.reference, settings.engine.name, settings.model.name, version,
        settings.max_model_len, None, shortest, now,
    )  # fmt: skip
    observed_limits.remember(file, key, new)
    log.get().warning("engine_accepts_less", max_model_len=settings.max_model_len, refused=shortest, file=str(file))


class _Stager:
    """Renders and stages in a thread of its own, so that answers come in while hints are still being made."""

    def __init__(self, plan: Plan, missing: set[str], job: JobPaths, handle: JobHandle, progress: Progress) -> None:
        self.stop, self.done, self.total = Stop(), 0, len(missing)
        self._out: queue.Queue[tuple[int, list[Outcome]] | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(plan, missing, job, handle, progress), name="stage")
        self._thread.start()

    def _run(self, plan: Plan, missing: set[str], job: JobPaths, handle: JobHandle, progress: Progress) -> None:
        try:
            with _Pusher(handle, progress) as pusher:
                began = time.monotonic()
                for ready in staging.stage(plan, missing, job, Path(plan.settings.cache_dir) / "hints", self.stop):
                    progress.took("hints", began, ready[0])
                    pusher.wake()
                    self._out.put(ready)
                    began = time.monotonic()
        except BaseException as e:  # handed to the main thread, which raises it
            self._out.put(e)

    def collect(self) -> list[Outcome]:
        """The outcomes of what could not be staged; raises what went wrong in the thread."""
        lost: list[Outcome] = []
        while not self._out.empty():
            ready = self._out.get()
            if isinstance(ready, OSError):
                raise HostError(f"hints cannot be written: {ready.filename or ''} {ready.strerror}") from ready
            if isinstance(ready, BaseException):
                raise ready
            self.done += ready[0]
            lost += ready[1]
        return lost

    def join(self) -> None:
        self._thread.join()


class _Pusher:
    """Pushes in a thread of its own, each time all that is staged by then: over a slow link, batches travel together."""

    def __init__(self, handle: JobHandle, progress: Progress) -> None:
        self._handle, self._progress = handle, progress
        self._staged, self._ends = threading.Event(), False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="push")

    def __enter__(self) -> _Pusher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._staged.set()
        self._thread.join()
        self._raise_error()

    def wake(self) -> None:
        """There is something new to push. Raises what went wrong before."""
        self._raise_error()
        self._staged.set()

    def _raise_error(self) -> None:
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                self._staged.wait()
                self._staged.clear()
                is_last = self._ends  # looked up before the push, which takes all that was staged until then
                began, sent = time.monotonic(), self._handle.sent_bytes
                self._handle.push()
                if self._handle.sent_bytes > sent:
                    self._progress.took("sending", began, self._handle.sent_bytes - sent)
        except BaseException as e:  # handed to the thread that stages
            self._error = e
