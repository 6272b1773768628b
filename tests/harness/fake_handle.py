"""A fake job for the supervisor: a handle that plays a script, a driver that takes outcomes. No process, no pauses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.hosts.job_folder import RUNNING, JobPaths, JobStatus, State
from src.hosts.job_handle import JobHandle
from src.runs.supervisor import Labels
from src.timing.progress import Progress, Quiet
from src.worker.protocol import Event, Outcome
from src.worker.records import to_line


@dataclass(frozen=True)
class Step:
    """What one poll finds. results: ids of items that ended since; meanwhile: something else that happens before it."""

    state: State = RUNNING
    results: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    meanwhile: Callable[[], object] = lambda: None


class FakeHandle:
    """Polls find one step after the other, and the last one again and again. calls: what was asked of it, but for polls."""

    poll_s = 0.0
    silent_s = 0.0
    sent_bytes = 0

    def __init__(self, job: JobPaths, steps: Sequence[Step], *, survives_controller: bool = True) -> None:
        self.name, self.job, self.survives_controller = "box", job, survives_controller
        self.steps = list(steps)
        self.calls: list[str] = []
        self.polls = 0
        self.cancelled = False
        self.closed_at_push: list[bool] = []
        self.on_stop: Callable[[], object] = lambda: None
        self.on_kill: Callable[[], object] = lambda: None

    def poll(self) -> State:
        self.polls += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        step.meanwhile()
        append(self.job.results, *(Outcome(item_id, "upsampled", text=item_id) for item_id in step.results))
        append(self.job.events, *step.events)
        if len(self.steps) == 1 and step is self.steps[0]:
            self.steps = [Step(step.state)]  # what it wrote, it wrote once
        return step.state

    def prepare(self) -> None:
        self.calls.append("prepare")

    def push(self) -> None:
        self.calls.append("push")
        self.closed_at_push.append(self.job.closed.exists())

    def kill(self) -> None:
        self.calls.append("kill")
        self.on_kill()

    def start(self) -> None:
        self.calls.append("start")

    def peek(self) -> JobStatus:
        raise NotImplementedError

    def ask_to_stop(self) -> None:
        self.calls.append("ask_to_stop")
        self.on_stop()

    def was_cancelled(self) -> bool:
        return self.cancelled

    def fetch(self, sizes: Mapping[str, int]) -> None:
        raise NotImplementedError

    def fetch_logs(self) -> None:
        raise NotImplementedError

    def fail_fast(self) -> None:
        self.calls.append("fail_fast")

    def finish(self) -> None:
        self.calls.append("finish")

    def close(self) -> None:
        self.calls.append("close")


class FakeDriver:
    """A job that is done when all items of `wanted` have ended. taken: their ids, in order."""

    labels = Labels(worker="the worker", result="an answer", cannot_load="it cannot be loaded", time_limit="a.limit_s")
    outcome = Outcome

    def __init__(self, folder: JobPaths, wanted: Collection[str], handle: JobHandle) -> None:
        self.folder, self.wanted, self.handle, self.place = folder, set(wanted), handle, handle.name
        self.load_log, self.started_with = folder.log, {"items": str(len(wanted))}
        self.taken: list[str] = []
        self.calls: list[str] = []
        self.is_staged = True

    @property
    def is_done(self) -> bool:
        return self.wanted <= set(self.taken)

    @property
    def left(self) -> int:
        return len(self.wanted - set(self.taken))

    @property
    def ended(self) -> int:
        return len(self.taken)

    def open(self) -> JobHandle:
        return self.handle

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        self.calls.append("begin")

    def collect(self) -> None: ...

    def take(self, outcomes: Sequence[Outcome], handle: JobHandle, progress: Progress) -> None:
        self.taken += [outcome.id for outcome in outcomes if outcome.id not in self.taken]

    def take_rest(self, outcomes: Iterable[Outcome], handle: JobHandle) -> None:
        self.calls.append("take_rest")
        self.taken += [outcome.id for outcome in outcomes if outcome.id not in self.taken]

    def give_back(self) -> bool:
        self.calls.append("give_back")
        return True

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


class RecordedPhases(Quiet):
    """A progress display that records the phases that it is given."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)


def append(path: Path, *records: object) -> None:
    """Add records to a journal."""
    if records:
        with open(path, "a", encoding="ascii") as f:
            f.writelines(f"{to_line(record)}\n" for record in records)
