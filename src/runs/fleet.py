"""Jobs side by side, each at its own pace: one whose host is lost is left out, and used again once it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .. import log
from ..errors import AuthError, Detached, EngineError, HostError, LinkLost
from ..interrupts import raise_lost
from ..text import resume_command, run_command
from ..timing.progress import Progress
from .supervisor import STOP_SILENT_S, JobDriver, JobEnded, RunCancelled, Supervisor

SECOND_CTRL_C_S = 3.0
MAX_POLL_S = 0.5  # of a job that takes long: what came is written down at once, with one flush to disk
RETRY_S, MAX_RETRY_S = 10.0, 300.0  # until a host that was left out is tried again, doubled each time
END_S = 15.0  # that a host which does not answer may hold up the end of a run


def supervise(
    jobs: Sequence[JobDriver],
    progress: Progress,
    on_round: Callable[[Sequence[Supervisor]], None],
    patience_s: float = 0.0,
) -> None:
    """Bring jobs to their end, side by side. on_round: called after each round of polls, with how far they are. patience_s: how
    long all of several hosts may be lost at the same time.

    Raises EngineError when what a job needs cannot be loaded, HostError when its worker keeps dying or was ended from
    elsewhere, of several jobs when that is so for all, or when somebody cancels the run; Detached after Ctrl-C while the jobs
    run on elsewhere. On KeyboardInterrupt, workers on this machine are asked to finish what they have in flight, that is taken,
    and the interrupt is raised again.
    """
    supervisors = [Supervisor(job, is_alone=len(jobs) == 1) for job in jobs]
    fleet = _Fleet(supervisors, progress, patience_s)
    try:
        is_over = False
        while not is_over:
            raise_lost()
            pause_s = fleet.round()
            is_over = pause_s is None
            on_round(supervisors)
            time.sleep(pause_s or 0.0)
    except BaseException as e:
        for job in jobs:
            job.stop()
        _detach_or_stop(e, [supervisor for supervisor in supervisors if supervisor.is_started])
        raise
    finally:
        for supervisor in supervisors:
            supervisor.close()


class _Lane:
    """One job in the fleet. steps: None while it is left out, or at its end; due: when its next step, or try, is."""

    def __init__(self, supervisor: Supervisor, progress: Progress) -> None:
        self.supervisor, self.due = supervisor, 0.0
        self.steps: Iterator[float] | None = supervisor.steps(progress)
        self.error: HostError | EngineError | None = None
        self.left_at, self.times_lost, self.ended_when_lost = 0.0, 0, -1

    @property
    def may_return(self) -> bool:
        return self.error is not None and not isinstance(self.error, (AuthError, JobEnded))


class _Fleet:
    def __init__(self, supervisors: Sequence[Supervisor], progress: Progress, patience_s: float) -> None:
        self._progress, self._patience_s = progress, patience_s
        self._lanes = [_Lane(supervisor, progress) for supervisor in supervisors]
        self._began = self._reached_at = time.monotonic()

    def round(self) -> float | None:
        """A step of each job that is due; seconds until the next one is, None when all are at their end."""
        for lane in self._lanes:
            if lane.due <= time.monotonic():
                self._step(lane)
        if not any(lane.steps for lane in self._lanes):
            if all(lane.supervisor.job.is_done for lane in self._lanes):
                return None
            self._raise_if_hopeless()
        due = min(
            lane.due for lane in self._lanes if lane.steps or (lane.may_return and not lane.supervisor.job.is_done)
        )
        return max(0.0, due - time.monotonic())

    def _step(self, lane: _Lane) -> None:
        supervisor = lane.supervisor
        if lane.steps is None:
            if not lane.may_return or supervisor.job.is_done:
                return
            lane.steps = supervisor.steps(self._progress)
        try:
            if supervisor.job.is_done and supervisor.waits_s > END_S:
                raise LinkLost(f"{supervisor.handle.name} does not answer")
            pause_s = next(lane.steps, None)
        except (HostError, EngineError) as e:
            if len(self._lanes) == 1 or isinstance(e, RunCancelled):
                raise
            self._leave_out(lane, e)
            return
        now = time.monotonic()
        if pause_s is None:
            lane.steps, lane.error = None, None
            return
        if not supervisor.waits_s:
            pause_s = max(pause_s, min((now - self._began) / 50, MAX_POLL_S))
            self._reached_at = now if supervisor.is_started else self._reached_at
        lane.due = now + pause_s

    def _leave_out(self, lane: _Lane, error: HostError | EngineError) -> None:
        supervisor = lane.supervisor
        lane.steps, lane.error = None, error
        if supervisor.job.is_done:
            log.get().warning("job_not_cleaned_up", job=supervisor.name, reason=error.message)
            return
        lane.times_lost = 1 if supervisor.job.ended > lane.ended_when_lost else lane.times_lost + 1
        lane.ended_when_lost, lane.left_at = supervisor.job.ended, time.monotonic()
        pause_s = min(RETRY_S * 2.0 ** (lane.times_lost - 1), MAX_RETRY_S)
        lane.due = lane.left_at + pause_s
        again = f"tried again in {pause_s:.0f} s" if lane.may_return else "not tried again"
        log.get().warning("host_left_out", host=supervisor.job.place, reason=error.message, hint=error.hint, note=again)
        supervisor.leave()

    def _raise_if_hopeless(self) -> None:
        """All are left out. Where all links were lost on the way, that may pass, as with a single job."""
        lanes = sorted((lane for lane in self._lanes if lane.error), key=lambda lane: lane.left_at)
        errors = [lane.error for lane in lanes if lane.error]
        may_pass = any(isinstance(error, LinkLost) for error in errors) and self._reached_at > self._began
        if not may_pass or time.monotonic() - self._reached_at > self._patience_s:
            raise errors[-1]


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
            raise Detached(f"detached; the job continues on {first.handle.name}", hint=hint) from None
    unreached: HostError | None = None
    for supervisor in [*started]:
        try:
            supervisor.settle(END_S)
            supervisor.handle.ask_to_stop()
            log.get().info("waiting_for_requests_in_flight", job=supervisor.name)
        except HostError as e:  # the others are asked first
            unreached = e
            started = [other for other in started if other is not supervisor]
    for supervisor in started:
        try:
            for pause_s in supervisor.wait_for_end(STOP_SILENT_S):
                time.sleep(pause_s)
            supervisor.take_rest()
        except HostError as e:
            unreached = e
    if unreached:
        raise unreached


def how_to_reattach(run: Path) -> str:
    """Two lines for people."""
    return f"reattach:  {resume_command(run)}\n    cancel:    {run_command('task=cancel run', run)}"
