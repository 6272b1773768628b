"""The work of a plan: requests, tokens, and what its hints cost to render."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from src.media.hint import hint_key
from src.planning.plan import Plan
from src.timing.workload import rendering_cost, work_of


def test_each_hint_counts_once(plan: Plan) -> None:
    work = work_of(plan)
    assert (work.requests, work.pixels) == (3, 320 * 180 * 2)
    item = plan.items[0]
    assert item.video and item.hint and work.to_render == rendering_cost(item.video, item.hint)
    assert work.tokens == sum(item.tokens.prompt + 300 for item in plan.items)


def test_cached_hints_cost_nothing(plan: Plan) -> None:
    item = plan.items[0]
    assert item.video and item.hint
    (Path(plan.settings.cache_dir) / "hints" / hint_key(item.video, item.hint)).mkdir(parents=True)
    assert work_of(plan).to_render == 0


def test_later_and_larger_frames_cost_more(plan: Plan) -> None:
    item = plan.items[0]
    assert item.video and item.hint
    head, uniform = item.hint, replace(item.hint, rule="uniform", times_s=(4.0, 400.0))
    long = replace(item.video, duration_s=600.0)
    larger = replace(head, width_px=640, height_px=360)
    one_s = long.width_px * long.height_px * long.fps
    assert rendering_cost(long, head) == one_s * 1.5 + 100 * 320 * 180 * 2
    assert rendering_cost(long, uniform) - rendering_cost(long, head) == one_s * (4.0 + 5.0 - 1.5)
    assert rendering_cost(long, larger) - rendering_cost(long, head) == 100 * 3 * 320 * 180 * 2
