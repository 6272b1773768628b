"""What a model that sees no frames is told instead."""

from __future__ import annotations

import pytest

from src.errors import HintError
from src.planning import facts
from tests.unit.planning.conftest import Item, Planned

BLIND = ("model=smollm2_135m", "model.family=unverified")
ITEMS: list[Item] = [
    {"name": "wide", "prompt": "A red car", "video_path": "wide.mp4"},
    {"name": "text", "prompt": "A boat"},
    {"name": "sound", "prompt": "A bird", "video_path": "sound.m4a"},
]


def test_facts_of_the_clip_are_in_the_text(planned: Planned) -> None:
    wide, text, sound = planned(*BLIND, items=ITEMS).items
    assert "A red car" in wide.text and "The shot is wide" in wide.text
    assert "The shot is" not in text.text
    assert wide.tokens.image == 0 and wide.hint
    assert not sound.fits and wide.fits and text.fits


def test_second_plan_reads_no_frame(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(*BLIND, items=ITEMS)
    monkeypatch.setattr(facts, "render", lambda *_, **__: pytest.fail("a clip was read again"))
    assert planned(*BLIND, items=ITEMS).items[0] == first.items[0]


def test_clip_that_cannot_be_read_is_a_problem(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    def render(*_: object, **__: object) -> None:
        raise HintError("wide.mp4: has 1 frames where its header promises 2")

    monkeypatch.setattr(facts, "render", render)
    wide = planned(*BLIND, "upsample.width_px=300", items=ITEMS[:1]).items[0]
    assert not wide.fits and "promises 2" in wide.problem


def test_engine_without_a_model_sees_the_frames(planned: Planned) -> None:
    plan = planned("model=smollm2_135m", "engine=offline", items=ITEMS[:1])
    assert not plan.settings.model.text_only and plan.items[0].fits


@pytest.mark.parametrize("gguf", ["/no/such.gguf", "package:no_such/x.gguf"])
def test_plan_is_unverified_where_nothing_counts(planned: Planned, gguf: str) -> None:
    plan = planned("model=smollm2_135m", f"model.gguf={gguf}", "host=ssh", "host.address=gpu", items=ITEMS[1:2])
    assert plan.settings.model.family == "unverified" and plan.items[0].unverified
