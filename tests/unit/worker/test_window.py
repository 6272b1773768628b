"""The window finds the best number in flight of engines that are simulated, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from src.worker.window import Seen, Window
from tests.harness.simulated_engine import Shape
from tests.harness.window_run import WindowRun, best_fixed

SECONDS, RAMP_S = 60.0, 20.0


def share(run: WindowRun, since_s: float = 0.0) -> float:
    """Answers over those of the best fixed window."""
    return run.answers(since_s) / best_fixed(run.shape, SECONDS, since_s)


def check(run: WindowRun) -> None:
    assert share(run) >= 0.95
    assert share(run, RAMP_S) >= 0.98


def seen(at: float = 0.0, **shown: Any) -> Seen:
    """A full window of 16 that runs without a queue."""
    plain: dict[str, Any] = {"in_flight": 16, "wanted": 20, "tokens": 100 * at, "running": 16, "waiting": 0}
    return Seen(at=at, **plain | shown)


@pytest.mark.parametrize("queue", ["unbounded", "bounded", "thrashing"])
@pytest.mark.parametrize("best", [16, 64, 300])
def test_window_reaches_the_best_fixed_one(best: int, queue: str) -> None:
    check(WindowRun(Shape(best, queue), Window()).run(SECONDS))


@pytest.mark.parametrize("best", [16, 64, 300])
@pytest.mark.parametrize(
    ("shape", "server"),
    [
        ({}, {"metrics": False}),
        ({"chunk": 1}, {"metrics": False}),
        ({"queue": "bounded"}, {"metrics": False}),
        ({"queue": "bounded"}, {"retry_after_s": 1.0}),
        ({"kv_at_full": 0.95}, {}),
        ({"queue": "bounded", "kv_at_full": 0.3}, {}),
    ],
    ids=["streams only", "a token an event", "streams and refusals", "Retry-After", "KV cache full", "much KV cache"],
)
def test_fewer_signals_suffice(best: int, shape: dict[str, Any], server: dict[str, Any]) -> None:
    check(WindowRun(Shape(best, **shape), Window(), **server).run(SECONDS))


def test_start_beyond_the_cache_is_corrected() -> None:
    run = WindowRun(Shape(64, "thrashing"), Window(256)).run(SECONDS)
    assert run.window.size == 64
    assert share(run, 40) >= 0.98


def test_known_slots_need_no_ramp() -> None:
    run = WindowRun(Shape(64), Window(68, "64 slots", ramps=False)).run(SECONDS)
    assert share(run) >= 0.99
    assert run.sizes == []


def test_window_recovers_after_an_outage() -> None:
    run = WindowRun(Shape(64, "bounded"), Window(), outage=(15.0, 18.0)).run(SECONDS)
    assert run.window.size >= 64
    assert share(run, 30) >= 0.95


def test_refusals_set_the_ceiling_at_once() -> None:
    window = Window(128)
    window.refuse(1.0, 80)
    assert (window.size, window.reason) == (76, "refused above 80")


def test_cap_is_never_exceeded() -> None:
    window = Window()
    for n in range(40):
        window.look(seen(n / 4, tokens=4.0**n, cap=20, why_cap="memory of the frames in flight"))
    assert (window.size, window.reason) == (20, "memory of the frames in flight")
    window.look(seen(11.0, cap=5, why_cap="memory of the frames in flight"))
    assert window.size == 5


def test_prefill_is_not_taken_for_a_queue() -> None:
    window = Window(64)
    for n in range(40):
        waiting = max(0, 60 - 2 * n)
        window.look(seen(n / 4, in_flight=64, wanted=68, running=64 - waiting, waiting=waiting))
    assert window.size >= 64


def test_few_items_left_change_nothing() -> None:
    window = Window()
    for n in range(40):
        assert not window.look(seen(n / 4, in_flight=3, wanted=3, running=3))


def test_fixed_window_stays() -> None:
    window = Window(7, "fixed", is_fixed=True)
    assert not window.refuse(0.0, 3)
    assert not window.look(seen(1.0, waiting=90, cap=2))
    assert window.size == 7
