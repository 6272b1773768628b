"""A job that upsamples: one engine, loaded once, answers the items of all batches, and each answer is written down as it
comes.

An answer that fails a check is asked for again; an engine that has no room for an item refuses it, and the controller
sends it again, smaller.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .checks import SeenAnswers, failed_check
from .engines import make_engine
from .engines.engine import Answer, Engine, ItemFailed, ItemKept, Picture, Refused, Request
from .journal import read_records
from .lifecycle import Control, JobLog, Stopped
from .protocol import (
    FAILED,
    HEARTBEAT_S,
    KEPT,
    REFUSED,
    UPSAMPLED,
    Attempt,
    EngineUsed,
    Exit,
    Item,
    Outcome,
    Seconds,
    SentFrame,
    TokenCounts,
    UpsampleJob,
)
from .records import from_line

POLL_S = 0.05


@dataclass
class _Tried:
    """What the attempts at one item have come to. counted: prompt tokens, limit: of a request, where a refusal names them."""

    pictures: tuple[Picture, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    answer: Answer | None = None
    state: str = KEPT
    reason: str = ""
    refusal: str = ""
    counted: int | None = None
    limit: int | None = None


class Worker:
    """Processes the batches of one job folder with one engine."""

    def __init__(self, folder: Path, job: UpsampleJob, engine: Engine, control: Control) -> None:
        self.folder, self.job, self.engine, self.control = folder, job, engine, control
        self.time_limit_s = job.engine.time_limit_s
        self.log = JobLog(folder)
        self._final: set[str] = set()
        self._tried: set[tuple[str, int]] = set()  # (id, step) with a result line, final or not
        self._seen = SeenAnswers()
        for outcome in read_records(self.log.results.path, Outcome):
            self._note(outcome)
            if outcome.text is not None:
                self._seen.failed_check(outcome.text, outcome.id, outcome.input_hash)
        self._ended = threading.Event()
        self._abandoned = False  # the grace time is over: what is still in flight counts as not started
        self._in_flight = 0
        self._failure: BaseException | None = None

    @classmethod
    def of(
        cls, folder: Path, job_json: bytes, control: Control, make: Callable[[UpsampleJob, Path], Engine] = make_engine
    ) -> Worker:
        """The worker of a job folder. Raises InvalidRecord for a job.json of another form."""
        job = from_line(UpsampleJob, job_json)
        return cls(folder, job, make(job, folder), control)

    @property
    def answered(self) -> int:
        return len(self._final)

    def _note(self, outcome: Outcome) -> None:
        self._tried.add((outcome.id, outcome.step))
        if outcome.state != REFUSED:
            self._final.add(outcome.id)

    def run(self) -> Exit:
        """Load, serve, drain."""
        heartbeat = threading.Thread(target=self._beat, daemon=True)
        heartbeat.start()
        started = time.monotonic()
        try:
            self.log.phase("loading")
            with contextlib.suppress(Stopped):
                with self.control.loading():
                    self.engine.load(self.log.phase)
                self.log.phase("serving", load_s=round(time.monotonic() - started, 3))
                self._serve()
            self.log.phase("draining")
        finally:
            self._ended.set()
            heartbeat.join()
            self.engine.close()
        if self._failure:
            raise self._failure
        return self.control.exit_of(sorted({item.id for item in self._all_items() if self._is_open(item)}))

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(HEARTBEAT_S):
            beat += 1
            self.log.heartbeat(beat=beat, answered=self.answered, in_flight=self._in_flight)

    # ---------------------------------------------------------------------------------------------- items and threads

    def _serve(self) -> None:
        count = max(1, self.engine.concurrency)
        todo: queue.Queue[Item | None] = queue.Queue(maxsize=count)  # bounded: memory does not grow with the batch
        threads = [threading.Thread(target=self._worker_loop, args=(todo,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            for item in self._arriving():
                while not self.control.stop.is_set():
                    try:
                        todo.put(item, timeout=POLL_S)
                        break
                    except queue.Full:
                        continue
        finally:
            threading.Thread(target=_end_loops, args=(todo, count), daemon=True).start()
            self._join(threads)

    def _join(self, threads: list[threading.Thread]) -> None:
        """Wait for the threads; once asked to stop, for no longer than the grace time."""
        deadline: float | None = None
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL_S)
                if self.control.stop.is_set():
                    deadline = deadline or time.monotonic() + self.job.engine.grace_s
                    if time.monotonic() > deadline:
                        self._abandoned = True
                        self.log.phase("abandoning", items=self._in_flight)
                        return

    def _arriving(self) -> Iterator[Item]:
        """Unanswered items in order, as their batches arrive, until closed, or idle for linger_s with no controller."""
        taken: set[str] = set()
        asked: set[tuple[str, int]] = set()
        idle_since = time.monotonic()
        while not self.control.stop.is_set():
            closed = (self.folder / "closed").exists()  # looked up before the batches: none comes after it
            fresh = [b for b in sorted((self.folder / "batches").glob("*.jsonl")) if b.name not in taken]
            for batch in fresh:
                taken.add(batch.name)
                for item in read_records(batch, Item):
                    if self._is_open(item) and (item.id, item.step) not in asked:
                        asked.add((item.id, item.step))
                        yield item
                        if self.control.stop.is_set():
                            return
            if fresh or self._in_flight:
                idle_since = time.monotonic()
            if closed and not fresh:
                return
            if time.monotonic() - idle_since > self.job.linger_s and not self._is_attended():
                return
            time.sleep(POLL_S)

    def _is_attended(self) -> bool:
        """Whether a controller has asked for the state of the job within linger_s: its hints may take long."""
        try:
            return time.time() - (self.folder / "lease").stat().st_mtime < self.job.linger_s
        except FileNotFoundError:
            return False

    def _is_open(self, item: Item) -> bool:
        return item.id not in self._final and (item.id, item.step) not in self._tried

    def _all_items(self) -> Iterator[Item]:
        for batch in sorted((self.folder / "batches").glob("*.jsonl")):
            yield from read_records(batch, Item)

    def _worker_loop(self, todo: queue.Queue[Item | None]) -> None:
        while (item := todo.get()) is not None:
            if self.control.stop.is_set():
                continue
            self._in_flight += 1
            try:
                outcome = self.process(item)
                if not self._abandoned:
                    self.log.results.append(outcome)
                    self._note(outcome)
            except BaseException as e:  # a thread must not die silently: the job ends with what was wrong
                if not self._abandoned:
                    self._failure = e
                    self.control.stop.set()
            finally:
                self._in_flight -= 1

    # ------------------------------------------------------------------------------------------------------- one item

    def process(self, item: Item) -> Outcome:
        """Ask until an answer passes the checks or the attempts are used up."""
        started = time.monotonic()
        tried = _Tried()
        try:
            self._ask(item, tried)
        except Refused as e:
            tried.state, tried.reason, tried.refusal = REFUSED, str(e), e.kind
            tried.counted, tried.limit = e.prompt_tokens, e.limit
        except ItemKept as e:
            tried.reason = str(e)
        except ItemFailed as e:
            tried.state, tried.reason = FAILED, str(e)
        if tried.state == KEPT:
            tried.state = fallback_state(item.prompt)
        return self._outcome(item, tried, round(time.monotonic() - started, 4))

    def _ask(self, item: Item, tried: _Tried) -> None:
        tried.pictures = self._read_pictures(item)
        max_tokens = item.max_tokens
        for n in range(self.job.engine.max_attempts):
            answer = self.engine.answer(Request(item, tried.pictures, item.seed + n, max_tokens))
            tried.answer = answer
            _check_tokens(item, answer)
            wrong = failed_check(answer, item, self.job.checks) or self._seen.failed_check(
                answer.text, item.id, item.input_hash
            )
            tried.attempts.append(Attempt(item.seed + n, max_tokens, wrong))
            if wrong is None:
                tried.state, tried.reason = UPSAMPLED, ""
                return
            tried.reason = f"{wrong}, {n + 1} time{'s' if n else ''}"
            if answer.finish_reason == "length" and item.predicted:  # a larger reserve, where the budget has room
                max_tokens = min(2 * max_tokens, self.job.max_model_len - item.predicted)

    def _outcome(self, item: Item, tried: _Tried, total_s: float) -> Outcome:
        answer, engine = tried.answer, self.engine
        measured = answer.prompt_tokens if answer else tried.counted
        return Outcome(
            id=item.id,
            state=tried.state,
            reason=tried.reason,
            text=answer.text if answer and tried.state == UPSAMPLED else None,
            note=item.note,
            attempts=tuple(tried.attempts),
            engine=EngineUsed(engine.name, engine.version, tuple(engine.fallbacks)),
            tokens=TokenCounts(item.predicted, measured, answer.output_tokens if answer else None),
            finish_reason=answer.finish_reason if answer else None,
            frames=tuple(SentFrame(p.sha256, len(p.data), p.size) for p in tried.pictures),
            seconds=Seconds(total_s, answer.first_token_s if answer else None, answer.queue_s if answer else None),
            refusal=tried.refusal,
            limit=tried.limit,
            rejected=answer.text if answer and tried.state == KEPT else None,
            step=item.step,
            input_hash=item.input_hash,
        )

    def _read_pictures(self, item: Item) -> tuple[Picture, ...]:
        try:
            pictures = tuple(Picture.read(self.folder / name) for name in item.frames)
        except OSError as e:
            raise ItemFailed(f"frame {e.filename}: {e.strerror}") from e
        for name, picture in zip(item.frames, pictures, strict=True):
            named = Path(name).stem
            if re.fullmatch("[0-9a-f]{64}", named) and named != picture.sha256:
                raise ItemFailed(f"frame {name} is damaged: its content does not match the hash in its name")
        return pictures


def _check_tokens(item: Item, answer: Answer) -> None:
    """The plan is the truth: an engine that counted otherwise did not get what was planned."""
    if None not in (item.predicted, answer.prompt_tokens) and item.predicted != answer.prompt_tokens:
        raise ItemFailed(
            f"the engine counted {answer.prompt_tokens} prompt tokens, the plan {item.predicted}: "
            "its input is not what was planned. Another model behind the address, another version of the server, or a "
            "processor setting would do that; model.family=ask lets the server count"
        )


def fallback_state(prompt: str) -> str:
    """The state of an item without an answer: its original prompt is kept, if there is one."""
    return KEPT if prompt.strip() else FAILED


def _end_loops(todo: queue.Queue[Item | None], count: int) -> None:
    """Tell each thread to end, after what is queued before. Blocks while the queue is full."""
    for _ in range(count):
        todo.put(None)
