"""Jobs to their end, wherever they run: start a worker where none runs, take what it writes, start it again when it dies, and
detach without losing anything.

First start, resuming and recovery are the same code. What the results of a job mean is not known here: that is the
`JobDriver`'s, a worker's share of the prompts (`runs.upsampling`) or the videos (`inference.generate`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .. import log
from ..errors import Detached, EngineError, HostError
from ..files import write_atomic
from ..hosts.job_folder import JobPaths, State
from ..hosts.job_handle import JobHandle
from ..interrupts import raise_lost
from ..text import resume_command, run_command
from ..timing.progress import Progress, Quiet
from ..worker.protocol import Event
from ..worker.records import DamagedRecord, InvalidRecord, from_line

MAX_DEATHS = 3  # without a result between them
MOST_DAMAGED = 100  # lines of one file that are left out before its host is given up
SECOND_CTRL_C_S = 3.0
MAX_SILENCE_STEP_S = 5.0
STOP_SILENT_S = 10.0  # five heartbeats: a worker that was asked to stop, and is frozen, is ended
QUIET_S = 30.0  # without a heartbeat until that is said
MAX_POLL_S = 0.5  # of a job that takes long: what came is written down at once, with one flush to disk

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Labels:
    """How messages name a kind of job. time_limit: the config field that sets it."""

    worker: str
    result: str
    cannot_load: str
    time_limit: str


class JobDriver(Protocol):
    """What a supervisor must know of a job. Its folder is complete but for what `begin` stages.

    outcome: the type of its results. started_with: facts for the log when it is started. load_log: where the reason of a
    failed start can be read.
    """

    folder: JobPaths
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
    def ended(self) -> int:
        """How much of it has ended."""

    def open(self) -> JobHandle:
        """The handle of the job; asked for once."""

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        """The host is ready: stage what is not staged yet, now or in a thread of its own."""

    def collect(self) -> None:
        """Collect what that thread has done; raises what went wrong in it."""

    def take(self, outcomes: Sequence[Any], handle: JobHandle, progress: Progress) -> None:
        """Write outcomes down, some of which may be known already."""

    def take_rest(self, handle: JobHandle) -> None:
        """After its worker was asked to stop: write down what ended until then."""

    def stop(self) -> None:
        """Stage nothing more."""

    def close(self) -> None: ...


def supervise(jobs: Sequence[JobDriver], progress: Progress, on_round: Callable[[Sequence[Supervisor]], None]) -> None:
    """Bring jobs to their end, side by side. on_round: called after each round of polls, with how far they are.

    Raises EngineError when what a job needs cannot be loaded, HostError when its worker keeps dying or was ended from
    elsewhere; Detached after Ctrl-C while the jobs run on elsewhere. On KeyboardInterrupt, workers on this machine are
    asked to finish what they have in flight, that is taken, and the interrupt is raised again.
    """
    supervisors, began = [Supervisor(job) for job in jobs], time.monotonic()
    try:
        running = [(supervisor, supervisor.steps(progress)) for supervisor in supervisors]
        while running:
            raise_lost()
            pauses = [(supervisor, steps, next(steps, None)) for supervisor, steps in running]
            running = [(supervisor, steps) for supervisor, steps, pause_s in pauses if pause_s is not None]
            on_round(supervisors)
            if running:
                least_s = max(pause_s for *_, pause_s in pauses if pause_s is not None)
                time.sleep(max(least_s, min((time.monotonic() - began) / 50, MAX_POLL_S)))
    except BaseException as e:
        for job in jobs:
            job.stop()
        _detach_or_stop(e, [supervisor for supervisor in supervisors if supervisor.is_started])
        raise
    finally:
        for supervisor in supervisors:
            supervisor.close()


class Supervisor:
    """How far one job is. last_line: of its engine's log, as its worker reported it."""

    def __init__(self, job: JobDriver) -> None:
        self.job, self.folder, self.name = job, job.folder, job.folder.root.name
        self.last_line, self.is_started = "", False
        self._handle: JobHandle | None = None
        self._phase = ""  # that the worker named last
        self._outcomes, self._events = Tail(job.folder.results, job.outcome), Tail(job.folder.events, Event)
        self._deaths, self._ended_at_death = 0, -1
        self._suspects, self._suspects_at_death = 0, 0  # items of which one may kill the worker
        self._polled_at, self._silent_s, self._kills, self._is_quiet = time.monotonic(), 0.0, 0, False

    @property
    def handle(self) -> JobHandle:
        if self._handle is None:
            self._handle = self.job.open()
        return self._handle

    @property
    def sent_bytes(self) -> int:
        return self._handle.sent_bytes if self._handle and self.is_started else 0

    def steps(self, progress: Progress) -> Iterator[float]:
        """Bring the job to its end; yields the seconds until the next step is worth taking."""
        job, handle = self.job, self.handle
        handle.prepare()
        job.begin(handle, progress)
        self.is_started = True
        handle.push()
        if self._poll(Quiet()).status == "running":  # what was written until now is history
            log.get().info("job_found_running", job=self.name)
            if self._phase:
                progress.phase(self._phase)
        elif not job.is_done:
            handle.start()
            log.get().info("job_started", job=self.name, **job.started_with)
        while True:
            job.collect()
            state = self._poll(progress)
            if job.is_done:
                break
            if state.status == "running":
                self._end_if_silent(handle.silent_s)
            else:
                self._raise_if_final(state)
                if state.ending != "done" or job.is_staged:  # else it had nothing to do, while hints were slow
                    self._recover(state)
                handle.start()
            yield handle.poll_s
        progress.phase("fetching")
        write_atomic(self.folder.closed, "")
        handle.push()
        yield from self.wait_for_end(handle.silent_s)
        handle.finish()
        write_atomic(self.folder.finished, "")

    def wait_for_end(self, patience_s: float) -> Iterator[float]:
        """Poll until the worker, which is to end, has ended; yields the seconds until the next poll."""
        while self._look(Quiet()).status == "running":
            self._end_if_silent(patience_s)
            yield min(self.handle.poll_s, 0.1)

    def submit(self) -> None:
        """Everything is staged: let the worker end by itself once it has processed that."""
        write_atomic(self.folder.closed, "")
        self.handle.push()

    def _poll(self, progress: Progress) -> State:
        """How the worker stands, and then what it wrote, for after its end it writes nothing."""
        state = self._look(progress)
        self.job.take(list(self._outcomes.new()), self.handle, progress)
        return state

    def _look(self, progress: Progress) -> State:
        state = self.handle.poll()
        self._count_silence()
        for event in self._events.new():
            self._silent_s, self._is_quiet = 0.0, False
            if event.event == "phase":
                self._phase = event.phase
                self._suspects = event.items if event.phase == "isolating" else 0
                progress.phase(self._phase)
            elif event.event == "busy":
                log.get().warning("server_busy", reason=event.reason)
            self.last_line = event.log_line or self.last_line
        return state

    def _count_silence(self) -> None:
        """Only the time between polls that found the host counts: a lost link is no silence of the worker."""
        now = time.monotonic()
        self._silent_s += min(now - self._polled_at, MAX_SILENCE_STEP_S)
        self._polled_at = now

    def _end_if_silent(self, patience_s: float) -> None:
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
        self.handle.kill()

    def _recover(self, state: State) -> None:
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
            self.handle.prepare()
            self._events.restart_if_shorter()
            self.handle.push()
        else:
            log.get().warning("worker_restarted", job=self.name, ended=failure_reason(self.folder, state))

    def _raise_if_final(self, state: State) -> None:
        """Raise what makes starting the worker again pointless, or unwanted."""
        labels = self.job.labels
        resume = "resume the run for what is missing"
        if state.ending == "load_failed":
            has_log = self.folder.exit_record() is not None
            raise EngineError(
                f"{labels.cannot_load}: {failure_reason(self.folder, state)}",
                hint=f"see {self.job.load_log}" if has_log else "",
            )
        if state.ending == "unavailable":
            raise HostError(failure_reason(self.folder, state), hint=f"once it does, {resume}")
        if state.ending == "timeout":
            raise HostError(f"{labels.worker} reached {labels.time_limit}", hint=resume)
        if state.ending == "cancelled" and self.handle.was_cancelled():
            raise HostError("the job was cancelled from elsewhere", hint=resume)

    def close(self) -> None:
        if (
            self._handle
        ):  # before the job, which waits for its threads: they may be sending over a slow link, or a dead one
            self._handle.close()
        self.job.close()


