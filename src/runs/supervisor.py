"""A job to its end, wherever it runs: start a worker where none runs, take what it writes, start it again when it dies.

First start, resuming and recovery are the same code. What the results of a job mean is not known here: that is the
`JobDriver`'s, a worker's share of the prompts (`runs.upsampling`) or the videos (`inference.generate`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .. import log
from ..errors import AuthError, EngineError, HostError
from ..files import write_atomic
from ..hosts.job_folder import JobPaths, State
from ..hosts.job_handle import JobHandle
from ..interrupts import in_background
from ..timing.progress import Progress, Quiet
from ..worker.protocol import Event, VideoOutcome
from .outcomes import MOST_AT_ONCE
from .tail import Tail

MAX_DEATHS = 3  # without a result between them
MAX_SILENCE_STEP_S = 5.0
QUEUE_POLL_S = 5.0  # of a cluster, at most
QUEUE_END_S = 60.0  # until a cluster forgets a job that was taken out of its queue
STOP_SILENT_S = 10.0  # five heartbeats: a worker that was asked to stop, and is frozen, is ended
QUIET_S = 30.0  # without a heartbeat until that is said
CALL_LOOK_S = 0.02  # between looks whether a call to a host has ended

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labels:
    """How messages name a kind of job. time_limit: the config field that sets it."""

    worker: str
    result: str
    cannot_load: str
    time_limit: str


class JobEnded(HostError):
    """A worker ended because that was wanted, so it is not started again."""


class RunCancelled(JobEnded):
    """Somebody has canceled the run: none of its workers is started again."""


class JobDriver(Protocol):
    """What a supervisor must know of a job. Its folder is complete but for what `begin` stages.

    place: where it runs, for messages.
    outcome: the type of its results. started_with: facts for the log when it is started. load_log: where the reason of a
    failed start can be read.
    """

    folder: JobPaths
    place: str
    labels: Labels
    outcome: type[Any]
    started_with: dict[str, str]
    load_log: Path

    @property
    def is_done(self) -> bool:
        """Whether all that is wanted of it has ended."""

    @property
    def is_staged(self) -> bool:
        """Whether its worker has been given everything."""

    @property
    def left(self) -> int:
        """How many of the items that its worker was given have not ended."""

    @property
    def ended(self) -> int:
        """How much of it has ended."""

    def open(self) -> JobHandle:
        """The handle of the job; asked for once."""

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        """The host is ready: stage what is not staged yet, now or in a thread of its own."""

    def collect(self) -> None:
        """Raises what went wrong in that thread."""

    def take(self, outcomes: Sequence[Any], handle: JobHandle, progress: Progress) -> None:
        """Write outcomes down, some of which may be known already."""

    def take_rest(self, outcomes: Iterable[Any], handle: JobHandle) -> None:
        """After its worker was asked to stop: write down what ended until then, and was not taken."""

    def give_back(self) -> bool:
        """Its host is lost: what it holds is for others. Whether it was anything."""

    def stop(self) -> None:
        """Stage nothing more."""

    def close(self) -> None: ...


class Supervisor:
    """How far one job is. last_line: of its engine's log, as its worker reported it; window: how many requests it may have in
    flight, where it tells. is_started: something of it may be on its host; is_up:
    its worker was started; is_left_out: its host is lost, for now."""

    def __init__(self, job: JobDriver, *, is_alone: bool = True) -> None:
        self.job, self.folder, self.name = job, job.folder, job.folder.root.name
        self.last_line, self.is_started, self.window = "", False, 0
        self.is_up, self.is_queued, self.is_left_out, self._is_alone = False, False, False, is_alone
        self._was_lost = False
        self._call: Future[Any] | None = None  # to its host, that is under way
        self._called_at = 0.0
        self._handle: JobHandle | None = None
        self._phase, self._is_idle = "", False  # that the worker named last; nothing is in flight, as it says
        self._was_replaced = False
        self._outcomes, self._events = Tail(job.folder.results, job.outcome), Tail(job.folder.events, Event)
        self._taken_to = 0  # in the file of outcomes
        self._deaths, self._ended_at_death = 0, -1
        self._suspects, self._suspects_at_death = 0, 0  # items of which one may kill the worker
        self._polled_at, self._silent_s, self._kills, self._is_quiet = time.monotonic(), 0.0, 0, False
        self._queue_pause_s = 0.0

    @property
    def handle(self) -> JobHandle:
        if self._handle is None:
            self._handle = self.job.open()
        return self._handle

    @property
    def sent_bytes(self) -> int:
        return self._handle.sent_bytes if self._handle and self.is_started else 0

    @property
    def is_expected(self) -> bool:
        """Whether its worker will be started soon."""
        return not (self.is_up or self.is_queued or self.is_left_out)

    @property
    def waits_s(self) -> float:
        """For how long a call to its host has been under way; 0: none is."""
        return time.monotonic() - self._called_at if self._call else 0.0

    def _apart(self, call: Callable[[], T]) -> Generator[float, None, T]:
        """The result of a call to the host, which holds up no other job."""
        if self._is_alone or (self._handle and not self._handle.survives_controller):
            return call()
        self._called_at, future = time.monotonic(), in_background(call)
        self._call = future
        while not future.done():
            yield CALL_LOOK_S
        self._call = None
        return future.result()

    def settle(self, patience_s: float) -> None:
        """Wait until a call to its host that is under way has ended."""
        if self._call:
            wait([self._call], patience_s)

    def leave(self) -> None:
        """The host is lost, for now: forget what is known of the worker there."""
        self.is_started, self.is_up, self.is_queued, self.is_left_out = False, False, False, True
        self._call, self._deaths, self._kills, self._silent_s, self._was_lost = None, 0, 0, 0.0, True
        self.job.give_back()

    def steps(self, progress: Progress) -> Iterator[float]:
        """Bring the job to its end; yields the seconds until the next step is worth taking."""
        self.is_left_out = False
        job, handle = self.job, (yield from self._apart(lambda: self.handle))
        yield from self._apart(handle.prepare)
        job.begin(handle, progress)
        self.is_started = True
        yield from self._apart(handle.push)
        state = yield from self._poll(Quiet())  # what was written until now is history
        if state.is_alive:
            log.get().info("job_found_running", job=self.name)
            if self._phase:
                progress.phase(self._phase)
        elif not job.is_done:
            yield from self._start()
            log.get().info("job_started", job=self.name, **job.started_with)
        while True:
            job.collect()
            state = yield from self._poll(progress)
            self.is_up, self.is_queued = state.status != "queued", state.status == "queued"
            if job.is_done:
                break
            if state.status == "running":
                self._queue_pause_s = 0.0
                yield from self._end_if_silent(handle.silent_s)
                yield from self._replace_if_unread()
            elif self.is_queued:
                yield from self._wait_in_queue()
                continue
            else:
                yield from self._raise_if_final(state)
                if state.ending != "done" or job.is_staged:  # else it had nothing to do, while hints were slow
                    yield from self._recover(state)
                yield from self._start()
            yield handle.poll_s
        progress.phase("fetching")
        write_atomic(self.folder.closed, "")
        yield from self._apart(handle.push)
        if self._was_lost:  # then it may be busy with what others have answered
            yield from self._apart(handle.ask_to_stop)
        yield from self.wait_for_end(handle.silent_s)
        yield from self._apart(handle.finish)
        write_atomic(self.folder.finished, "")

    def _start(self) -> Iterator[float]:
        yield from self._apart(self.handle.start)
        self._silent_s, self._polled_at = 0.0, time.monotonic()

    def wait_for_end(self, patience_s: float) -> Iterator[float]:
        """Poll until the worker, which is to end, has ended; yields the seconds until the next poll."""
        told_at: float | None = None
        while (state := (yield from self._look(Quiet()))).is_alive:
            if state.status == "running":
                yield from self._end_if_silent(patience_s)
                yield min(self.handle.poll_s, 0.1)
                continue
            self._silent_s = 0.0
            if told_at is None:  # it need not come any more
                told_at = time.monotonic()
                yield from self._apart(self.handle.ask_to_stop)
            elif time.monotonic() - told_at > QUEUE_END_S:
                log.get().warning("job_still_listed", job=self.name)
                yield from self._apart(self.handle.kill)
                return
            yield self.handle.poll_s

    def _wait_in_queue(self) -> Iterator[float]:
        """It was not started yet, or lost its place to others: what it holds is for those that run."""
        self._silent_s = 0.0
        if not self._is_alone and self.job.give_back():
            yield from self._apart(self.handle.prepare)
            self.job.begin(self.handle, Quiet())
        self._queue_pause_s = min(max(2 * self._queue_pause_s, self.handle.poll_s), QUEUE_POLL_S)
        yield self._queue_pause_s

    def submit(self) -> None:
        """Everything is staged: let the worker end by itself once it has processed that."""
        write_atomic(self.folder.closed, "")
        self.handle.push()

    def _poll(self, progress: Progress) -> Generator[float, None, State]:
        """How the worker stands, and then what it wrote, for after its end it writes nothing."""
        state = yield from self._look(progress)
        outcomes = self._outcomes.new()
        while some := list(islice(outcomes, MOST_AT_ONCE)):
            self.job.take(some, self.handle, progress)
            self._taken_to = self._outcomes.at
        return state

    def take_rest(self) -> None:
        """What the worker wrote and was not taken, after it was asked to stop: an interrupt may have come between the two."""
        self._outcomes.at = self._taken_to
        self.job.take_rest(self._outcomes.new(), self.handle)

    def _look(self, progress: Progress) -> Generator[float, None, State]:
        state = yield from self._apart(self.handle.poll)
        self._count_silence()
        for event in self._events.new():
            self._silent_s, self._is_quiet = 0.0, False
            self._is_idle = event.event == "heartbeat" and self._phase == "serving" and not event.in_flight
            if event.event == "phase":
                self._phase = event.phase
                self._suspects = event.items if event.phase == "isolating" else 0
                progress.phase(self._phase)
            elif event.event == "busy":
                log.get().warning("server_busy", reason=event.reason)
            self.last_line, self.window = event.log_line or self.last_line, event.window or self.window
        return state

    def _count_silence(self) -> None:
        """Only the time between polls that found the host counts: a lost link is no silence of the worker."""
        now = time.monotonic()
        self._silent_s += min(now - self._polled_at, MAX_SILENCE_STEP_S)
        self._polled_at = now

    def _end_if_silent(self, patience_s: float) -> Iterator[float]:
        """A worker that is frozen, or hangs with its GPU or disk, is ended; what it had in flight is asked again."""
        if not patience_s or self._silent_s < min(patience_s, QUIET_S):
            return
        if self._silent_s < patience_s:
            if not self._is_quiet:
                log.get().warning(
                    "worker_quiet", job=self.name, silent=f"{self._silent_s:.0f}s", patience=f"{patience_s:.0f}s"
                )
            self._is_quiet = True
            return
        if self._kills > MAX_DEATHS:
            raise HostError(
                f"{self.job.labels.worker} is silent and cannot be ended", hint="end its process there, then resume"
            )
        log.get().warning("worker_silent", job=self.name, silent=f"{self._silent_s:.0f}s", note="ended and replaced")
        self._kills, self._silent_s = self._kills + 1, 0.0
        yield from self._apart(self.handle.kill)

    def _replace_if_unread(self) -> Iterator[float]:
        """All that is left are answers that cannot be read here. The worker believes them given: the next one asks again what is
        damaged in its journal, too."""
        unread = self._outcomes
        is_video = self.job.outcome is VideoOutcome  # which is not made again without being asked for
        if not (
            unread.damaged and (self._is_idle or is_video) and self.job.is_staged and self.job.left <= unread.damaged
        ):
            return
        if self._was_replaced or is_video:
            raise HostError(
                unread.wrong, hint="the worker's output is invalid; remove that file to have it asked again"
            )
        log.get().warning("worker_replaced", job=self.name, answers=self.job.left)
        self._was_replaced, self._is_idle = True, False
        yield from self._apart(self.handle.kill)

    def _recover(self, state: State) -> Iterator[float]:
        """A worker ended before its work did: log why, create its folder again if that is gone, or give up."""
        labels, self._kills = self.job.labels, 0
        is_narrowed = 0 < self._suspects < (self._suspects_at_death or self._suspects + 1)
        self._deaths = self._deaths + 1 if self.job.ended == self._ended_at_death and not is_narrowed else 1
        self._ended_at_death, self._suspects_at_death, self._suspects = self.job.ended, self._suspects, 0
        if self._deaths > MAX_DEATHS:
            reason = failure_reason(self.folder, state)
            raise HostError(f"{labels.worker} ended {self._deaths} times without {labels.result}: {reason}")
        if state.status == "absent" and self.handle.survives_controller:
            log.get().info("job_gone", job=self.name, note="another controller cleaned it up; it is created again")
            yield from self._apart(self.handle.prepare)
            self._events.restart_if_shorter()
            yield from self._apart(self.handle.push)
        else:
            log.get().warning("worker_restarted", job=self.name, ended=failure_reason(self.folder, state))

    def _raise_if_final(self, state: State) -> Iterator[float]:
        """Raise what makes starting the worker again pointless, or unwanted."""
        labels = self.job.labels
        resume = "resume the run to process the rest"
        if state.ending == "load_failed":
            has_log = self.folder.exit_record() is not None
            raise EngineError(
                f"{labels.cannot_load}: {failure_reason(self.folder, state)}",
                hint=f"see {self.job.load_log}" if has_log else "",
            )
        if state.ending == "unavailable":
            raise HostError(failure_reason(self.folder, state), hint=f"once it answers, {resume}")
        if state.ending == "no_access":
            hint = f"set engine.api_key_env or engine.api_key_file, and {resume}"
            raise AuthError(failure_reason(self.folder, state), hint=hint)
        if state.ending == "timeout":
            raise JobEnded(f"{labels.worker} reached {labels.time_limit}", hint=resume)
        if state.ending == "cancelled" and (yield from self._apart(self.handle.was_cancelled)):
            raise RunCancelled("the job was cancelled from elsewhere", hint=resume)

    def close(self) -> None:
        if self._handle:  # first: the job waits for its threads, which may be sending over a slow link, or a dead one
            self._handle.close()
        self.job.close()


def failure_reason(job: JobPaths, state: State) -> str:
    """Why a worker ended, as far as it is known."""
    if state.ending == "oom":
        return "killed because the container's memory was used up"
    if end := job.exit_record():
        return end.reason or (f"it reported {end.state}" if end.state == "done" else end.state)
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    code = f" (exit code {state.exit_code})" if state.exit_code is not None else ""
    return f"killed{code}: {lines[-1]}" if lines else f"killed (no output){code}"
