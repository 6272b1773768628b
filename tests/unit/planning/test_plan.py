"""Identities of items and runs: they change with whatever the answer depends on, and with nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.media.video import Video
from src.planning.plan import Plan, item_id
from src.planning.settings import digest, dumps, json_pieces, long_digest
from tests.unit.planning.conftest import ITEMS, Item, Planned

ONE = ITEMS[:1]


def id_of(plan: Plan) -> str:
    assert len(plan.items) == 1
    return plan.items[0].id


def test_item_id_ignores_name_path_and_fields(planned: Planned, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(clips / "wide.mp4", tmp_path / "elsewhere" / "renamed.mp4")
    moved = [{"name": "other", "prompt": "A red car", "video_path": "renamed.mp4", "mood": "glad"}]
    assert id_of(planned(items=ONE)) == id_of(planned(items=moved, folder=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    "override",
    [
        *["budget=32k", "budget.text_margin=50", "budget.max_batch_size=1", "hints.video=false", "console.level=debug"],
        *["engine.in_flight=3", "engine.max_attempts=1", "output.report=false", "hints.workers=1"],
    ],
)
def test_item_id_ignores_how_it_is_run(planned: Planned, override: str) -> None:
    assert id_of(planned(items=ONE)) == id_of(planned(override, items=ONE))


@pytest.mark.parametrize(
    "override",
    [
        *["sampling.seed=1", "sampling.temperature=0.7", "budget.max_output_tokens=301", "model=pixtral_12b"],
        *["model.checkpoint=/models/b", "model.dtype=float16", "engine.name=vllm", "engine.name=cosmos"],
        *["upsample.width_px=288", "frames.count=1", "frames.rule=ends", "frames.fps=4"],
        *["template=describe", "template.user='{{ prompt }}!'"],
    ],
)
def test_item_id_changes_with_the_request(planned: Planned, override: str) -> None:
    given = ["model.checkpoint=/models/a"]
    assert id_of(planned(*given, items=ONE)) != id_of(planned(*given, override, items=ONE))


@pytest.mark.parametrize("override", ["engine.name=endpoint", "engine.base_url=http://other/v1"])
def test_item_id_changes_with_the_endpoint(planned: Planned, override: str) -> None:
    given = ["engine.base_url=http://localhost/v1"]
    assert id_of(planned(*given, items=ONE)) != id_of(planned(*given, override, items=ONE))


@pytest.mark.parametrize(
    "item",
    [
        {"name": "wide", "prompt": "A red car.", "video_path": "wide.mp4"},
        {"name": "wide", "prompt": "A red car ", "video_path": "wide.mp4"},
        {"name": "wide", "prompt": "A red car", "video_path": "other.mp4"},
        {"name": "wide", "prompt": "A red car"},
    ],
    ids=["prompt", "space at the end", "clip of the same size", "no clip"],
)
def test_item_id_changes_with_prompt_and_clip(planned: Planned, item: Item) -> None:
    assert id_of(planned(items=ONE)) != id_of(planned(items=[item]))


def test_empty_prompt_is_not_its_question(planned: Planned) -> None:
    plan = planned(
        items=[
            {"name": "empty", "prompt": "", "video_path": "wide.mp4"},
            {"name": "words", "prompt": "describe the following images", "video_path": "wide.mp4"},
        ]
    )
    assert plan.items[0].id != plan.items[1].id


def test_items_that_are_not_sent_differ(planned: Planned) -> None:
    same = {"prompt": "x", "video_path": "nowhere.mp4"}
    plan = planned(items=[{"name": "a", **same}, {"name": "b", **same}])
    assert not any(item.fits for item in plan.items)
    assert plan.items[0].id != plan.items[1].id


def test_item_id_depends_on_the_clip_hash(planned: Planned) -> None:
    video = Video("ignored.mp4", "0" * 64, 320, 180, 24.0, 24, 1.0, "h264")
    plan = planned(items=ONE)
    hint = plan.items[0].hint

    def identity(video: Video) -> str:
        return item_id("A red car", "A red car", "", video, hint, "", plan.settings)

    assert identity(video) == identity(replace(video, path="other.mp4", codec="av1"))
    assert identity(video) != identity(replace(video, sha256="1" * 64))


def test_run_id_changes_with_order_and_settings(planned: Planned) -> None:
    plan = planned()
    assert plan.run_id == planned().run_id
    assert plan.run_id != replace(plan, items=plan.items[::-1]).run_id
    assert plan.run_id != planned("sampling.seed=5").run_id


def test_digest_is_16_digits_of_canonical_json() -> None:
    assert digest({"b": 1, "a": [2, "é"]}) == digest({"a": [2, "é"], "b": 1})
    assert digest("a", "b") != digest("ab")
    assert len(digest("x")) == 16
    assert int(digest("x"), 16) >= 0
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_plan_is_deeply_immutable(planned: Planned) -> None:
    plan = planned()
    hash((plan.settings, plan.batches, *plan.items))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.items[0].tokens.prompt = 1  # type: ignore[misc]


# Batches


def test_items_that_fit_know_their_batch(planned: Planned) -> None:
    plan = planned("budget.max_batch_size=1")
    for item in plan.items:
        if item.fits:
            assert item.batch is not None
            assert item.id in plan.batches[item.batch]
            assert item.runs
        else:
            assert item.batch is None
            assert not item.runs
    assert len(plan.batches) == len({item.id for item in plan.items if item.fits}) == 4


def test_identical_items_share_one_request(planned: Planned) -> None:
    plan = planned(items=[{"name": n, "prompt": "A red car", "video_path": "wide.mp4"} for n in "abc"])
    assert len({item.id for item in plan.items}) == 1
    assert [len(batch) for batch in plan.batches] == [1]
    assert {item.batch for item in plan.items} == {0}


@given(st.lists(st.text(max_size=3)), st.none() | st.text() | st.integers())
def test_long_digest_is_the_digest(ids: list[str], more: object) -> None:
    assert long_digest(ids, more) == digest(ids, more)
    assert "".join(json_pieces([ids, more])) == dumps([ids, more])
