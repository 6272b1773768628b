"""A job that upsamples: one engine, loaded once, answers the items of all batches, and each answer is written down as it
comes.

An answer that fails a check is asked for again; an engine that has no room for an item refuses it, and the controller
sends it again, smaller.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

from .asking import Asker, NotAsked
from .checks import SeenAnswers
from .engines.engine import Engine, ItemFailed, ItemKept, Picture, Refused, Request
from .flow import Flow
from .journal import Outbox, read_records
from .judge import Judge
from .lifecycle import Control, JobLog, Stopped, folder_time, left_out, written_at
from .protocol import (
    DAMAGED,
    FAILED,
    HEARTBEAT_S,
    KEPT,
    REFUSED,
    UNAVAILABLE,
    Attempt,
    Exit,
    Item,
    Outcome,
    Staged,
    UpsampleJob,
    fallback_state,
)
from .suspects import Suspects, halves
from .window import Seen, Window
from .work import LONGEST, Work, outcome_of

POLL_S = 0.05
ATTENDED_S = 1.0  # between two looks whether a controller is there
PICTURES = 64  # that are kept, encoded, for the items that share them


class Worker:
    """Processes the batches of one job folder with one engine."""

    def __init__(self, folder: Path, job: UpsampleJob, engine: Engine, control: Control) -> None:
        self.folder, self.job, self.engine, self.control = folder, job, engine, control
        self.time_limit_s = job.engine.time_limit_s
        self.log = JobLog(folder)
        self._final: set[str] = set()
        self._tried: set[tuple[str, int]] = set()  # (id, step) with a result line, final or not
        self._asked: set[tuple[str, int]] = set()  # of those that came
        self._read: dict[str, int] = {}  # when the batches that were read to their end had been written
        self._seen = SeenAnswers()
        self._judge = Judge(job, self._seen)
        for outcome in read_records(self.log.results.path, Outcome, left_out):
            self._note(outcome)
            if outcome.text is not None:
                self._seen.failed_check(outcome.text, outcome.id, outcome.input_hash)
        self._ended = threading.Event()
        self._abandoned = False  # the grace time is over: what is still in flight counts as not started
        self._flow: Flow[Work]
        self._outbox: Outbox[Outcome] | None = None
        self._lanes: list[threading.Thread] = []
        self._picture = lru_cache(PICTURES)(self._read_picture)
        self._failure: BaseException | None = None
        self._asker: Asker | None = None
        self._suspects = Suspects(folder / "in_flight")

    @property
    def answered(self) -> int:
        return len(self._final)

    def _note(self, outcome: Outcome) -> None:
        self._tried.add((outcome.id, outcome.step))
        if outcome.state != REFUSED:
            self._final.add(outcome.id)

    def _write(self, outcome: Outcome) -> None:
        self.log.results.append(outcome)
        self._note(outcome)

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
            missing = self._missing()  # while the heart still beats: it may take a while
        finally:
            self._ended.set()
            heartbeat.join()
            self.engine.close()
            self._suspects.clear()
        if self._failure:
            raise self._failure
        if self._asker and self._asker.unavailable and missing:
            return Exit(UNAVAILABLE, "unavailable", self._asker.unavailable, tuple(missing))
        return self.control.exit_of(missing, expects_more=not (self.folder / "closed").exists())

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(HEARTBEAT_S):
            beat += 1
            in_flight = self._flow.in_flight if hasattr(self, "_flow") else 0
            try:
                self.log.heartbeat(beat=beat, answered=self.answered, in_flight=in_flight)
            except OSError as e:  # the next one may be written; where an answer cannot, the worker ends
                print(f"a heartbeat could not be written: {e}", file=sys.stderr, flush=True)

    # ---------------------------------------------------------------------------------------------- items and threads

    def _serve(self) -> None:
        engine = self.engine
        flow = self._flow = Flow(engine.window, engine.signals, self.job.engine.patience_s, self._trace, self._fail)
        self._asker = Asker(engine, flow, self._suspects, self.log.busy, self.control.stop.set)
        self._outbox = Outbox(self.log.results, self._note, self._fail) if engine.signals else None
        try:
            for item in self._arriving():
                work = Work(item, item.max_tokens)
                while not self.control.stop.is_set() and not flow.put(work, POLL_S):
                    self._start_lanes()
                self._start_lanes()
        finally:
            flow.end()
            self._join()
            if self._outbox:
                self._outbox.close()

    def _start_lanes(self) -> None:
        while len(self._lanes) < self._flow.lanes:
            self._lanes.append(threading.Thread(target=self._lane, daemon=True))
            self._lanes[-1].start()

    def _join(self) -> None:
        """Wait for the lanes; once asked to stop, for no longer than the grace time."""
        deadline: float | None = None
        while living := [lane for lane in self._lanes if lane.is_alive()]:
            living[0].join(POLL_S)
            if self.control.stop.is_set():
                self._flow.stop()
                deadline = deadline or time.monotonic() + self.job.engine.grace_s
                if time.monotonic() > deadline:
                    self._abandoned = True
                    self.log.phase("abandoning", items=self._flow.busy)
                    return
            else:
                self._start_lanes()

    def _trace(self, window: Window, seen: Seen, tokens_s: float | None) -> None:
        self.log.window(
            window=window.size,
            reason=window.reason,
            in_flight=seen.in_flight,
            running=seen.running,
            waiting=seen.waiting,
            kv=seen.kv,
            tokens_s=None if tokens_s is None else round(tokens_s, 1),
        )

    def _arriving(self) -> Iterator[Item]:
        """Unanswered items in order, as their batches arrive, until closed, or idle for linger_s with no controller."""
        for item in self._isolated():
            self._asked.add((item.id, item.step))
            yield item
        idle_since, attended_at = time.monotonic(), 0.0
        while not self.control.stop.is_set():
            closed = (self.folder / "closed").exists()  # looked up before the batches: none comes after it
            batches, looks = sorted((self.folder / "batches").glob("*.jsonl")), closed or self._flow.is_idle
            fresh = [b for b in batches if b.name not in self._read or (looks and _written_at(b) != self._read[b.name])]
            for batch in fresh:
                written_at = _written_at(batch)  # one that was damaged is sent again
                for item in read_records(batch, Item, left_out):
                    if self._is_open(item.id, item.step) and (item.id, item.step) not in self._asked:
                        self._asked.add((item.id, item.step))
                        yield item
                        if self.control.stop.is_set():
                            return
                self._read[batch.name] = written_at
            if fresh or not self._flow.is_idle:
                idle_since = time.monotonic()
            if closed and not fresh:
                return
            if (now := time.monotonic()) - idle_since > self.job.linger_s and now - attended_at > ATTENDED_S:
                attended_at = now
                if not self._is_attended():
                    return
            time.sleep(POLL_S)

    def _is_attended(self) -> bool:
        """Whether a controller has asked for the state of the job within linger_s: its hints may take long."""
        try:
            return folder_time(self.folder) - written_at(self.folder / "lease") < self.job.linger_s
        except OSError:  # another controller has removed the folder
            return False

    def _is_open(self, item_id: str, step: int) -> bool:
        return item_id not in self._final and (item_id, step) not in self._tried

    def _missing(self) -> list[str]:
        """The ids of all items that have not ended; no batch that was read to its end is read again."""
        unread = (b for b in (self.folder / "batches").glob("*.jsonl") if b.name not in self._read)
        others = ((item.id, item.step) for batch in unread for item in read_records(batch, Staged, left_out))
        return sorted({item_id for item_id, step in chain(self._asked, others) if self._is_open(item_id, step)})

    def _all_items(self) -> Iterator[Item]:
        for batch in sorted((self.folder / "batches").glob("*.jsonl")):
            yield from read_records(batch, Item, left_out)

    def _isolated(self) -> Iterator[Item]:
        """Items of which one may have killed the worker, before all others: half of them at a time, so that few deaths are
        enough to find it. One that is found is not asked again."""
        suspects, ids = self._suspects, self._suspects.ids
        open_ones = (
            [item for item in self._all_items() if item.id in ids and self._is_open(item.id, item.step)] if ids else []
        )
        if suspects.culprit:
            reason = f"the worker died {suspects.deaths} times while this item was in flight, the last time alone"
            for item in open_ones:
                work = Work(item, item.max_tokens, state=FAILED, reason=reason)
                self._write(outcome_of(work, self.engine, 0.0))
        elif open_ones:
            self.log.phase("isolating", items=len(ids), reason="one of them may have killed the worker")
            yield from halves(open_ones, self._wait_for_all)
            self.log.phase("serving")

    def _wait_for_all(self) -> bool:
        while not self._flow.is_idle and not self.control.stop.is_set():
            self._start_lanes()
            time.sleep(POLL_S)
        return not self.control.stop.is_set()

    def _lane(self) -> None:
        while (taken := self._flow.take()) is not None:
            ticket, work = taken
            try:
                outcome = self.process(ticket, work)
                if outcome and not self._abandoned:
                    if self._outbox:  # another lane has its place in flight already
                        self._outbox.put(outcome)
                    else:
                        self._write(outcome)
            except BaseException as e:  # a thread must not die silently: the job ends with what was wrong
                self._fail(e)
            finally:
                self._flow.done(ticket)

    def _fail(self, error: BaseException) -> None:
        if not self._abandoned:
            self._failure = error
            self.control.stop.set()
            self._flow.stop()

    # ------------------------------------------------------------------------------------------------------- one item

    def process(self, ticket: int, work: Work) -> Outcome | None:
        """Ask until an answer passes the checks or the attempts are used up; None when the item has not ended."""
        work.started = work.started or time.monotonic()
        try:
            self._ask(ticket, work)
        except NotAsked:
            return None
        except Refused as e:
            work.state, work.reason, work.refusal = REFUSED, str(e), e.kind
            work.counted, work.limit = e.prompt_tokens, e.limit
        except ItemKept as e:
            work.reason = str(e)
        except ItemFailed as e:
            work.state, work.reason = FAILED, str(e)
        if work.state == KEPT:
            work.state = fallback_state(work.item.prompt)
        return outcome_of(work, self.engine, round(time.monotonic() - work.started, 4))

    def _ask(self, ticket: int, work: Work) -> None:
        assert self._asker
        item = work.item
        if work.pictures is None:
            work.pictures = self._read_pictures(item)
        while (n := len(work.attempts)) < self.job.engine.max_attempts + work.repairs:
            request = Request(item, work.pictures, item.seed + n, work.room or work.max_tokens, work.turns)
            try:
                answer = self._asker.answer(ticket, work, request)
            except Refused as e:  # what was asked for beyond the plan: the request itself had room
                if not work.turns and request.max_tokens <= item.max_tokens:
                    raise
                if work.turns:
                    work.attempts.append(Attempt(request.seed, request.max_tokens, "no room for a correction"))
                    work.turns, work.room = (), 0
                else:  # nothing was written: it is no attempt
                    known = (e.limit or 0) - (e.prompt_tokens or item.predicted or 0)
                    is_first = work.longest == LONGEST
                    work.longest = work.max_tokens = max(item.max_tokens, known if e.limit and is_first else 0)
                continue
            if self._judge.is_last(work, request, answer, self.engine.name):
                break
        work.keep_usable()

    def _read_pictures(self, item: Item) -> tuple[Picture, ...]:
        try:
            return tuple(self._picture(name) for name in item.frames)
        except FileNotFoundError as e:
            raise Refused(f"frame {e.filename} is gone", DAMAGED) from e
        except OSError as e:
            raise ItemFailed(f"frame {e.filename}: {e.strerror}") from e

    def _read_picture(self, name: str) -> Picture:
        picture, named = Picture.read(self.folder / name), Path(name).stem
        if re.fullmatch("[0-9a-f]{64}", named) and named != picture.sha256:
            with contextlib.suppress(OSError):  # a container may only read it: the controller replaces it
                (self.folder / name).unlink()
            raise Refused(f"frame {name} is damaged: its content does not match the hash in its name", DAMAGED)
        if self.engine.signals:
            _ = picture.url  # encoded before there is room in flight
        return picture


def _written_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:  # withdrawn meanwhile
        return 0
