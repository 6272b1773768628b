"""Items of inference: the prompt and the controls of each, and why some are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.inference.items import UpsampledRow, choose_prompt, inference_items, pieces_of
from src.inference.settings import InferenceSettings
from src.planning.plan import PlanItem
from tests.unit.inference.conftest import Planned, only_item


def row(state: str, text: str | None = None, reason: str = "") -> UpsampledRow:
    return {"state": state, "upsampled_prompt": text, "reason": reason}


# Prompts


@pytest.mark.parametrize(
    ("found", "required", "prompt", "source", "left_out"),
    [
        (row("upsampled", "a long boat"), True, "a long boat", "upsampled", ""),
        (row("kept", reason="echo"), False, "a boat", "original", ""),
        (row("kept", reason="echo"), True, "", "", "its prompt was not upsampled: echo"),
        (row("failed", reason="no text"), False, "", "", "its prompt failed: no text"),
        (None, False, "a boat", "original", ""),
        (None, True, "", "", "its prompt was not upsampled: nothing was in this run"),
    ],
)
def test_prompt_depends_on_state_and_setting(
    planned: Planned, found: UpsampledRow | None, required: bool, prompt: str, source: str, left_out: str
) -> None:
    choice = choose_prompt(planned({}).items[0], found, require_upsampled=required)
    assert (choice.prompt, choice.source, choice.left_out) == (prompt, source, left_out)


def test_upsampled_prompt_of_a_spec_is_used(planned: Planned) -> None:
    """Unless this run upsampled it."""
    [item] = planned({"upsampled_prompt": "a long boat"}).items
    choice = choose_prompt(item, None, require_upsampled=True)
    assert (choice.prompt, choice.source) == ("a long boat", "spec")


def test_item_without_usable_video_is_left_out(planned: Planned, settings: InferenceSettings, clips: Path) -> None:
    plan = planned({"video_path": None}, {"video_path": str(clips / "text.mp4")}, {"video_path": "gone.mp4"})
    found = inference_items(plan.items, None, settings)
    assert all(item.left_out and not item.id for item in found)
    assert "no video" in found[0].left_out and "gone.mp4" in found[2].left_out


# Controls


def test_item_without_controls_uses_the_template(planned: Planned, settings: InferenceSettings) -> None:
    item = only_item(planned({}), settings)
    assert json.loads(item.spec) == {"edge": {"control_weight": 1.0}}
    assert json.loads(item.controls) == {}


def test_controls_of_item_replace_the_template(planned: Planned, settings: InferenceSettings) -> None:
    own = {
        "depth": {"control_weight": 0.4, "ckpt_path": "/x.pt"},
        "vis": {"control_weight": 0.2},
        "sigma_max": 60,
        "seed": 7,
    }
    item = only_item(planned(own), settings)
    assert json.loads(item.spec) == {"depth": {"ckpt_path": "/x.pt"}, "vis": {}, "sigma_max": 60, "seed": 7}
    assert json.loads(item.controls) == {"depth": own["depth"], "vis": own["vis"]}


def test_arguments_need_controls_of_their_own(planned: Planned, settings: InferenceSettings) -> None:
    item = only_item(planned({"seed": 7, "fps": "x"}), settings)
    assert json.loads(item.spec) == {"edge": {"control_weight": 1.0}}


def test_control_overrides_change_existing_controls(planned: Planned, settings: InferenceSettings) -> None:
    """Others are named in the note."""
    overrides = {"edge": {"control_weight": 0.3}, "seg": {"control_weight": 1}}
    item = only_item(planned({"control_overrides": overrides}), settings)
    assert json.loads(item.controls) == {"edge": {"control_weight": 0.3}}
    assert item.note == "control_overrides of seg: no such control in the spec"


def test_control_files_are_named_by_content(planned: Planned, settings: InferenceSettings, tmp_path: Path) -> None:
    """Their paths are relative to the prompt file."""
    (tmp_path / "depth map.MP4").write_bytes(b"a map")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    own = {"depth": {"input_control": "depth map.MP4", "control_weight": "weights.pt"}}
    item = only_item(planned(own), settings)
    fields = json.loads(item.controls)["depth"]
    files = dict(item.files)
    assert {Path(path).name for path in files.values()} == {"wide.mp4", "depth map.MP4", "weights.pt"}
    assert files[fields["input_control"]].endswith("depth map.MP4") and fields["input_control"].endswith(".mp4")
    assert files[fields["control_weight"]].endswith("weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"others")
    assert only_item(planned(own), settings).id != item.id


@pytest.mark.parametrize("fields", [{"control_weight": -1}, {"control_weight": "much"}, {"input_control": "gone.mp4"}])
def test_item_with_invalid_control_is_left_out(
    planned: Planned, settings: InferenceSettings, fields: dict[str, Any]
) -> None:
    assert next(iter(fields)) in only_item(planned({"edge": fields}), settings).left_out


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"edge": 5}, "edge: is no object"),
        ({"depth": [1]}, "depth: is no object"),
        ({"edge": {}, "sigma_max": "high"}, "sigma_max=high: must be a number"),
        ({"edge": {}, "num_steps": -3}, "num_steps=-3: must be 1 or more"),
        ({"edge": {}, "seed": 1.5}, "seed=1.5: must be a whole number"),
        ({"edge": {}, "blur_strength": "soft"}, "blur_strength=soft: must be one of very_low"),
    ],
)
def test_item_with_invalid_arguments_is_left_out(
    planned: Planned, settings: InferenceSettings, fields: dict[str, Any], reason: str
) -> None:
    assert reason in only_item(planned(fields), settings).left_out


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"egde": {"control_weight": 0.5}}, "egde: unknown control; did you mean edge?"),
        ({"edge": {"control_wieght": 0.3}}, "edge.control_wieght: no field of a control"),
        ({"control_overrides": {"edge": 7}}, "control_overrides of edge: no object"),
        ({"metadata": {"edges": 1}, "edge": None}, ""),
    ],
)
def test_ignored_fields_are_noted(
    planned: Planned, settings: InferenceSettings, fields: dict[str, Any], note: str
) -> None:
    item = only_item(planned(fields), settings)
    assert note in item.note if note else not item.note


# Identity


def test_id_changes_with_whatever_changes_the_video(planned: Planned, settings: InferenceSettings) -> None:
    first = only_item(planned({}), settings).id
    assert only_item(planned({"name": "another"}), settings).id == first
    assert only_item(planned({"prompt": "a ship"}), settings).id != first
    assert only_item(planned({}), replace(settings, arguments='{"seed": 2}')).id != first
    assert only_item(planned({}), replace(settings, num_gpus=4, torchrun="/opt/torchrun")).id == first


def test_items_of_the_plan_are_not_changed(planned: Planned, settings: InferenceSettings) -> None:
    plan = planned({"edge": {"control_weight": 0.2}})
    before: tuple[PlanItem, ...] = tuple(replace(item) for item in plan.items)
    inference_items(plan.items, None, settings)
    assert plan.items == before


@pytest.mark.parametrize(("frames", "pieces"), [(1, 1), (24, 1), (121, 1), (122, 2), (241, 2), (242, 3)])
def test_pieces_of_121_frames_share_one(frames: int, pieces: int) -> None:
    assert pieces_of(frames) == pieces
