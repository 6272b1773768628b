"""RunSpecs, and the PromptSpecs that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import SpecError
from src.prompts.fields import Reading
from src.prompts.specs import PromptSpec, read_specs

PROMPT = {
    "id": "ps_1", "name": "boat", "prompt": "A boat.", "negative_prompt": "fog", "input_video_path": "videos/color.mp4",
    "control_inputs": {"depth": "videos/depth.mp4", "seg": "videos/seg.mp4"}, "timestamp": "2025-08-30T16:30:00",
}  # fmt: skip
RUN = {
    "id": "rs_1", "prompt_id": "ps_1", "name": "boat_run", "control_weights": {"vis": 0.25, "depth": 0.75, "seg": 0},
    "parameters": {"num_steps": 20}, "timestamp": "2025-08-30T17:30:00", "execution_status": "pending",
}  # fmt: skip


def read(root: Path, run_file: str, prompt_file: str, prompts: str = "", **fields: Any) -> PromptSpec:
    """The RunSpec in this file, read with a PromptSpec in that one."""
    for name, value in ((run_file, RUN), (prompt_file, PROMPT | fields)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(value))
    [spec] = read_specs([root / run_file], Reading(tree=str(root / prompts) if prompts else ""))
    return spec


@pytest.mark.parametrize(
    ("run_file", "prompt_file", "prompts"),
    [
        ("run.json", "boat.json", ""),
        ("runs/2025-08-30/run.json", "prompts/2025-08-29/boat.json", ""),
        ("a/run.json", "a/deep/er/boat.json", "a"),
        ("all/x/run.json", "all/y/boat.json", "all/**/run*.json"),
    ],
)
def test_prompt_spec_is_found_by_id(tmp_path: Path, run_file: str, prompt_file: str, prompts: str) -> None:
    (tmp_path / prompt_file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / prompt_file).with_name("other.json").write_text(json.dumps(PROMPT | {"id": "ps_2", "prompt": "Other."}))
    spec = read(tmp_path, run_file, prompt_file, prompts)
    assert (spec.name, spec.prompt, spec.source) == ("boat_run", "A boat.", tmp_path / run_file)
    assert spec.raw["parameters"] == {"num_steps": 20} and spec.raw["negative_prompt"] == "fog"


def test_paths_are_those_of_the_prompt_spec(tmp_path: Path) -> None:
    clips = tmp_path / "prompts/day/videos"
    clips.mkdir(parents=True)
    for name in ("color", "depth", "seg"):
        (clips / f"{name}.mp4").touch()
    spec = read(tmp_path, "runs/day/run.json", "prompts/day/boat.json")
    assert spec.video == clips / "color.mp4"
    assert spec.raw["control_inputs"] == {"depth": str(clips / "depth.mp4")}
    assert spec.raw["control_weights"] == {"vis": 0.25, "depth": 0.75}


@pytest.mark.parametrize("its_id", ["ps_2", 1, None])
def test_missing_prompt_spec_is_named(tmp_path: Path, its_id: object) -> None:
    with pytest.raises(SpecError, match=r"run\.json, the object, prompt_id: there is no PromptSpec ps_1 "):
        read(tmp_path, "run.json", "boat.json", id=its_id)


def test_prompt_id_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN | {"prompt_id": [1]}))
    with pytest.raises(SpecError, match=r"there is no PromptSpec \[1\] "):
        list(read_specs([tmp_path / "run.json"]))


def test_item_with_own_prompt_stays(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": "A boat.", "prompt_id": "x"}]))
    assert [spec.prompt for spec in read_specs([file])] == ["A boat."]
