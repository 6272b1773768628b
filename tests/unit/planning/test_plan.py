"""The plan: the same bytes for the same inputs, read back equal, and identities that change with what matters."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.media.video import Video
from src.planning.plan import Plan, item_id, with_batches
from src.planning.plan_file import read_plan, write_plan
from src.planning.resolve import resolve
from src.planning.settings import digest
from tests.conftest import Configure

Planned = Callable[..., Plan]
ITEMS: list[dict[str, Any]] = [
    {"name": "wide", "prompt": "A red car", "video_path": "wide.mp4", "mood": "grim"},
    {"name": "ευρύ 红色 🚗", "prompt": 'Ein "blaues" Auto,\n红色的 🚗\u2028 \\ end', "video_path": "hd.mp4"},
    {"name": "text only", "prompt": "no clip"},
    {"name": "no prompt", "video_path": "portrait.mp4"},
    {"name": "missing", "prompt": "x", "video_path": "nowhere.mp4"},
]


@pytest.fixture
def planned(configure: Configure, clips: Path, tmp_path: Path) -> Planned:
    """A function from overrides and items to a plan; video paths are relative to the folder of the clips."""

    def resolved(*overrides: str, items: list[dict[str, Any]] = ITEMS, folder: Path = clips) -> Plan:
        found = []
        for item in items:
            path = item.get("video_path")
            found.append(item | {"video_path": str(folder / path)} if path else item)
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps(found, ensure_ascii=False))
        config = configure(*overrides)
        config.prompts = str(file)
        return resolve(config)

    return resolved


def written(plan: Plan) -> str:
    out = io.StringIO()
    write_plan(plan, out)
    return out.getvalue()


def read_back(text: str, tmp_path: Path) -> Plan:
    file = tmp_path / "plan.json"
    file.write_text(text, encoding="utf-8", newline="")
    return read_plan(file)


def the_id(plan: Plan) -> str:
    assert len(plan.items) == 1
    return plan.items[0].id


# Bytes


def test_same_inputs_give_the_same_bytes(planned: Planned) -> None:
    assert written(planned("upsample=best_fit")) == written(planned("upsample=best_fit"))


def test_plan_read_back_is_equal_and_writes_the_same_bytes(planned: Planned, tmp_path: Path) -> None:
    plan = planned("frames=uniform_4")
    text = written(plan)
    again = read_back(text, tmp_path)
    assert again == plan
    assert written(again) == text
    assert again.run_id == plan.run_id


@pytest.mark.parametrize("model", ["tiny_random", "pixtral_12b"])
def test_plan_of_an_engine_with_arguments_is_read_back_equal(planned: Planned, tmp_path: Path, model: str) -> None:
    plan = planned("engine=vllm", f"model={model}", "model.checkpoint=/models/x", "model.extra_args=[--a,b c]")
    assert plan.settings.model.extra_args == ("--a", "b c")
    assert read_back(written(plan), tmp_path) == plan


def test_plan_is_json_with_the_promised_keys(planned: Planned) -> None:
    data = json.loads(written(planned()))
    assert data["version"] == 1
    assert set(data) >= {"run", "model", "engine", "budget", "batches", "items"}
    assert data["budget"] == {"max_model_len": 4096, "max_output_tokens": 300}
    item = data["items"][0]
    assert set(item) >= {"id", "name", "prompt", "video", "hint", "tokens", "fits", "batch"}
    assert set(item["video"]) >= {"path", "width_px", "height_px", "fps", "frames", "duration_s"}
    assert set(item["hint"]) >= {"width_px", "height_px", "frames", "times_s"}
    assert set(item["tokens"]) >= {"image", "text", "prompt", "output_reserved", "linear_estimate"}
    assert item["extra"] == {"mood": "grim"}


def test_plan_keeps_the_order_of_the_input_and_stands_an_item_a_line(planned: Planned) -> None:
    text = written(planned())
    assert [item["name"] for item in json.loads(text)["items"]] == [item["name"] for item in ITEMS]
    lines = [line for line in text.split("\n") if line.startswith('  {"id"')]
    assert [json.loads(line.rstrip(","))["name"] for line in lines] == [item["name"] for item in ITEMS]


def test_text_in_other_scripts_stands_in_plan_json_as_it_is(planned: Planned) -> None:
    assert "ευρύ 红色 🚗" in written(planned())


def test_plan_without_items_is_valid_json(planned: Planned, tmp_path: Path) -> None:
    empty = replace(planned(), batches=(), items=())
    assert read_back(written(empty), tmp_path) == empty


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    extra=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab红"),
        max_size=3,
    ),
)
def test_any_text_and_any_foreign_fields_are_read_back_equal(
    base: Plan, tmp_path_factory: pytest.TempPathFactory, text: str, extra: dict[str, Any]
) -> None:
    item = replace(
        base.items[0], name=text, prompt=text, text=text, system=text, extra=json.dumps(extra, ensure_ascii=False)
    )
    plan = replace(base, items=(item,))
    assert read_back(written(plan), tmp_path_factory.getbasetemp()) == plan


@pytest.fixture
def base(planned: Planned) -> Plan:
    return planned(items=ITEMS[:1])


def test_plan_is_immutable_all_the_way_down(planned: Planned) -> None:
    plan = planned("model=tiny_random")
    hash(plan)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.items[0].tokens.prompt = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"version": 1', '"version": 99'),
        lambda text: text.replace('"seed"', '"seeds"'),
    ],
    ids=["torn", "empty", "no object", "newer version", "renamed key"],
)
def test_plan_that_cannot_be_read_is_an_input_error(base: Plan, tmp_path: Path, damage: Callable[[str], str]) -> None:
    from src.errors import InputError

    with pytest.raises(InputError, match=r"plan\.json"):
        read_back(damage(written(base)), tmp_path)


@pytest.mark.parametrize("place", ['"settings": {', '"video": {', '"hint": {', '  {"id"'], ids=lambda p: p.strip()[:10])
def test_keys_added_by_a_later_version_are_ignored(base: Plan, tmp_path: Path, place: str) -> None:
    added = '  {"added": 1, "id"' if place == '  {"id"' else f'{place}"added": 1, '
    assert read_back(written(base).replace(place, added), tmp_path) == base


# Identity

ONE = ITEMS[:1]


def test_identity_does_not_change_with_name_path_or_foreign_fields(
    planned: Planned, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(clips / "wide.mp4", tmp_path / "elsewhere" / "renamed.mp4")
    moved = [{"name": "other", "prompt": "A red car", "video_path": "renamed.mp4", "mood": "glad"}]
    assert the_id(planned(items=ONE)) == the_id(planned(items=moved, folder=tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    "override",
    [
        *["budget=32k", "budget.text_margin=50", "budget.max_batch_size=1", "hints.video=false", "console.level=debug"],
        *["engine.in_flight=3", "engine.max_attempts=1", "output.report=false", "hints.workers=1"],
    ],
)
def test_identity_does_not_change_with_what_the_answer_does_not_depend_on(planned: Planned, override: str) -> None:
    assert the_id(planned(items=ONE)) == the_id(planned(override, items=ONE))


@pytest.mark.parametrize(
    "override",
    [
        "sampling.seed=1",
        "sampling.temperature=0.7",
        "model=pixtral_12b",
        "upsample.width_px=288",
        "frames=head_1",
        "frames=ends_2",
        "frames.fps=4",
        "budget.max_output_tokens=301",
        "template=describe",
        "template.user='{{ prompt }}!'",
    ],
)
def test_identity_changes_with_what_the_answer_depends_on(planned: Planned, override: str) -> None:
    assert the_id(planned(items=ONE)) != the_id(planned(override, items=ONE))


@pytest.mark.parametrize("engine", ["engine=vllm", "engine=endpoint", "engine=cosmos"])
def test_identity_changes_with_the_engine(planned: Planned, engine: str) -> None:
    needs = ["engine.base_url=http://localhost/v1", "model.checkpoint=/models/x"]
    assert the_id(planned(*needs, items=ONE)) != the_id(planned(engine, *needs, items=ONE))


@pytest.mark.parametrize(
    "item",
    [
        {"name": "wide", "prompt": "A red car.", "video_path": "wide.mp4"},
        {"name": "wide", "prompt": "A red car ", "video_path": "wide.mp4"},
        {"name": "wide", "prompt": "A red car", "video_path": "other.mp4"},
        {"name": "wide", "prompt": "A red car"},
    ],
    ids=["prompt", "blank at the end", "clip of the same size", "no clip"],
)
def test_identity_changes_with_prompt_and_content_of_the_clip(planned: Planned, item: dict[str, Any]) -> None:
    assert the_id(planned(items=ONE)) != the_id(planned(items=[item]))


@pytest.mark.parametrize("override", ["model.checkpoint=/models/b", "model.dtype=float16"])
def test_identity_changes_with_the_checkpoint(planned: Planned, override: str) -> None:
    vllm = ("engine=vllm", "model.checkpoint=/models/a")
    assert the_id(planned(*vllm, items=ONE)) != the_id(planned(*vllm, override, items=ONE))


def test_empty_prompt_is_not_the_same_item_as_the_question_asked_in_its_place(planned: Planned) -> None:
    plan = planned(
        items=[
            {"name": "empty", "prompt": "", "video_path": "wide.mp4"},
            {"name": "words", "prompt": "describe the following images", "video_path": "wide.mp4"},
        ]
    )
    assert plan.items[0].id != plan.items[1].id


def test_identities_of_items_that_are_not_sent_are_all_different(planned: Planned) -> None:
    same = {"prompt": "x", "video_path": "nowhere.mp4"}
    plan = planned(items=[{"name": "a", **same}, {"name": "b", **same}])
    assert not any(item.fits for item in plan.items)
    assert plan.items[0].id != plan.items[1].id


def test_identity_looks_at_the_hash_of_a_clip_only(base: Plan) -> None:
    video = Video("ignored.mp4", "0" * 64, 320, 180, 24.0, 24, 1.0, "h264")
    item = base.items[0]
    assert item.hint
    fixed = replace(base.settings, temperature=0.6, seed=0, max_output_tokens=300)

    def identity(video: Video) -> str:
        return item_id("A red car", "A red car", "", video, item.hint, "", fixed)

    assert identity(video) == identity(replace(video, path="other.mp4", codec="av1"))
    assert identity(video) != identity(replace(video, sha256="1" * 64))


# Small parts


def test_digest_is_16_hex_digits_of_canonical_json() -> None:
    assert digest({"b": 1, "a": [2, "é"]}) == digest({"a": [2, "é"], "b": 1})
    assert digest("a", "b") != digest("ab")
    assert len(digest("x")) == 16
    assert int(digest("x"), 16) >= 0
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_every_item_that_fits_knows_the_one_batch_it_is_in(planned: Planned) -> None:
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


def test_items_that_are_the_same_share_a_batch_and_are_asked_once(planned: Planned) -> None:
    plan = planned(items=[{"name": n, "prompt": "A red car", "video_path": "wide.mp4"} for n in "abc"])
    assert len({item.id for item in plan.items}) == 1
    assert [len(batch) for batch in plan.batches] == [1]
    assert {item.batch for item in plan.items} == {0}
    assert with_batches(plan.items, plan.batches) == plan.items


def test_run_id_changes_with_items_order_and_settings(planned: Planned) -> None:
    plan = planned()
    assert plan.run_id == planned().run_id
    assert plan.run_id != replace(plan, items=plan.items[::-1]).run_id
    assert plan.run_id != planned("sampling.seed=5").run_id
