"""A plan to its end: stage its items, take their answers, write down how each item ends.

First start, resuming and reattaching are the same code: what already ended is read from the journals, a worker that still
runs is supervised (`runs.supervisor`), and only what is missing is asked.
"""

from __future__ import annotations

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
from ..planning.partition import Place, places
from ..planning.plan import Plan, PlanItem
from ..run_folder import RunPaths
from ..timing.progress import Progress
from ..worker.protocol import DAMAGED, FAILED, REFUSED, Outcome, fallback_state
from . import staging
from .answer_cache import AnswerCache
from .fleet import supervise
from .outcomes import Outcomes, RunJournal
from .pool import Pool
from .pusher import Pusher
from .supervisor import Labels, Supervisor
from .tail import Tail

MOST_OPEN = 4096  # items at one of several workers
PATIENCE_S = 1.0  # with one of several hosts, at the end
OnRound = Callable[[Outcomes], None]
LABELS = Labels("the worker", "an answer", "the model could not be loaded", "engine.time_limit_s")


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
    journal = RunJournal(paths.journal, plan.places)
    try:
        journal.add(never_sent(item) for item in plan.never_sent())
        for folder in sorted(paths.jobs.glob("*/")):
            if new := absorb(JobPaths(folder), journal):
                log.get().info("answers_taken_over", items=new)
        failed = retryable(plan, journal.outcomes) if retry_failed else []
        # Jobs that would end them again as before; one that was only prepared (task=manifest) has nothing.
        if failed and any(job.staged() or job.results.exists() for job in open_jobs(paths.jobs)):
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
    if plan.settings.host.kind == "ray":
        from .ray_run import run_on_ray

        run_on_ray(plan, paths, journal, progress, on_round, _stage_again, LABELS)
        return
    found = {place: staging.job_folder(plan, paths.jobs, place.name) for place in places(plan)}
    pool = Pool(plan, {place.name: folder for place, folder in found.items()}, paths, journal)
    parts = [_Answers(pool, place) for place in found]
    if pool.missing:
        _run_jobs(parts, pool, progress, on_round, detach)
        return
    for part in parts:
        if part.is_unfinished:  # the controller was killed between the last answer and the end
            try:
                _run_jobs([part], pool, progress, on_round)
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
    parts: Sequence[_Answers], pool: Pool, progress: Progress, on_round: OnRound, detach: bool = False
) -> None:
    """Bring jobs to their end, side by side, as one: one journal, one progress."""
    started = time.monotonic()
    outcomes, asked = pool.journal.outcomes, len(pool.plan.distinct_ids)
    by_name = {part.name: part for part in parts}

    def show(supervisors: Sequence[Supervisor]) -> None:
        if pool.collect() and not pool.is_shared:
            parts[0].push()
        sent_mib = sum(supervisor.sent_bytes for supervisor in supervisors) / 2**20
        rate = sent_mib / max(time.monotonic() - started, 1e-3)
        sending = f"{sent_mib:.1f} MiB sent, {rate:.1f} MiB/s" if sent_mib and pool.staged < pool.asked else ""
        progress.step("hints", pool.staged, pool.asked, sending)
        progress.step("answers", len(outcomes), asked, outcomes.note)
        on_round(outcomes)
        up = [
            (part, supervisor)
            for part, supervisor in zip(parts, supervisors, strict=True)
            if supervisor.is_up or (detach and supervisor.is_queued)
        ]
        rooms = {part.name: 2 * pool.asked if detach else part.room(supervisor.window) for part, supervisor in up}
        among = max(1, len(rooms) + sum(supervisor.is_expected for supervisor in supervisors))
        queued = sum(not supervisor.is_left_out for supervisor in supervisors) - among
        for part in pool.deal(rooms, among, max(0, queued), at_once=detach):
            by_name[part].push()
        if detach and pool.is_given_out and pool.missing and not any(s.is_expected for s in supervisors):
            for _, supervisor in up:
                supervisor.submit()
            raise Detached("the workers continue")

    supervise(parts, progress, show, pool.plan.settings.host.patience_s)


class _Answers:
    """What one worker has of a run's items: dealt to it from the pool, staged in its job folder, answered there."""

    labels = LABELS
    outcome = Outcome

    def __init__(self, pool: Pool, place: Place) -> None:
        self.pool, self.name, self._settings, self.folder = pool, place.name, place.settings, pool.folders[place.name]
        self.place = place.name or place.settings.host.name
        self.load_log = self.folder.log
        self.started_with = {"items": str(pool.asked), "engine": place.settings.engine.name}
        self.ended = 0  # that this worker answered first
        self._batch = max(map(len, pool.plan.batches), default=1)
        self._room = 0
        self._pusher: Pusher | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.folder.job.exists() and not self.folder.finished.exists()

    @property
    def is_done(self) -> bool:
        return not self.pool.missing

    @property
    def is_staged(self) -> bool:
        return bool(self.pool.dealer.open[self.name]) if self.pool.is_shared else self.pool.is_given_out

    @property
    def left(self) -> int:
        return len(self.pool.dealer.open[self.name] if self.pool.is_shared else self.pool.missing)

    def open(self) -> JobHandle:
        open_job(self.folder, staging.upsample_job(self.pool.plan, self.name))
        return handle_of_plan(self.pool.plan, self.folder, self._settings)

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        if self._pusher:  # of a host that was lost
            self._pusher.close(0)
        self._pusher = Pusher(handle, progress)
        self.pool.begin(progress)

    def collect(self) -> None:
        if self._pusher:
            self._pusher.raise_error()

    def room(self, window: int) -> int:
        """How many items may be open here: two batches, or two windows, or more where a poll brings much of that."""
        self._room = max(self._room, 2 * window, 2 * self._batch)
        return self._room

    def push(self) -> None:
        if self._pusher:
            self._pusher.wake()

    def take(self, outcomes: Iterable[Outcome], handle: JobHandle, progress: Progress) -> None:
        ended = []
        for outcome in self.pool.journal.asked_for(outcomes):
            if outcome.state != REFUSED:
                ended.append(outcome)
            elif outcome.id in self.pool.missing and (final := self._again(outcome)):
                ended.append(final)
        if new := self.pool.add(ended):
            self.ended += new
            if new >= self._room // 4:
                self._room = min(2 * self._room, MOST_OPEN)
            progress.took("answers", time.monotonic(), new)

    def _again(self, refused: Outcome) -> Outcome | None:
        pool, step = self.pool, refused.step + 1
        if pool.steps.get(refused.id, 0) >= step:
            return None  # as an earlier start saw to it
        if final := _stage_again(refused, pool.plan, pool.folder):
            return final
        pool.staged_again(refused.id, step)
        if not pool.is_shared:
            self.push()
        return None

    def take_rest(self, outcomes: Iterable[Outcome], handle: JobHandle) -> None:
        self.pool.journal.add(outcome for outcome in outcomes if outcome.state != REFUSED)

    def give_back(self) -> bool:
        self._room = 0
        return self.pool.give_back(self.name)

    def stop(self) -> None:
        self.pool.stop()

    def close(self) -> None:
        self.pool.close()
        if self._pusher:
            self._pusher.close(PATIENCE_S if self.pool.is_shared else None)


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
    shortest = refused.limit + 1 if refused.limit else length
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
