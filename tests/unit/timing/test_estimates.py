"""Estimates from earlier runs: scaled by the work, robust against unusual runs, with a range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.planning.plan import Plan
from src.timing.estimates import (
    LAST,
    RunTiming,
    VideoTiming,
    earlier_runs,
    earlier_videos,
    error_text,
    estimate,
    estimate_text,
    estimate_videos,
    estimate_work,
    remember,
    remember_videos,
    run_timing,
    where_text,
)
from src.timing.history import KEPT
from src.timing.phases import ANSWERS, FETCHING, HINTS, LOADING, SENDING, STARTING, VIDEOS, Stopwatch, WorkerLifetime
from src.timing.progress import Quiet
from src.timing.workload import Work
from tests.unit.timing.conftest import Clock, past, remote_run

WORK = Work(requests=200, tokens=160_000, pixels=2_000_000, to_render=2_000_000, lanes=10)


def answers_s(work: Work, *runs: RunTiming) -> float:
    found = estimate_work(work, runs)
    assert found
    return found.phases[ANSWERS]


def test_each_phase_is_scaled_by_its_work() -> None:
    found = estimate_work(WORK, [past()])
    assert found
    assert found.phases == pytest.approx({STARTING: 2, HINTS: 20, SENDING: 10, LOADING: 60, ANSWERS: 100, FETCHING: 1})
    assert found.total_s == pytest.approx(163)  # hints are rendered while the worker loads


def test_slow_hints_determine_the_total() -> None:
    found = estimate_work(WORK, [past(rendering_s=500.0)])
    assert found and found.total_s == pytest.approx(1000 + 10 + 1)


def test_one_unusual_run_changes_nothing() -> None:
    usual = estimate_work(WORK, [past()] * 4)
    unusual = estimate_work(WORK, [*[past()] * 3, past(loading_s=900.0, answering_s=4000.0), past()])
    assert usual and unusual and usual.total_s == unusual.total_s


def test_only_the_last_runs_count() -> None:
    found = estimate_work(WORK, [*[past(loading_s=900.0)] * 20, *[past()] * LAST])
    assert found and found.phases[LOADING] == 60 and found.runs == LAST


def test_parallel_requests_take_one_round() -> None:
    before = past(requests=5, tokens=4000, answering_s=6.0)
    assert answers_s(replace(WORK, requests=3, tokens=2400), before) == pytest.approx(6)
    assert answers_s(replace(WORK, requests=100, tokens=80_000), before) == pytest.approx(60)


def test_answers_are_scaled_by_tokens() -> None:
    runs = [past(tokens=50_000, answering_s=10.0), past(tokens=200_000, answering_s=40.0)]
    assert answers_s(replace(WORK, requests=100, tokens=400_000), *runs) == pytest.approx(80)


def test_cached_hints_and_local_frames_are_free() -> None:
    found = estimate_work(replace(WORK, to_render=0), [past(sent_bytes=0, sending_s=0.0)])
    assert found and found.phases[HINTS] == found.phases[SENDING] == 0


def test_rendering_is_estimated_from_runs_that_rendered() -> None:
    found = estimate_work(WORK, [past(), *[past(to_render=0, rendering_s=0.01)] * LAST])
    assert found and found.phases[HINTS] == 20


def test_without_earlier_runs_there_is_no_estimate() -> None:
    assert estimate_work(WORK, []) is None


# Range


def test_range_has_best_and_worst_rates() -> None:
    runs = [past(), past(answering_s=25.0), past(answering_s=100.0, loading_s=90.0)]
    found = estimate_work(replace(WORK, requests=100, tokens=80_000), runs)
    assert found and (found.least_s, found.total_s, found.most_s) == pytest.approx((88, 113, 193))
    assert "2 min, 88 s to 3 min, from the last 3 runs with there" in estimate_text(found, "there")


def test_range_contains_the_estimate() -> None:
    for runs in ([past()], [past(), past(loading_s=5.0)], [past(answering_s=s) for s in (1.0, 9.0, 3.0)]):
        found = estimate_work(WORK, runs)
        assert found and found.least_s <= found.total_s <= found.most_s


def test_one_run_has_no_range() -> None:
    found = estimate_work(WORK, [past()])
    assert found and found.least_s == found.total_s == found.most_s
    assert " to " not in estimate_text(found, "there")


# Measured runs


def test_run_timing_has_the_measured_phases(clock: Clock) -> None:
    found = run_timing(WORK, remote_run(clock), [WorkerLifetime(25.0, 19.5)], [1.0, 2.0, 2.0])
    assert (found.starting_s, found.loading_s, found.rendering_s, found.sending_s) == (6, 19.5, 4, 2)
    assert (found.answering_s, found.ending_s, found.total_s, found.sent_bytes) == (5, 2, 33, 10 << 20)


def test_answers_that_waited_count_their_own_seconds(clock: Clock) -> None:
    watch = Stopwatch(Quiet(), clock)
    watch.phase("loading")
    watch.phase("serving")
    for clock.now in (1010, 1020, 1030):
        watch.took("hints", clock.now - 10, 1)
        watch.took("answers", clock.now, 1)
    found = run_timing(replace(WORK, lanes=2), watch.measured({}, {}), [], [1.0, 1.0, 2.0])
    assert found.answering_s == 2.0


def test_estimate_from_the_same_run_is_right(clock: Clock) -> None:
    work = Work(requests=3, tokens=3000, pixels=9000, to_render=9000, lanes=10)
    measured = remote_run(clock)
    found = estimate_work(work, [run_timing(work, measured, [], [1.0] * 3)])
    assert found and found.total_s == pytest.approx(measured.seconds)


@pytest.mark.parametrize(
    ("expected", "took", "text"),
    [
        (82.0, 76.0, "estimated 82 s, took 76 s (-7 %)"),
        (50.0, 75.0, "estimated 50 s, took 75 s (+50 %)"),
        (80.0, 80.0, "estimated 80 s, took 80 s (±0 %)"),
        (59.0, 0.5, ""),
    ],
)
def test_error_of_an_estimate_is_one_line(expected: float, took: float, text: str) -> None:
    assert error_text({"total": expected}, took) == text
    assert error_text({}, took) == ""


# Videos


def test_videos_are_estimated_by_pieces_and_loads() -> None:
    before = VideoTiming(pieces=8, loads=1, loading_s=100.0, total_s=900.0)
    found = estimate_videos(3, 2, [before])
    assert found and found.phases == {LOADING: 200.0, VIDEOS: 300.0} and found.total_s == 500.0
    assert estimate_videos(3, 2, []) is None and estimate_videos(0, 0, [before]) is None
    too_quick = VideoTiming(pieces=0, loads=0, loading_s=0.0, total_s=0.1)
    assert estimate_videos(3, 2, [too_quick]) is None and estimate_videos(3, 2, [before, too_quick]) == found


def test_videos_are_remembered_separately(plan: Plan) -> None:
    videos = VideoTiming(pieces=8, loads=1, loading_s=100.0, total_s=900.0)
    remember(plan, past())
    remember_videos(plan, "inference=edge, 1 GPU", videos)
    remember(plan, past())
    assert earlier_runs(plan) == (past(), past())
    assert earlier_videos(plan, "inference=edge, 1 GPU") == (videos,)
    assert earlier_videos(plan, "inference=edge, 2 GPUs") == ()


# History


def test_plan_is_estimated_from_remembered_runs(plan: Plan) -> None:
    assert estimate(plan) is None
    assert estimate_text(None, where_text(plan)) == ""
    for _ in range(KEPT + 2):
        remember(plan, past())
    assert len(earlier_runs(plan)) == KEPT
    text = estimate_text(estimate(plan), where_text(plan))
    assert "loading 60 s" in text and f"from the last {LAST} runs with engine=offline on local" in text


@pytest.mark.parametrize("text", ["", "[]", '{"offline": {"answers": 8, "seconds": 2.0}}', '{"a": [{"b": 1}]}'])
def test_history_of_other_versions_is_ignored(plan: Plan, text: str) -> None:
    cache = Path(plan.settings.cache_dir)
    cache.mkdir(exist_ok=True)
    (cache / "timings.json").write_text(text)
    assert earlier_runs(plan) == ()
    remember(plan, past())
    assert earlier_runs(plan) == (past(),)
