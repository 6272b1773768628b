"""plan.json: the same bytes for the same inputs, read back equal, in this version and the one before."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import InputError
from src.planning.plan import Plan
from src.planning.plan_file import ItemSpool, read_plan, write_plan
from tests.unit.planning.conftest import ITEMS, Planned

VERSION_1 = Path(__file__).with_name("plan_v1.json")  # written by the program before version 2, with other paths


def written(plan: Plan) -> str:
    out = io.StringIO()
    write_plan(plan, out)
    return out.getvalue()


def read_back(text: str, folder: Path) -> Plan:
    file = folder / "plan.json"
    file.write_text(text, encoding="utf-8", newline="")
    return read_plan(file)


@pytest.fixture
def base(planned: Planned) -> Plan:
    return planned(items=ITEMS[:1])


# Written


def test_same_inputs_give_the_same_bytes(planned: Planned) -> None:
    assert written(planned("upsample.rule=best_fit")) == written(planned("upsample.rule=best_fit"))


def test_plan_is_json_with_documented_keys(planned: Planned) -> None:
    data = json.loads(written(planned()))
    assert data["version"] == 2
    assert set(data) >= {"run", "model", "engine", "budget", "batches", "items"}
    assert data["budget"] == {"max_model_len": 4096, "max_output_tokens": 300}
    item = data["items"][0]
    assert set(item) >= {"id", "name", "prompt", "video", "hint", "tokens", "fits", "batch"}
    assert set(item["video"]) >= {"path", "width_px", "height_px", "fps", "frames", "duration_s"}
    assert set(item["hint"]) >= {"width_px", "height_px", "frames", "times_s"}
    assert set(item["tokens"]) >= {"image", "text", "prompt", "output_reserved", "linear_estimate"}
    assert item["extra"] == {"mood": "grim"}


def test_plan_has_one_line_per_item(planned: Planned) -> None:
    """In the order of the input."""
    text = written(planned())
    assert [item["name"] for item in json.loads(text)["items"]] == [item["name"] for item in ITEMS]
    lines = [line for line in text.split("\n") if line.startswith('  {"id"')]
    assert [json.loads(line.rstrip(","))["name"] for line in lines] == [item["name"] for item in ITEMS]


def test_text_in_other_scripts_is_not_escaped(planned: Planned) -> None:
    assert "ευρύ 红色 🚗" in written(planned())


# Read back


def test_plan_read_back_is_equal(planned: Planned, tmp_path: Path) -> None:
    plan = planned("frames.rule=uniform", "frames.count=4")
    text = written(plan)
    again = read_back(text, tmp_path)
    assert again == plan
    assert written(again) == text
    assert again.run_id == plan.run_id


@pytest.mark.parametrize("model", ["tiny_random", "pixtral_12b"])
def test_engine_arguments_are_read_back_equal(planned: Planned, tmp_path: Path, model: str) -> None:
    plan = planned("engine.name=vllm", f"model={model}", "model.checkpoint=/models/x", "model.extra_args=[--a,b c]")
    assert plan.settings.model.extra_args == ("--a", "b c")
    assert read_back(written(plan), tmp_path) == plan


def test_full_disk_is_noticed_by_the_spool(base: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = ItemSpool(tmp_path)
    for item in base.items:
        spool.add(item)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: open("/dev/full", "r+b"))
    with pytest.raises(OSError, match="No space left"):
        spool.items(base.batches)


def test_plan_without_items_is_read_back(planned: Planned, tmp_path: Path) -> None:
    empty = replace(planned(), batches=(), items=())
    assert read_back(written(empty), tmp_path) == empty


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXT,
    extra=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab红"),
        max_size=3,
    ),
)
def test_any_text_and_fields_are_read_back(base: Plan, tmp_path: Path, text: str, extra: dict[str, Any]) -> None:
    item = replace(
        base.items[0], name=text, prompt=text, text=text, system=text, extra=json.dumps(extra, ensure_ascii=False)
    )
    plan = replace(base, items=(item,))
    assert read_back(written(plan), tmp_path) == plan


@pytest.mark.parametrize("place", ['"settings": {', '"video": {', '"hint": {', '  {"id"'], ids=lambda p: p.strip()[:10])
def test_keys_of_later_versions_are_ignored(base: Plan, tmp_path: Path, place: str) -> None:
    added = '  {"added": 1, "id"' if place == '  {"id"' else f'{place}"added": 1, '
    assert read_back(written(base).replace(place, added), tmp_path) == base


def test_exports_are_part_of_the_plan(planned: Planned, tmp_path: Path) -> None:
    plan = planned("output.exports=[openai,cosmos3,openai]", items=ITEMS[2:3])
    assert plan.settings.exports == ("openai", "cosmos3")
    text = written(plan)
    assert read_back(text, tmp_path) == plan
    older = json.loads(text)
    del older["settings"]["exports"]
    assert read_back(json.dumps(older), tmp_path).settings.exports == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"version": 2', '"version": 99'),
        lambda text: text.replace('"seed"', '"seeds"'),
        lambda text: text.replace('"frames":2', '"frames":"2"'),
    ],
    ids=["torn", "empty", "no object", "newer version", "renamed key", "wrong type"],
)
def test_invalid_plan_is_an_input_error(base: Plan, tmp_path: Path, damage: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match=r"plan\.json"):
        list(read_back(damage(written(base)), tmp_path).items)


# Version 1


def test_version_1_keeps_host_and_image(tmp_path: Path) -> None:
    """It had their names in `host` and `image`, and their settings in `place` and `container`."""
    settings = read_plan(VERSION_1).settings
    assert (settings.host.name, settings.host.kind, settings.host.gpus) == ("gpu_box", "ssh", "device=0,1")
    assert (settings.image.name, settings.image.mounts) == ("vllm", ("/data",))
    assert (settings.engine.name, settings.model.extra_args) == ("vllm", ("--enforce-eager",))


def test_version_1_keeps_the_effective_limit() -> None:
    assert read_plan(VERSION_1).settings.effective_len == 3000


def test_version_1_keeps_all_items() -> None:
    plan, data = read_plan(VERSION_1), json.loads(VERSION_1.read_text())
    for item, old in zip(plan.items, data["items"], strict=True):
        new = json.loads(written(replace(plan, items=(item,))))["items"][0]
        assert {key: new[key] for key in old if key != "video"} == {key: old[key] for key in old if key != "video"}
        assert (new["video"] or {}).items() >= (old["video"] or {}).items()
    assert plan.batches == (("1e12ff08604a9a48", "658fc47eb0bc5ced"),)


def test_version_1_is_written_as_version_2(tmp_path: Path) -> None:
    plan = read_plan(VERSION_1)
    text = written(plan)
    assert json.loads(text)["version"] == 2
    assert read_back(text, tmp_path) == plan
