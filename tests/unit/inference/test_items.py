"""Items of inference: the prompt and the controls of each, and why some are left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.inference.configure import upscaling
from src.inference.engines import ENGINES
from src.inference.items import InferenceItem, UpsampledRow, choose_prompt, inference_items
from src.inference.settings import InferenceSettings
from src.planning.plan import PlanItem
from src.planning.resolve import resolve
from src.tasks.pipeline import _with_their_clips
from tests.conftest import Configure
from tests.harness.clips import make_clip
from tests.unit.inference.conftest import Planned, only_item


def overrides_of(item: InferenceItem) -> Any:
    return json.loads(item.line).get("control_overrides", {})


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


@pytest.mark.parametrize(("fields", "reason"), [
    ({"max_frames": 1}, "max_frames=1: must be 2 or more"),
    ({"edge": {"control_prompt": "car"}}, "edge.control_prompt: Cosmos-Transfer2.5 reads it of seg alone"),
    ({"video_path": "moving.gif"}, "makes videos of clips that end in .mp4"),
    ({"video_path": "still.png"}, "its video has 1 frame"),
    ({"video_path": "one.mp4"}, "its video has 1 frame; Cosmos-Transfer2.5 makes a picture of that"),
])  # fmt: skip
def test_what_becomes_no_video_is_left_out(
    planned: Planned, settings: InferenceSettings, tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    still = Image.new("RGB", (64, 32))
    still.save(tmp_path / "still.png")
    still.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (64, 32), "red")], duration=500)
    make_clip(tmp_path / "one.mp4", size=(64, 32), fps=1, seconds=1)
    settings = replace(settings, engine="transfer2_5")
    assert reason in only_item(planned(fields), settings).left_out


@pytest.mark.parametrize(("fps", "expected"), [(30, 30), (24, None), (25, 25)])
def test_upscaled_video_keeps_its_speed(
    planned: Planned, settings: InferenceSettings, tmp_path: Path, fps: int, expected: int | None
) -> None:
    """NVIDIA's program writes 24 frames a second unless it is told otherwise."""
    make_clip(tmp_path / "made.mp4", size=(64, 32), fps=fps, seconds=1)
    item = only_item(planned({"video_path": "made.mp4"}), upscaling(settings))
    assert json.loads(item.group).get("fps") == expected


@pytest.mark.parametrize(
    ("change", "reason"), [(None, "No such file"), (b"another", "has changed since it was planned")]
)
def test_clip_that_changed_since_the_plan_is_left_out(
    planned: Planned, settings: InferenceSettings, clips: Path, tmp_path: Path, change: bytes | None, reason: str
) -> None:
    """Unless its video is there already."""
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((clips / "wide.mp4").read_bytes())
    wanted = inference_items(planned({"video_path": str(copy)}, {}).items, None, settings)
    copy.unlink()
    if change:
        copy.write_bytes(change)
    left, other = _with_their_clips(wanted, set())
    assert reason in left.left_out and not left.id and other.id
    assert _with_their_clips(wanted, {wanted[0].id}) == wanted


def test_empty_cell_keeps_the_weight_of_its_control(planned: Planned, settings: InferenceSettings) -> None:
    item = only_item(planned({"edge": None, "control_weights": {"edge": 0.3}}), settings)
    assert overrides_of(item) == {"edge": {"control_weight": 0.3}}


def test_item_without_usable_video_is_left_out(planned: Planned, settings: InferenceSettings, clips: Path) -> None:
    plan = planned({"video_path": None}, {"video_path": str(clips / "text.mp4")}, {"video_path": "gone.mp4"})
    found = inference_items(plan.items, None, settings)
    assert all(item.left_out and not item.id for item in found)
    assert "no video" in found[0].left_out and "gone.mp4" in found[2].left_out


# Controls


def test_item_without_controls_uses_the_template(planned: Planned, settings: InferenceSettings) -> None:
    item = only_item(planned({}), settings)
    assert json.loads(item.group) == {"edge": {"control_weight": 1.0}}
    assert overrides_of(item) == {}


def test_controls_of_item_replace_the_template(planned: Planned, settings: InferenceSettings) -> None:
    own = {
        "depth": {"control_weight": 0.4, "ckpt_path": "/x.pt"},
        "vis": {"control_weight": 0.2},
        "sigma_max": 60,
        "seed": 7,
    }
    item = only_item(planned(own), settings)
    assert json.loads(item.group) == {"depth": {"ckpt_path": "/x.pt"}, "vis": {}, "sigma_max": 60, "seed": 7}
    assert overrides_of(item) == {"depth": own["depth"], "vis": own["vis"]}


