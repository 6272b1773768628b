"""Points of a limits sweep: equal ones, verdicts, agreement, and the fine search around the limit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.limits.points import (
    _SHAPES,
    Agreement,
    Measured,
    agreement,
    disagreements,
    edge,
    marked,
    measured_of,
    memory_lines,
    observed_limit,
    point_of,
    size_of,
)
from src.media import geometry
from src.media.geometry import Size
from src.models.family import Media
from src.planning.resolve import resolve
from src.worker.protocol import Attempt, EngineUsed, Outcome, TokenCounts
from tests.conftest import Configure
from tests.harness import pixtral
from tests.unit.limits.conftest import measured, point


def test_sizes_with_equal_patches_are_marked() -> None:
    twins = {p.size: p.same_as for p in marked([point("1920x1056"), point("1280x704"), point("640x480")])}
    assert twins == {"640x480": "", "1280x704": "", "1920x1056": "1280x704"}


def test_points_of_different_budgets_are_never_equal() -> None:
    assert [p.same_as for p in marked([point(max_model_len=4096), point(max_model_len=8192)])] == ["", ""]


@pytest.mark.parametrize(
    ("result", "agrees"),
    [
        (measured(True, 2465), True),
        (measured(True), True),  # an engine that counts no tokens
        (measured(True, 2464), False),
        (measured(False, 2465), False),
        (measured(False, None, "failed"), None),
        (measured(False, 2464, "failed"), False),  # its count differs from the plan
        (None, None),
    ],
)
def test_agreement_covers_verdict_and_count(result: Measured | None, agrees: bool | None) -> None:
    assert point("640x480", measured=result).agrees is agrees


def test_disagreements_are_the_wrong_points() -> None:
    points = [point(measured=measured(True, 2465)), point(measured=measured(False, 2465)), point()]
    assert disagreements(points) == points[1:2]


def test_linear_estimate_is_judged_by_verdict() -> None:
    points = [
        point("320x180", measured=measured(True, 509)), point("640x480", measured=measured(True, 2465)), point("480x480"),
    ]  # fmt: skip
    assert agreement(points) == Agreement(measured=2, exact=2, linear=1)
    assert "2 of 2 points" in str(agreement(points))
    assert "not measured" in str(agreement(points[2:]))


@pytest.mark.parametrize("aspect", geometry.ASPECTS)
@given(limit=st.integers(30, 6000))
def test_search_finds_both_sides_of_the_limit(aspect: str, limit: int) -> None:
    """The largest size that fits, and the next one up."""

    def fits(size: Size) -> bool:
        return pixtral.prompt_tokens(size.width_px, size.height_px, 2, 2) <= limit

    found = edge(aspect, pixtral.PIXTRAL, Media(2), fits)
    sizes = pixtral.PIXTRAL.sizes(_SHAPES[aspect], Media(2))
    if not any(map(fits, sizes)):
        assert found == (sizes[-1],)
    elif fits(sizes[0]):
        assert found == (sizes[0],)
    else:
        best, above = found
        assert fits(best) and not fits(above)
        area = best.width_px * best.height_px
        larger = [s for s in sizes if s.width_px * s.height_px > area]
        assert above in larger and not any(map(fits, larger))
        assert above == min(larger, key=lambda s: s.width_px * s.height_px)


ANSWERED = Outcome(
    "i", "upsampled", attempts=(Attempt(0, 300),), tokens=TokenCounts(measured=509), engine=EngineUsed("vllm", "1")
)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (ANSWERED, (True, "", 3587)),
        (replace(ANSWERED, state="kept", reason="echo of the prompt, 1 time"), (True, "", 3587)),
        (Outcome("i", "kept", "refused", refusal="no_room", tokens=TokenCounts(measured=4000)), (False, "no_room", 96)),
        (Outcome("i", "failed", "frame damaged"), (False, "failed", None)),
    ],
    ids=["answered", "failed check", "refused", "failed"],
)
def test_outcome_tells_whether_it_was_accepted(outcome: Outcome, verdict: tuple[bool, str, int | None]) -> None:
    found = measured_of(outcome, 4096)
    assert (found.accepted, found.refusal, found.room) == verdict


def test_point_is_made_of_item_and_outcome(configure: Configure, clips: Path, tmp_path: Path) -> None:
    item = {"prompt": "Test prompt", "video_path": str(clips / "wide.mp4"), "aspect": "16:9", "category": "720"}
    (tmp_path / "p.json").write_text(json.dumps([item]))
    config = configure()
    config.prompts = str(tmp_path / "p.json")
    plan = resolve(config)
    planned = point_of(plan.items[0], plan, "key", None)
    assert (planned.size, planned.aspect, planned.category, planned.frames) == ("320x180", "16:9", "720", 2)
    assert (planned.fits, planned.measured, planned.linear_estimate) == (True, None, 1992)
    asked = point_of(plan.items[0], plan, "key", ANSWERED)
    assert observed_limit([planned], plan, "now") is None
    limit = observed_limit([asked], plan, "now")
    assert limit
    assert (limit.accepted, limit.refused, limit.version) == (asked.prompt_tokens + 300, None, "vllm 1")


@pytest.mark.parametrize("text", ["640", "640x", "x480", "640x480x2", "1x480", "-2x480", "wide"])
def test_invalid_size_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        size_of(text)


def test_memory_is_read_from_the_vllm_log() -> None:
    log = """INFO Model loading took 23.6552 GiB and 13.1 seconds
(Worker pid=1) INFO 11-24 04:13:52 [cpu_worker.py:260] Explicitly set (2.0/8.59) GiB for KV cache on node 0.
INFO [kv_cache_utils.py:2327] GPU KV cache size: 8,388 tokens, Maximum concurrency for 4,096 tokens per request: 2.04x"""
    assert memory_lines(log) == [
        "Model loading took 23.6552 GiB", "(2.0/8.59) GiB for KV cache", "GPU KV cache size: 8,388 tokens",
    ]  # fmt: skip
