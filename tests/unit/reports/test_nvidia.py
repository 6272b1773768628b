"""Batches, samples and specs for NVIDIA's programs carry all that an item asks for, and are read back as the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from src.inference.engines import ENGINES, transfer1
from src.inference.engines.engine import Refused, Request
from src.inference.vocabulary import CONTROLS, FIELDS, KEYS, Asked, asked_of, request_of
from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.reports import exports, nvidia
from src.reports.results import write_exports
from src.reports.rows import HintFolders, result_rows
from src.run_folder import RunPaths
from tests.conftest import Configure

WHEN = datetime(2026, 1, 2)
Written = Callable[..., tuple[Plan, RunPaths]]
OWN: dict[str, Any] = {
    "prompt": "A boat.", "input_video_path": "clips/wide.mp4", "seed": 7, "guidance": 5, "negative_prompt": "fog",
    "edge": {"control_weight": 0.4}, "depth": {"input_control": "clips/depth.mp4", "control_weight": 0.2},
}  # fmt: skip


@pytest.fixture
def written(configure: Configure, clips: Path, tmp_path: Path) -> Written:
    """A function from items, and overrides, to the plan and run folder with all that a run writes of them."""
    (tmp_path / "in" / "clips").mkdir(parents=True)
    for name in ("wide.mp4", "depth.mp4"):
        shutil.copy(clips / "wide.mp4", tmp_path / "in" / "clips" / name)
    paths = RunPaths(tmp_path / "run")

    def run(content: Any, *overrides: str, folder: Path | None = None) -> tuple[Plan, RunPaths]:
        config = configure(*overrides)
        config.prompts = str(folder or tmp_path / "in" / "shot.json")
        if folder is None:
            Path(config.prompts).write_text(json.dumps(content))
        plan = resolve(config)
        table = list(result_rows(plan, {}, HintFolders(paths), "stopped"))
        write_exports(plan, zip(plan.items, table, strict=True), paths, WHEN)
        for name in ("transfer2_5", "cosmos3"):
            exports.write(name, plan, table, paths)
        return plan, paths

    return run


def lines_of(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_carry_controls_files_weights_and_keys(written: Written, tmp_path: Path) -> None:
    _, paths = written(OWN)
    clip, depth = (str(tmp_path / "in" / "clips" / name) for name in ("wide.mp4", "depth.mp4"))
    sampling = {"seed": 7, "guidance": 5, "negative_prompt": "fog"}
    assert lines_of(paths.batch) == [
        {
            "visual_input": clip, "prompt": "A boat.", **sampling,
            "control_overrides": {
                "edge": {"control_weight": 0.4}, "depth": {"control_weight": 0.2, "input_control": depth},
            },
        }
    ]  # fmt: skip
    (line,) = lines_of(paths.root / "transfer2_5.jsonl")
    assert line == {
        "name": "shot", "prompt": "A boat.", "video_path": clip, **sampling,
        "edge": {"control_weight": 0.4}, "depth": {"control_weight": 0.2, "control_path": depth},
    }  # fmt: skip
    (line,) = lines_of(paths.root / "cosmos3.jsonl")
    assert (line["edge"], line["depth"]) == ({"weight": 0.4}, {"weight": 0.2, "control_path": depth})
    assert sampling.items() <= line.items() and line["vision_path"] == clip


def test_relative_paths_are_seen_from_the_file(written: Written) -> None:
    _, paths = written(OWN, "output.paths=relative")
    for file in (paths.batch, paths.root / "transfer2_5.jsonl", paths.root / "cosmos3.jsonl", paths.specs_list):
        text = file.read_text()
        assert '"../in/clips/wide.mp4"' in text and '"../in/clips/depth.mp4"' in text


@pytest.mark.parametrize(
    "fields", [{"depth": {"input_control": "gone.mp4"}}, {"edge": {"control_weight": -1}}, {"seed": "x"}]
)
def test_line_that_would_end_a_batch_is_a_note(written: Written, fields: dict[str, Any]) -> None:
    _, paths = written(OWN | fields)
    assert not lines_of(paths.batch) and not lines_of(paths.root / "transfer2_5.jsonl")
    [row] = json.loads(paths.results.read_text())
    assert f"not in batch.jsonl: {next(iter(fields))}" in row["note"]


def request(item: Any) -> Request:
    return nvidia.request_for("transfer1", item, item.prompt, "", None)


@pytest.mark.parametrize("form", ["files", "in_place"])
@pytest.mark.parametrize("paths_form", ["absolute", "relative"])
def test_spec_is_nvidias_and_read_back_equal(written: Written, tmp_path: Path, form: str, paths_form: str) -> None:
    plan, paths = written(OWN, f"output.specs={form}", f"output.paths={paths_form}")
    folder = paths.specs if form == "files" else tmp_path / "in"
    spec = json.loads((folder / "shot.json").read_text())
    assert [name for name, value in spec.items() if isinstance(value, dict) and name not in transfer1.CONTROLS] == []
    assert json.loads((folder / f"shot.json{nvidia.SIDECAR}").read_text()).keys() == {"metadata", "upsampling_params"}
    again, _ = written(None, folder=folder)
    assert [item.name for item in again.items] == ["shot"]
    assert request(again.items[0]) == request(plan.items[0])
    assert again.ids == plan.ids


def test_batches_are_read_back_equal(written: Written, tmp_path: Path) -> None:
    plan, paths = written(OWN)
    for name in ("batch.jsonl", "transfer2_5.jsonl"):
        again, _ = written(None, folder=Path(shutil.copy(paths.root / name, tmp_path / name)))
        assert request(again.items[0]).whole == request(plan.items[0]).whole
        assert request(again.items[0]).arguments == request(plan.items[0]).arguments


@pytest.mark.parametrize("engine", ENGINES)
def test_every_key_is_used_or_refused(engine: str) -> None:
    """By name, for each word of any engine."""

    def verdict(fields: dict[str, Any], name: str) -> bool:
        try:
            made = request_of(ENGINES[engine], Asked(controls={"edge": {}}), asked_of(fields), "a boat", "a.mp4")
        except Refused as e:
            said = str(e)
        else:
            assert json.dumps([made.whole, made.arguments]) != json.dumps([{"edge": {}}, {}]), name
            return True
        assert name in said
        return False

    used = {name: verdict({name: {"control_path": "b.mp4"}}, name) for name in CONTROLS}
    assert {name for name, is_used in used.items() if is_used} == {
        n for n, c in CONTROLS.items() if c in ENGINES[engine].controls
    }
    for name in FIELDS:
        verdict({"edge": {name: "low"}}, name)
    for name in KEYS:
        verdict({name: 1}, name)