def test_arguments_of_an_item_reach_its_spec(planned: Planned, settings: InferenceSettings) -> None:
    """Also where it names no controls of its own."""
    item = only_item(planned({"seed": 7, "negative_prompt": "fog"}), settings)
    assert json.loads(item.group) == {"edge": {"control_weight": 1.0}, "seed": 7, "negative_prompt": "fog"}


def test_control_overrides_change_existing_controls(planned: Planned, settings: InferenceSettings) -> None:
    item = only_item(planned({"control_overrides": {"edge": {"control_weight": 0.3}}}), settings)
    assert overrides_of(item) == {"edge": {"control_weight": 0.3}}


def test_control_files_are_named_by_content(planned: Planned, settings: InferenceSettings, tmp_path: Path) -> None:
    """Their paths are relative to the prompt file."""
    (tmp_path / "depth map.MP4").write_bytes(b"a map")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    own = {"depth": {"input_control": "depth map.MP4", "control_weight": "weights.pt"}}
    item = only_item(planned(own), settings)
    fields = overrides_of(item)["depth"]
    files = dict(item.files)
    assert {Path(path).name for path in files.values()} == {"wide.mp4", "depth map.MP4", "weights.pt"}
    assert files[fields["input_control"]].endswith("depth map.MP4") and fields["input_control"].endswith(".mp4")
    assert files[fields["control_weight"]].endswith("weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"others")
    assert only_item(planned(own), settings).id != item.id


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"edge": 5}, "edge: is no object"),
        ({"depth": [1]}, "depth: is no object"),
        ({"edge": {"control_weight": -1}}, "edge.control_weight=-1: must be 0 or more"),
        ({"edge": {"control_weight": "much"}}, "edge.control_weight=much: must be a number"),
        ({"edge": {"control_weight": "gone.pt"}}, "edge.control_weight=gone.pt: is not a file"),
        ({"edge": {"input_control": "gone.mp4"}}, "edge.input_control=gone.mp4: is not a file"),
        ({"edge": {"input_control": "x" * 300}}, ": is not a file"),
        ({"seed": 10**400}, ": must be a whole number"),
        ({"edge": {"control_weight": 10**400}}, ": must be a number"),
        ({"hdmap": {"input_control": ["a.mp4", "b.mp4"]}}, 'hdmap.input_control=["a.mp4", "b.mp4"]: must be the path'),
        ({"edge": {"input_control": ""}}, "edge.input_control=: must be the path of one file"),
        ({"edge": {"control_wieght": 0.3}}, "edge.control_wieght: Cosmos-Transfer1 has no such field of a control"),
        ({"edge": {}, "sigma_max": "high"}, "sigma_max=high: must be a number"),
        ({"num_steps": -3}, "num_steps=-3: must be 1 or more"),
        ({"seed": 1.5}, "seed=1.5: must be a whole number"),
        ({"seed": "7"}, "seed=7: must be a whole number"),
        ({"blur_strength": "soft"}, "blur_strength=soft: must be one of very_low"),
        ({"egde": {"control_weight": 0.5}}, "egde: unknown control; did you mean edge?"),
        ({"control_overrides": {"edge": 7}}, "control_overrides of edge: is no object"),
        (
            {"control_overrides": {"seg": {"control_weight": 1}}},
            "control_overrides of seg: no such control in the spec",
        ),
        (
            {"num_frames": 121},
            "num_frames: Cosmos-Transfer1 has no such key; inference.ignore=[num_frames] leaves it out",
        ),
        ({"vis": {}, "blur": {}}, "blur: is the same control as vis"),
        ({"depth": {}, "use_distilled": True}, "use_distilled: depth has no distilled checkpoint"),
        ({"hdmap": {}}, "hdmap: needs input_control"),
        ({"edge": {}, "video_path": None}, "it has no video"),
        ({"regional_prompts": [{"mask_prompt": "car"}]}, "each must be an object with a prompt"),
        ({"seed": -1}, "seed=-1: must be 0 to 4294967295"),
        (
            {"edge": {"control_weight_prompt": "car"}},
            "edge.control_weight_prompt: Cosmos-Transfer1 reads it of seg alone",
        ),
    ],
)
def test_item_that_cannot_be_made_is_left_out(
    planned: Planned, settings: InferenceSettings, fields: dict[str, Any], reason: str
) -> None:
    assert reason in only_item(planned(fields), settings).left_out