def _detach_or_stop(error: BaseException, started: Sequence[Supervisor]) -> None:
    """End before the jobs have ended. Workers on this machine are asked to finish what they have in flight; elsewhere
    they run on, unless a second Ctrl-C comes."""
    if isinstance(error, Detached):  # as was asked for, on this machine too
        return
    elsewhere = [supervisor for supervisor in started if supervisor.handle.survives_controller]
    for supervisor in elsewhere:
        supervisor.handle.fail_fast()
    if elsewhere:
        if not isinstance(error, KeyboardInterrupt):
            return
        names = " ".join(supervisor.name for supervisor in elsewhere)
        log.get().warning("detaching", job=names, note=f"Ctrl-C again within {SECOND_CTRL_C_S:.0f} s cancels the job")
        try:
            time.sleep(SECOND_CTRL_C_S)
        except KeyboardInterrupt:
            log.get().warning("cancelling", job=names, note="what has ended is kept")
        else:
            first = elsewhere[0]
            hint = how_to_reattach(first.folder.run_folder)
            raise Detached(f"detached; the job runs on on {first.handle.name}", hint=hint) from None
    for supervisor in started:
        supervisor.handle.ask_to_stop()
        log.get().info("waiting_for_requests_in_flight", job=supervisor.name)
    for supervisor in started:
        for pause_s in supervisor.wait_for_end(STOP_SILENT_S):
            time.sleep(pause_s)
        supervisor.job.take_rest(supervisor.handle)


