"""What the phases of a run took: a stopwatch around the progress display, and timings.json in the run folder.

Times are those of the controller's clock; how long a worker ran and loaded is in its own events.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from ..files import write_atomic
from ..worker.protocol import Event
from ..worker.records import InvalidRecord, from_file
from .progress import Progress

STARTING, HINTS, SENDING, LOADING = "worker starts", "hints", "sending", "loading"
FIRST, ANSWERS, FETCHING = "first answer", "answers", "fetching"
VIDEOS = "videos"
ORDER = (STARTING, HINTS, SENDING, LOADING, FIRST, ANSWERS, FETCHING)


@dataclass(frozen=True, slots=True)
class Phase:
    """When a phase ran, in seconds since the start, and how much it did: hints, bytes, loads or answers.

    busy_s: how much of that time it was busy.
    """

    begin_s: float
    end_s: float
    busy_s: float
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One start of a run, until it ended or the controller detached.

    estimated_s: how long it was estimated to take, as a whole and by phase; empty without an estimate.
    """

    began: str
    ended: str
    seconds: float
    phases: dict[str, Phase]
    estimated_s: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Stopwatch(Progress):
    """A progress display that also records when things happened."""

    def __init__(self, display: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.display, self.clock = display, clock
        self.started, self.began = clock(), datetime.now().astimezone()
        self._phases: dict[str, Phase] = {}
        self._mutex = threading.Lock()
        self._loading_since: float | None = None

    def phase(self, name: str) -> None:
        self.display.phase(name)
        now = self.clock() - self.started
        if name in ("loading", "restarting"):
            self._phases.setdefault(STARTING, Phase(0.0, now, now))
            if self._loading_since is None:
                self._loading_since = now
        elif name in ("serving", "generating") and (LOADING in self._phases or self._loading_since is not None):
            # Of several workers, the last to be ready ends the phase.
            since = self._phases[LOADING].end_s if self._loading_since is None else self._loading_since
            self._note(LOADING, since, now, 1)
            self._loading_since = None
        elif name == "fetching":
            self._phases[FETCHING] = Phase(now, now, 0.0)

    def step(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        self.display.step(stage, done, total, note)

    def took(self, phase: str, began_s: float, amount: int) -> None:
        self.display.took(phase, began_s, amount)
        self._note(phase, began_s - self.started, self.clock() - self.started, amount)

    def _note(self, name: str, begin_s: float, end_s: float, amount: int) -> None:
        with self._mutex:  # hints are staged in other threads
            p = self._phases.get(name, Phase(begin_s, end_s, 0.0))
            busy_s, amount = p.busy_s + end_s - begin_s, p.amount + amount
            self._phases[name] = Phase(min(p.begin_s, begin_s), max(p.end_s, end_s), busy_s, amount)

    def measured(self, estimated_s: Mapping[str, float], versions: Mapping[str, str]) -> Measured:
        """What was recorded until now."""
        end_s = self.clock() - self.started
        phases = dict(self._phases)
        if self._loading_since is not None:  # it never served
            phases[LOADING] = Phase(self._loading_since, end_s, end_s - self._loading_since)
        if fetching := phases.get(FETCHING):
            phases[FETCHING] = Phase(fetching.begin_s, end_s, end_s - fetching.begin_s)
        if answers := phases.get(ANSWERS):
            # When a running worker was reattached, the wait for its first answer counts from the start.
            ready = min(phases[LOADING].end_s, answers.begin_s) if LOADING in phases else 0.0
            phases[FIRST] = Phase(ready, answers.begin_s, answers.begin_s - ready, 1)
            phases[ANSWERS] = Phase(answers.begin_s, answers.end_s, answers.end_s - answers.begin_s, answers.amount)
        rounded = {
            name: Phase(round(p.begin_s, 3), round(p.end_s, 3), round(p.busy_s, 3), p.amount)
            for name in ORDER
            if (p := phases.get(name))
        }
        ended = datetime.now().astimezone()
        return Measured(
            self.began.isoformat(timespec="seconds"),
            ended.isoformat(timespec="seconds"),
            round(end_s, 3),
            rounded,
            {name: round(seconds, 3) for name, seconds in estimated_s.items()},
            dict(versions),
        )


@dataclass(frozen=True, slots=True)
class _Starts:
    """timings.json."""

    starts: tuple[Measured, ...]


def read_starts(path: Path) -> tuple[Measured, ...]:
    """All starts of a run, in order; none when the file is absent or of another form."""
    try:
        return from_file(_Starts, path).starts
    except (OSError, InvalidRecord):
        return ()


def add_start(path: Path, measured: Measured) -> None:
    """Append a start; one in which nothing happened is left out."""
    if measured.phases:
        starts = [asdict(start) for start in (*read_starts(path), measured)]
        write_atomic(path, json.dumps({"version": 1, "starts": starts}, indent=1) + "\n")


@dataclass(frozen=True, slots=True)
class WorkerLifetime:
    """A worker from its first event to its last, by its own clock; load_s is None when it never served. began: as of time()."""

    seconds: float
    load_s: float | None
    began: float = 0.0


def worker_lifetimes(events: Iterable[Event]) -> tuple[WorkerLifetime, ...]:
    """The workers that wrote a job's events.jsonl, one after another."""
    found: list[list[Event]] = []
    for event in events:
        # A worker that loads again with less memory names a fallback, and continues.
        if not found or (event.phase == "loading" and not event.fallback):
            found.append([])
        found[-1].append(event)
    return tuple(
        WorkerLifetime(
            max(0.0, round(life[-1].time - life[0].time, 3)),
            next((event.load_s for event in life if event.load_s is not None), None),
            life[0].time,
        )
        for life in found
    )