def test_ignored_keys_do_not_count(planned: Planned, settings: InferenceSettings) -> None:
    fields = {"num_frames": 121, "edge": {"sigma_max": 70}}
    item = only_item(planned(fields), replace(settings, ignore=("num_frames", "edge.sigma_max")))
    assert (item.left_out, json.loads(item.group)) == ("", {"edge": {}})


def test_item_without_clip_needs_noise_and_files(planned: Planned, settings: InferenceSettings, tmp_path: Path) -> None:
    """As NVIDIA's examples for driving: the spec says that there is a file for each control, the line which one."""
    (tmp_path / "map.mp4").write_bytes(b"a map")
    own = {"video_path": None, "sigma_max": 80, "is_av_sample": True, "hdmap": {"input_control": "map.mp4"}}
    item = only_item(planned(own), settings)
    assert json.loads(item.group) == {"hdmap": {"input_control": ""}, "sigma_max": 80, "is_av_sample": True}
    assert overrides_of(item) == {"hdmap": {"input_control": item.files[0][0]}} and not item.video


def test_regional_items_share_no_spec(planned: Planned, settings: InferenceSettings) -> None:
    """NVIDIA's script writes into the regions of a spec."""
    regions = {"regional_prompts": [{"prompt": "a red car", "mask_prompt": "car"}]}
    found = inference_items(planned(regions, {**regions, "prompt": "a ship"}).items, None, settings)
    assert len({item.group for item in found}) == 2


def test_container_without_network_downloads_nothing(planned: Planned, settings: InferenceSettings) -> None:
    inside = replace(settings, image=replace(settings.image, reference="cosmos:1"))
    plan = planned({"depth": {}})
    assert "inference.hf_home" in only_item(plan, inside).left_out
    assert not only_item(plan, replace(inside, hf_home="/models/hub")).left_out
    assert not only_item(plan, settings).left_out


def test_cells_of_a_table_are_values(tmp_path: Path, settings: InferenceSettings, configure: Configure) -> None:
    file = tmp_path / "prompts.csv"
    clip = Path(__file__).parents[3] / "examples/clips/robot_arm.mp4"
    head, weights = "prompt,video_path,seed,edge,fps,control_weights", '"{""depth"": 0.25}"'
    file.write_text(f'{head}\na boat,{clip},7,"{{""control_weight"": 0.5}}",,{weights}\n')
    config = configure()
    config.prompts = str(file)
    item = only_item(resolve(config), settings)
    assert json.loads(item.group) == {"edge": {}, "depth": {}, "seed": 7}
    assert overrides_of(item) == {"edge": {"control_weight": 0.5}, "depth": {"control_weight": 0.25}}


def test_prompt_spec_and_run_spec_are_read_whole(planned: Planned, settings: InferenceSettings, tmp_path: Path) -> None:
    (tmp_path / "depth.mp4").write_bytes(b"a map")
    given = {
        "id": "ps_1", "negative_prompt": "fog", "control_inputs": {"depth": "depth.mp4"}, "parent_prompt_text": "a boat",
        "control_weights": {"vis": 0.25, "depth": 0.75}, "parameters": {"num_steps": 20, "guidance": 7.0, "seed": 3},
        "timestamp": "2025-08-30T16:30:00", "execution_status": "pending",
    }  # fmt: skip
    item = only_item(planned(given), settings)
    file = next(name for name, path in item.files if path.endswith("depth.mp4"))
    assert overrides_of(item) == {
        "depth": {"control_weight": 0.75, "input_control": file}, "vis": {"control_weight": 0.25},
    }  # fmt: skip
    sampling = {"num_steps": 20, "guidance": 7.0, "seed": 3, "negative_prompt": "fog"}
    assert json.loads(item.group) == {"depth": {}, "vis": {}, **sampling}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"parameters": {"num_steps": 20, "cfg_rescale": 1}}, "parameters.cfg_rescale: no engine has such a key"),
        ({"parameters": {"shutter": 180}, "control_weights": {"edge": 0.5}}, "parameters.shutter: no engine"),
        ({"parameters": {"shutter": 180, "iso": 800}}, ""),  # a column of that name, which is of something else
    ],
)
def test_unknown_parameter_of_a_run_spec_is_refused(
    planned: Planned, settings: InferenceSettings, given: dict[str, Any], reason: str
) -> None:
    item = only_item(planned(given), settings)
    assert item.left_out.startswith(reason) and bool(item.left_out) == bool(reason)


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
    assert ENGINES["transfer1"].pieces_of(frames, {}) == pieces