def how_to_reattach(run: Path) -> str:
    """Two lines for people."""
    return f"reattach:  {resume_command(run)}\n    cancel:    {run_command('task=cancel run', run)}"


class Tail(Generic[T]):
    """The whole lines that were added to a journal since the last call."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self.kind, self.at, self._damaged = path, kind, 0, 0

    def restart_if_shorter(self) -> None:
        """After a journal may have been emptied, and before it can have grown beyond this position."""
        if not self.path.exists() or self.path.stat().st_size < self.at:
            self.at = 0

    def new(self) -> Iterator[T]:
        """A damaged line is left out, which is said. Raises HostError for too many of them, and for one that somebody wrote so."""
        self.restart_if_shorter()
        try:
            f = open(self.path, "rb")
        except FileNotFoundError:
            return
        with f:
            f.seek(self.at)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                start, self.at = self.at, self.at + len(line)
                try:
                    record = from_line(self.kind, line)
                except DamagedRecord as e:
                    self._leave_out(f"{self.path}, byte {start}: {e}")
                except InvalidRecord as e:
                    raise HostError(
                        f"{self.path}, byte {start}: {e}", hint="the worker's output is not what it must be"
                    ) from None
                else:
                    yield record

    def _leave_out(self, what: str) -> None:
        self._damaged += 1
        if self._damaged > MOST_DAMAGED:
            raise HostError(f"{what}; so are {MOST_DAMAGED} lines before it", hint="the worker's output is damaged")
        log.left_out(what)


def failure_reason(job: JobPaths, state: State) -> str:
    """Why a worker ended, as far as it is known."""
    if state.ending == "oom":
        return "killed because the container's memory was used up"
    if end := job.exit_record():
        return end.reason or (f"it says that it is {end.state}" if end.state == "done" else end.state)
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    code = f" (exit code {state.exit_code})" if state.exit_code is not None else ""
    return f"killed{code}: {lines[-1]}" if lines else f"killed (no output){code}"
