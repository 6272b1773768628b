"""Timeline, rate, GPU time and cost of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from src.planning.plan import Plan
from src.timing.phases import (
    ANSWERS,
    FETCHING,
    FIRST,
    HINTS,
    LOADING,
    SENDING,
    STARTING,
    Measured,
    Phase,
    WorkerLifetime,
)
from src.timing.run_facts import (
    WINDOW_LINES,
    TokenTotals,
    gpu_facts,
    rate_text,
    run_facts,
    timeline,
    window_lines,
    worker_timeline,
)
from src.worker.protocol import Event
from tests.unit.timing.conftest import Clock, remote_run


def test_timeline_has_every_phase_in_place(clock: Clock) -> None:
    bars = timeline(replace(remote_run(clock), estimated_s={"loading": 25.0, "total": 60.0}))
    assert [bar.label for bar in bars] == [STARTING, HINTS, SENDING, LOADING, FIRST, ANSWERS, FETCHING]
    loading, sending = bars[3], bars[2]
    assert (loading.left, loading.width) == pytest.approx((100 * 6 / 33, 100 * 20 / 33), abs=0.001)
    assert loading.detail == "20 s · estimated 25 s"
    assert sending.detail == "2.00 s · 10.0 MiB, 5.0 MiB/s"
    assert all(bar.left + bar.width <= 100.001 for bar in bars)


def test_workers_are_placed_by_their_clocks() -> None:
    bars = worker_timeline([WorkerLifetime(50.0, 20.0, began=1000.0), WorkerLifetime(75.0, None, began=1025.0)])
    assert [(bar.label, bar.left, bar.width) for bar in bars] == [("worker 1", 0.0, 50.0), ("worker 2", 25.0, 75.0)]
    assert [bar.detail for bar in bars] == ["50 s · 20 s of it to load", "75 s"]


def test_rate_counts_from_a_ready_worker(clock: Clock) -> None:
    assert rate_text([remote_run(clock)]) == "0.60 answers/s"
    assert rate_text([]) == ""


def test_gpu_facts_need_known_gpus_and_price(plan: Plan) -> None:
    engine = replace(plan.settings.engine, name="vllm")
    host = replace(plan.settings.host, price_per_gpu_hour=2.5)
    workers = [WorkerLifetime(1800.0, 60.0)]

    def facts(**changes: Any) -> dict[str, str]:
        settings = replace(plan.settings, **{"engine": engine, "host": host, **changes})
        return dict(gpu_facts(replace(plan, settings=settings), workers))

    assert facts() == {"GPU time": "3,600 GPU seconds (2 per worker)", "Cost": "2.50 at 2.5 per GPU hour"}
    assert facts(host=replace(host, workers=2))["GPU time"] == "1,800 GPU seconds (1 per worker)"
    assert "Cost" not in facts(host=replace(host, price_per_gpu_hour=0.0))
    assert facts(host=replace(host, gpus="all")) == {}
    assert facts(engine=plan.settings.engine) == {}


def test_tokens_are_compared_over_counted_items() -> None:
    totals = TokenTotals()
    totals.add(900, None)
    assert totals.text == ""
    totals.add(500, 500)
    totals.add(700, 701)
    assert totals.text == "planned 1,200, measured 1,201; equal in 1 of 2 items"


def test_two_starts_add_up_without_an_estimate(plan: Plan) -> None:
    start = Measured("", "", 80.0, {HINTS: Phase(0, 1, 1)}, {"total": 40.0})
    assert dict(run_facts(plan, TokenTotals(), [start], []))["Time"] == "estimated 40 s, took 80 s (+100 %)"
    both = dict(run_facts(plan, TokenTotals(), [start, start], []))
    assert both["Took"] == "3 min, in 2 starts" and "Time" not in both


def test_window_shows_its_changes_only() -> None:
    looks = [(1, 16, "start"), (2, 32, "throughput grows"), (12, 32, "throughput grows"), (15, 20, "16 slots are full")]
    events = [Event("phase", 100.0, phase="loading"), Event("heartbeat", 101.0)]
    events += [Event("window", 100.0 + s, window=size, reason=why, in_flight=16) for s, size, why in looks]
    lines = window_lines(events)
    assert [(line.size, line.reason) for line in lines] == [looks[0][1:], looks[1][1:], looks[3][1:]]
    assert lines[2].at == "15 s"
    assert window_lines(events[:2]) == ()


def test_window_details_are_what_was_seen() -> None:
    [line] = window_lines(
        [Event("window", 0.0, "", "start", window=9, in_flight=9, running=8, waiting=1, kv=0.25, tokens_s=650.4)]
    )
    assert line.detail == "9 in flight, 8 running, 1 waiting, KV cache 25%, 650 tokens/s"


def test_long_window_keeps_both_ends() -> None:
    lines = window_lines(Event("window", float(n), window=n + 1) for n in range(1000))
    assert len(lines) == WINDOW_LINES
    assert (lines[0].size, lines[-1].size) == (1, 1000)
