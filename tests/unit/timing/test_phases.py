"""Phases of a run as the stopwatch records them, and lifetimes of workers from their events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.timing.phases import (
    ANSWERS,
    FETCHING,
    FIRST,
    HINTS,
    LOADING,
    SENDING,
    STARTING,
    Measured,
    Stopwatch,
    WorkerLifetime,
    add_start,
    read_starts,
    worker_lifetimes,
)
from src.timing.progress import Quiet
from src.worker.protocol import Event
from tests.unit.timing.conftest import Clock, remote_run


def spans(measured: Measured) -> dict[str, tuple[float, float]]:
    return {name: (phase.begin_s, phase.end_s) for name, phase in measured.phases.items()}


def test_phases_have_their_times_and_amounts(clock: Clock) -> None:
    measured = remote_run(clock)
    assert spans(measured) == {
        STARTING: (0, 6), HINTS: (0, 4), SENDING: (4, 6), LOADING: (6, 26), FIRST: (26, 29), ANSWERS: (29, 31),
        FETCHING: (31, 33),
    }  # fmt: skip
    assert measured.seconds == 33
    assert [measured.phases[name].amount for name in (HINTS, SENDING, ANSWERS)] == [3, 10 << 20, 3]


def test_last_of_several_workers_ends_the_loading(clock: Clock) -> None:
    watch = Stopwatch(Quiet(), clock)
    for clock.now, phase in ((1002, "loading"), (1003, "loading"), (1010, "serving"), (1013, "serving")):
        watch.phase(phase)
    assert spans(watch.measured({}, {}))[LOADING] == (2, 13)


def test_engine_that_never_served_was_loading(clock: Clock) -> None:
    watch = Stopwatch(Quiet(), clock)
    watch.phase("loading")
    clock.now += 7
    assert spans(watch.measured({}, {}))[LOADING] == (0, 7)


def test_reattached_worker_has_no_loading(clock: Clock) -> None:
    watch = Stopwatch(Quiet(), clock)
    watch.phase("serving")
    clock.now += 2
    watch.took("answers", clock.now, 1)
    assert spans(watch.measured({}, {})) == {FIRST: (0, 2), ANSWERS: (2, 2)}


def test_rounds_of_inference_add_their_loads(clock: Clock) -> None:
    watch = Stopwatch(Quiet(), clock)
    for clock.now, phase in ((1001, "loading"), (1011, "generating"), (1020, "loading"), (1032, "generating")):
        watch.phase(phase)
    watch.took("videos", clock.now, 3)
    loading = watch.measured({}, {}).phases[LOADING]
    assert (loading.busy_s, loading.amount) == (22, 2)


# timings.json


def test_starts_are_read_back_in_order(tmp_path: Path, clock: Clock) -> None:
    """A start in which nothing happened is left out."""
    first, nothing = remote_run(clock), Stopwatch(Quiet(), clock).measured({}, {})
    for start in (first, nothing, replace(first, seconds=5.0)):
        add_start(tmp_path / "timings.json", start)
    assert read_starts(tmp_path / "timings.json") == (first, replace(first, seconds=5.0))


@pytest.mark.parametrize("text", ["", "[]", '{"starts": [{"began": 1}]}', '{"starts": 5}', "{"])
def test_unreadable_timings_are_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "timings.json").write_text(text)
    assert read_starts(tmp_path / "timings.json") == ()


# Workers


def phase(name: str, at: float, **fields: Any) -> Event:
    return Event("phase", at, phase=name, **fields)


def test_worker_lifetime_spans_all_its_events() -> None:
    events = [
        phase("loading", 10), phase("loading", 15, fallback="less memory"), phase("serving", 30, load_s=20.0),
        Event("heartbeat", 42),
        phase("loading", 100), phase("serving", 118, load_s=18.0), phase("draining", 130),
    ]  # fmt: skip
    assert worker_lifetimes(events) == (WorkerLifetime(32, 20.0, 10), WorkerLifetime(30, 18.0, 100))
    assert worker_lifetimes([]) == ()
