"""What phases took, what that says about later runs, and how a run's time and cost are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.inference.items import pieces_of
from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.timing.estimates import (
    LAST,
    Past,
    PastVideos,
    earlier_runs,
    earlier_videos,
    error_words,
    estimate,
    estimate_words,
    estimated,
    estimated_videos,
    past_of,
    place_words,
    remember,
    remember_videos,
)
from src.timing.history import KEPT
from src.timing.phases import (
    ANSWERS,
    FETCHING,
    FIRST,
    HINTS,
    LOADING,
    SENDING,
    STARTING,
    VIDEOS,
    Life,
    Measured,
    Phase,
    Watch,
    add_start,
    lives,
    read_starts,
)
from src.timing.progress import Lines, Quiet
from src.timing.summary import gpu_facts, rate_words, run_facts, timeline, token_words
from src.timing.workload import Work, rendering_cost, work_of
from tests.conftest import Configure


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spans(measured: Measured) -> dict[str, tuple[float, float]]:
    return {name: (phase.begin_s, phase.end_s) for name, phase in measured.phases.items()}


def remote_run(clock: Clock) -> Measured:
    """Hints for 4 s, 10 MiB sent in 2 s, a worker that loads for 20 s, and three answers."""
    watch = Watch(Quiet(), clock)
    clock.now = 1004
    watch.took("hints", 1000.0, 3)
    clock.now = 1006
    watch.took("sending", 1004.0, 10 << 20)
    watch.phase("loading")
    clock.now = 1026
    watch.phase("serving")
    for clock.now in (1029, 1030, 1031):
        watch.took("answers", clock.now, 1)
    watch.phase("fetching")
    clock.now = 1033
    return watch.measured({"total": 40.0}, {"Python": "3"})


def test_phases_follow_one_another_as_they_were_seen(clock: Clock) -> None:
    measured = remote_run(clock)
    assert spans(measured) == {
        STARTING: (0, 6), HINTS: (0, 4), SENDING: (4, 6), LOADING: (6, 26), FIRST: (26, 29), ANSWERS: (29, 31),
        FETCHING: (31, 33),
    }  # fmt: skip
    assert measured.seconds == 33
    assert [measured.phases[name].amount for name in (HINTS, SENDING, ANSWERS)] == [3, 10 << 20, 3]


def test_the_last_of_several_workers_ends_the_loading(clock: Clock) -> None:
    watch = Watch(Quiet(), clock)
    for clock.now, phase in ((1002, "loading"), (1003, "loading"), (1010, "serving"), (1013, "serving")):
        watch.phase(phase)
    assert spans(watch.measured({}, {}))[LOADING] == (2, 13)


def test_an_engine_that_never_served_was_loading_to_the_end(clock: Clock) -> None:
    watch = Watch(Quiet(), clock)
    watch.phase("loading")
    clock.now += 7
    assert spans(watch.measured({}, {}))[LOADING] == (0, 7)


def test_a_worker_found_serving_has_no_load(clock: Clock) -> None:
    watch = Watch(Quiet(), clock)
    watch.phase("serving")
    clock.now += 2
    watch.took("answers", clock.now, 1)
    assert spans(watch.measured({}, {})) == {FIRST: (0, 2), ANSWERS: (2, 2)}


def test_starts_are_read_back_in_order_and_one_without_anything_is_left_out(tmp_path: Path, clock: Clock) -> None:
    first, nothing = remote_run(clock), Watch(Quiet(), clock).measured({}, {})
    for start in (first, nothing, replace(first, seconds=5.0)):
        add_start(tmp_path / "timings.json", start)
    assert read_starts(tmp_path / "timings.json") == (first, replace(first, seconds=5.0))


@pytest.mark.parametrize("text", ["", "[]", '{"starts": [{"began": 1}]}', '{"starts": 5}', "{"])
def test_timings_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "timings.json").write_text(text)
    assert read_starts(tmp_path / "timings.json") == ()


def event(phase: str, at: float, **facts: Any) -> dict[str, Any]:
    return {"event": "phase", "phase": phase, "time": at, **facts}


def test_each_worker_of_a_job_lived_from_its_first_word_to_its_last() -> None:
    events = [
        event("loading", 10), event("loading", 15, rung="less memory"), event("serving", 30, load_s=20.0),
        {"event": "heartbeat", "time": 42},
        event("loading", 100), event("serving", 118, load_s=18.0), event("draining", 130),
    ]  # fmt: skip
    assert lives(events) == (Life(32, 20.0), Life(30, 18.0))
    assert lives([]) == ()


# ------------------------------------------------------------------------------------------------------------ estimates


def past(**changes: Any) -> Past:
    known: dict[str, Any] = {
        "requests": 100, "tokens": 80_000, "pixels": 1_000_000, "to_render": 1_000_000, "lanes": 10, "starting_s": 2.0,
        "loading_s": 60.0, "rendering_s": 10.0, "sent_bytes": 10 << 20, "sending_s": 5.0, "answering_s": 50.0,
        "ending_s": 1.0, "total_s": 113.0,
    }  # fmt: skip
    return Past(**{**known, **changes})


WORK = Work(requests=200, tokens=160_000, pixels=2_000_000, to_render=2_000_000, lanes=10)


def test_each_phase_is_scaled_by_what_it_does() -> None:
    found = estimated(WORK, [past()])
    assert found
    assert found.phases == pytest.approx({STARTING: 2, HINTS: 20, SENDING: 10, LOADING: 60, ANSWERS: 100, FETCHING: 1})
    assert found.total_s == pytest.approx(163)  # hints go on beside the load


def test_slow_hints_decide_when_they_take_longer_than_the_worker() -> None:
    found = estimated(WORK, [past(rendering_s=500.0)])
    assert found and found.total_s == pytest.approx(1000 + 10 + 1)


def test_one_odd_run_does_not_move_the_estimate() -> None:
    usual = estimated(WORK, [past()] * 4)
    odd = estimated(WORK, [*[past()] * 3, past(loading_s=900.0, answering_s=4000.0), past()])
    assert usual and odd and usual.total_s == odd.total_s


def test_only_the_last_runs_count() -> None:
    found = estimated(WORK, [*[past(loading_s=900.0)] * 20, *[past()] * LAST])
    assert found and found.phases[LOADING] == 60 and found.runs == LAST


def test_requests_that_go_side_by_side_take_as_long_as_one_round() -> None:
    few = estimated(replace(WORK, requests=3, tokens=2400), [past(requests=5, tokens=4000, answering_s=6.0)])
    many = estimated(replace(WORK, requests=100, tokens=80_000), [past(requests=5, tokens=4000, answering_s=6.0)])
    assert few and few.phases[ANSWERS] == pytest.approx(6)
    assert many and many.phases[ANSWERS] == pytest.approx(60)


def test_tokens_are_the_unit_where_they_explain_the_time_better() -> None:
    runs = [past(tokens=50_000, answering_s=10.0), past(tokens=200_000, answering_s=40.0)]
    found = estimated(replace(WORK, requests=100, tokens=400_000), runs)
    assert found and found.phases[ANSWERS] == pytest.approx(80)


def test_rounds_are_the_unit_where_they_explain_the_time_better() -> None:
    runs = [past(tokens=50_000, answering_s=50.0), past(tokens=200_000, answering_s=50.0)]
    found = estimated(replace(WORK, requests=100, tokens=400_000), runs)
    assert found and found.phases[ANSWERS] == pytest.approx(50)


def test_hints_in_the_cache_and_frames_that_need_not_travel_cost_nothing() -> None:
    found = estimated(replace(WORK, to_render=0), [past(sent_bytes=0, sending_s=0.0)])
    assert found and found.phases[HINTS] == found.phases[SENDING] == 0


def test_what_rendering_took_is_known_from_the_last_runs_that_rendered() -> None:
    runs = [past(), *[past(to_render=0, rendering_s=0.01)] * LAST]
    found = estimated(WORK, runs)
    assert found and found.phases[HINTS] == 20


def test_without_an_earlier_run_there_is_no_estimate() -> None:
    assert estimated(WORK, []) is None


def test_range_says_how_far_the_others_were_off_for_each_run() -> None:
    runs = [past(), past(answering_s=25.0, total_s=88.0), past(answering_s=100.0, total_s=163.0)]
    found = estimated(replace(WORK, requests=100, tokens=80_000), runs)
    assert found and found.total_s == pytest.approx(113)
    # 88 s against what 113 s and 163 s say together, 138 s; 163 s against what 113 s and 88 s say, 100.5 s
    assert found.least_s == pytest.approx(113 * 88 / 138) and found.most_s == pytest.approx(113 * 163 / 100.5)
    assert "about 2 min, 72 s to 3 min, by the last 3 runs with there" in estimate_words(found, "there")


def test_range_holds_the_estimate_and_fewer_than_three_runs_give_none() -> None:
    for total_s in (50.0, 200.0):
        found = estimated(WORK, [past(total_s=total_s)] * 3)
        assert found and found.least_s <= found.total_s <= found.most_s
    two = estimated(WORK, [past(), past(total_s=500.0)])
    assert two and two.least_s == two.total_s == two.most_s


def test_rendering_costs_more_for_later_frames_and_larger_ones(plan: Plan) -> None:
    item = plan.items[0]
    assert item.video and item.hint
    head, uniform = item.hint, replace(item.hint, rule="uniform", times_s=(4.0, 400.0))
    long = replace(item.video, duration_s=600.0)
    larger = replace(head, width_px=640, height_px=360)
    one_s = long.width_px * long.height_px * long.fps
    assert rendering_cost(long, head) == one_s * 1.5 + 100 * 320 * 180 * 2
    assert rendering_cost(long, uniform) - rendering_cost(long, head) == one_s * (4.0 + 5.0 - 1.5)
    assert rendering_cost(long, larger) - rendering_cost(long, head) == 100 * 3 * 320 * 180 * 2


# Videos


@pytest.mark.parametrize(("frames", "pieces"), [(1, 1), (24, 1), (121, 1), (122, 2), (241, 2), (242, 3)])
def test_a_video_is_made_in_pieces_of_121_frames_that_share_one(frames: int, pieces: int) -> None:
    assert pieces_of(frames) == pieces


def test_videos_are_estimated_by_their_pieces_and_by_loads() -> None:
    before = PastVideos(pieces=8, loads=1, loading_s=100.0, total_s=900.0)
    found = estimated_videos(3, 2, [before])
    assert found and found.phases == {LOADING: 200.0, VIDEOS: 300.0} and found.total_s == 500.0
    assert estimated_videos(3, 2, []) is None and estimated_videos(0, 0, [before]) is None


def test_inference_is_watched_like_answers(clock: Clock) -> None:
    watch = Watch(Quiet(), clock)
    for clock.now, phase in ((1001, "loading"), (1011, "generating"), (1020, "loading"), (1032, "generating")):
        watch.phase(phase)
    watch.took("videos", clock.now, 3)
    loading = watch.measured({}, {}).phases[LOADING]
    assert (loading.busy_s, loading.amount) == (22, 2)


def test_videos_are_remembered_beside_prompts(plan: Plan) -> None:
    videos = PastVideos(pieces=8, loads=1, loading_s=100.0, total_s=900.0)
    remember(plan, past())
    remember_videos(plan, "inference=edge, 1 GPU", videos)
    remember(plan, past())
    assert earlier_runs(plan) == (past(), past())
    assert earlier_videos(plan, "inference=edge, 1 GPU") == (videos,)
    assert earlier_videos(plan, "inference=edge, 2 GPUs") == ()


def test_a_run_that_ended_says_what_its_phases_took(clock: Clock) -> None:
    found = past_of(WORK, remote_run(clock), [Life(25.0, 19.5)], [1.0, 2.0, 2.0])
    assert (found.starting_s, found.loading_s, found.rendering_s, found.sending_s) == (6, 19.5, 4, 2)
    assert (found.answering_s, found.ending_s, found.total_s, found.sent_bytes) == (5, 2, 33, 10 << 20)


def test_answers_that_waited_for_hints_are_counted_by_their_own_seconds(clock: Clock) -> None:
    watch = Watch(Quiet(), clock)
    watch.phase("loading")
    watch.phase("serving")
    for clock.now in (1010, 1020, 1030):
        watch.took("hints", clock.now - 10, 1)
        watch.took("answers", clock.now, 1)
    found = past_of(replace(WORK, lanes=2), watch.measured({}, {}), [], [1.0, 1.0, 2.0])
    assert found.answering_s == 2.0


def test_an_estimate_by_itself_is_right_for_the_same_work(clock: Clock) -> None:
    work = Work(requests=3, tokens=3000, pixels=9000, to_render=9000, lanes=10)
    measured = remote_run(clock)
    found = estimated(work, [past_of(work, measured, [], [1.0] * 3)])
    assert found and found.total_s == pytest.approx(measured.seconds)


@pytest.mark.parametrize(
    ("expected", "took", "said"),
    [
        (41.0, 38.0, "estimated 41 s, took 38 s (-7 %)"),
        (10.0, 15.0, "estimated 10 s, took 15 s (+50 %)"),
        (20.0, 20.0, "estimated 20 s, took 20 s (±0 %)"),
    ],
)
def test_the_error_of_an_estimate_is_said_in_one_line(expected: float, took: float, said: str) -> None:
    assert error_words({"total": expected}, took) == said
    assert error_words({}, took) == ""


@pytest.fixture
def plan(tmp_path: Path, clips: Path, configure: Configure) -> Plan:
    prompts = [{"name": n, "prompt": f"A boat {n}.", "video_path": str(clips / "wide.mp4")} for n in "abc"]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    config = configure("host.gpus=device=0\\,2")
    config.prompts, config.cache_dir = str(tmp_path / "prompts.json"), str(tmp_path / "cache")
    config.host.gpus = "device=0,2"
    return resolve(config)


def test_work_counts_requests_and_each_hint_once(plan: Plan) -> None:
    work = work_of(plan)
    assert (work.requests, work.pixels) == (3, 320 * 180 * 2)
    item = plan.items[0]
    assert item.video and item.hint and work.to_render == rendering_cost(item.video, item.hint)
    assert work.tokens == sum(item.tokens.prompt + 300 for item in plan.items)


def test_a_plan_is_estimated_by_the_runs_that_were_remembered(plan: Plan) -> None:
    assert estimate(plan) is None
    assert "not known" in estimate_words(None, place_words(plan))
    for _ in range(KEPT + 2):
        remember(plan, past())
    assert len(earlier_runs(plan)) == KEPT
    said = estimate_words(estimate(plan), place_words(plan))
    assert "loading 60 s" in said and f"by the last {LAST} runs with engine=offline on local" in said


@pytest.mark.parametrize("text", ["", "[]", '{"offline": {"answers": 8, "seconds": 2.0}}', '{"a": [{"b": 1}]}'])
def test_what_another_version_remembered_is_left_out(plan: Plan, text: str) -> None:
    cache = Path(plan.settings.cache_dir)
    cache.mkdir(exist_ok=True)
    (cache / "timings.json").write_text(text)
    assert earlier_runs(plan) == ()
    remember(plan, past())
    assert earlier_runs(plan) == (past(),)


def test_lines_tell_the_estimate_until_a_rate_is_known(clock: Clock) -> None:
    lines = Lines(clock, expected_s=40.0)
    clock.now += 10
    assert lines._facts("answers", 0, 8, clock.now)["eta"] == "~30s"
    lines.step("answers", 2, 8)
    clock.now += 2
    assert lines._facts("answers", 4, 8, clock.now)["eta"] == "4s"
    assert Lines(clock, expected_s=7200.0)._facts("videos", 0, 8, clock.now)["eta"] == "~2.0h"
    clock.now += 100
    assert "eta" not in Lines(clock)._facts("answers", 0, 8, clock.now)


# ------------------------------------------------------------------------------------------------------------- accounts


def test_the_line_of_time_has_every_phase_in_its_place(clock: Clock) -> None:
    bars = timeline(replace(remote_run(clock), estimated_s={"loading": 25.0}))
    assert [bar.label for bar in bars] == [STARTING, HINTS, SENDING, LOADING, FIRST, ANSWERS, FETCHING]
    loading, sending = bars[3], bars[2]
    assert (loading.left, loading.width) == pytest.approx((100 * 6 / 33, 100 * 20 / 33), abs=0.001)
    assert loading.detail == "20 s · estimated 25 s"
    assert sending.detail == "2.00 s · 10.0 MiB, 5.0 MiB/s"
    assert all(bar.left + bar.width <= 100.001 for bar in bars)


def test_the_rate_counts_from_when_the_worker_was_ready(clock: Clock) -> None:
    assert rate_words([remote_run(clock)]) == "0.60 answers a second"
    assert rate_words([]) == ""


def test_gpu_time_and_cost_are_said_only_where_they_are_known(plan: Plan) -> None:
    engine = replace(plan.settings.engine, name="vllm")
    place = replace(plan.settings.host, price_per_gpu_hour=2.5)
    workers = [Life(1800.0, 60.0)]

    def facts(**settings: Any) -> dict[str, str]:
        changed = {"engine": engine, "host": place, **settings}
        return dict(gpu_facts(replace(plan, settings=replace(plan.settings, **changed)), workers))

    assert facts() == {"GPU time": "3,600 GPU seconds (2 a worker)", "Cost": "2.50 at 2.5 for an hour of a GPU"}
    assert facts(host=replace(place, workers=2))["GPU time"] == "1,800 GPU seconds (1 a worker)"
    assert "Cost" not in facts(host=replace(place, price_per_gpu_hour=0.0))
    assert facts(host=replace(place, gpus="all")) == {}
    assert facts(engine=plan.settings.engine) == {}


def test_tokens_are_compared_over_the_items_that_the_engine_counted() -> None:
    rows = [{"tokens": {"predicted": p, "measured": m}} for p, m in ((500, 500), (700, 701), (900, None))]
    assert token_words(rows) == "planned 1,200, measured 1,201; equal in 1 of 2 items"
    assert token_words(rows[2:]) == ""


def test_a_run_in_two_starts_took_both_and_its_estimate_is_not_held_against_it(plan: Plan) -> None:
    start = Measured("", "", 20.0, {HINTS: Phase(0, 1, 1)}, {"total": 10.0})
    assert dict(run_facts(plan, [], [start], []))["Time"] == "estimated 10 s, took 20 s (+100 %)"
    both = dict(run_facts(plan, [], [start, start], []))
    assert both["Took"] == "40 s, in 2 starts" and "Time" not in both
