"""NVIDIA's own verdicts on specs and samples hold our lines and the stand-ins; a checkout of NVIDIA's holds the verdicts.

COSMOS_TRANSFER1_REPO, COSMOS_TRANSFER2_5_REPO and COSMOS_FRAMEWORK_REPO name checkouts.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from src.inference.engines import ENGINES
from src.inference.engines.engine import Refused
from src.inference.vocabulary import Asked, asked_of, request_of
from tests.unit.inference.nvidia_cases import REFUSED, TAKEN

HARNESS = Path(__file__).parents[2] / "harness"
CHECKOUTS = {
    "transfer1": "COSMOS_TRANSFER1_REPO",
    "transfer2_5": "COSMOS_TRANSFER2_5_REPO",
    "cosmos3": "COSMOS_FRAMEWORK_REPO",
}
CLIPS = {"transfer1": "input_video_path", "transfer2_5": "video_path", "cosmos3": "vision_path"}
# What NVIDIA's code takes and ignores, or fails at only when the model runs; here, a reason is given before anything starts.
STRICTER: dict[str, list[dict[str, Any]]] = {
    "transfer1": [
        {"seg": {"sigma_max": 70}}, {"edge": {"control_wieght": 1}}, {"edge": {}, "sigma_max": "high"},
        {"edge": {}, "sigma_max": "70"}, {"edge": {}, "sigma_max": -1}, {"edge": {}, "num_steps": "x"},
        {"edge": {}, "guidance": "x"}, {"edge": {}, "fps": "x"}, {"edge": {}, "blur_strength": "soft"},
        {"edge": {}, "negative_prompt": 5}, {"edge": {}, "num_frames": 121}, {"edge": {"control_weight": True}},
    ],
    "transfer2_5": [
        {"edge": {"mask_prompt": "a", "mask_path": "map.mp4"}}, {"depth": {"preset_edge_threshold": "low"}},
        {"edge": {"wieght": 1}}, {"edge": {}, "guidance": "3"}, {"edge": {}, "sigma_max": "300"}, {"edge": {}, "seed": "7"},
    ],
    "cosmos3": [
        {"depth": {}}, {"seg": {}}, {"wsm": {}}, {"edge": {"weight": 0}}, {"edge": {"weight": -1}},
        {"edge": {}, "sigma_max": 70.0},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that cases name."""
    for name in ("clip.mp4", "map.mp4"):
        shutil.copy(clips / "wide.mp4", tmp_path / name)
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def item_of(engine: str, case: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields of a case beside its clip, and the clip."""
    clip = case.get(CLIPS[engine], "clip.mp4")
    return {name: value for name, value in case.items() if name != CLIPS[engine]}, clip or ""


def sent(engine: str, case: dict[str, Any], folder: Path) -> Any:
    """What NVIDIA's program is given for a case. Raises Refused."""

    def place(written: str) -> str:
        if not (folder / written).is_file():
            raise ValueError("is not a file")
        return written

    fields, clip = item_of(engine, case)
    template = Asked(controls={} if engine == "cosmos3" else {"edge": {}})
    request = request_of(ENGINES[engine], template, asked_of(fields), "a boat", clip, place)
    line = ENGINES[engine].line(request, "a")
    if engine != "transfer1":
        return line
    return {"spec": {**({"input_video_path": clip} if clip else {}), **ENGINES[engine].group(request)}, "line": line}


def raw(engine: str, case: dict[str, Any]) -> Any:
    """A case as NVIDIA's users write it."""
    fields, clip = item_of(engine, case)
    whole = {"prompt": "a boat", **({CLIPS[engine]: clip} if clip else {}), **fields}
    line = {"prompt": "a boat", **({"visual_input": clip} if clip else {})}
    return {"spec": whole, "line": line} if engine == "transfer1" else {"name": "a", **whole}


def standin(engine: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], object]:
    """The stand-in's reader of one case, which raises, or ends, for what it refuses."""
    monkeypatch.syspath_prepend(str(HARNESS))
    names = {"transfer1": "standin_transfer", "transfer2_5": "standin_transfer2_5", "cosmos3": "standin_cosmos3"}
    module: Any = importlib.import_module(names[engine])
    if engine == "cosmos3":
        return lambda case: module.validate(case, is_built=True)

    def one_line(case: Any) -> None:
        Path("batch.jsonl").write_text(json.dumps(case) + "\n")
        module.read(Path("batch.jsonl").absolute())

    def one_spec(case: Any) -> None:
        Path("spec.json").write_text(json.dumps(case["spec"]))
        monkeypatch.setattr(sys, "argv", ["transfer.py", "--checkpoint_dir", "m", "--controlnet_specs", "spec.json"])
        monkeypatch.setattr(module, "draw", lambda *a: None)
        monkeypatch.setenv("LOCAL_RANK", "0")
        cfg, controls = module.arguments()
        module.check_controls(cfg, controls)
        for name, override in case["line"].get("control_overrides", {}).items():
            controls[name].update(override)
        module.preprocess(cfg, case["line"], controls, ".")

    return one_spec if engine == "transfer1" else one_line


def said(try_one: Callable[[Any], object], case: Any) -> str:
    try:
        try_one(case)
    except (Exception, SystemExit) as e:
        return f"{type(e).__name__}: {e}"
    return ""


@pytest.mark.parametrize("engine", ENGINES)
def test_what_nvidia_takes_is_sent(engine: str, folder: Path) -> None:
    refused = []
    for case in TAKEN[engine]:
        try:
            sent(engine, case, folder)
        except Refused as e:
            refused.append((case, str(e)))
    assert [case for case, _ in refused] == STRICTER[engine], refused


@pytest.mark.parametrize("engine", ENGINES)
def test_standin_says_what_nvidia_says(engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_one = standin(engine, monkeypatch)
    wrongly_refused = {json.dumps(case): why for case in TAKEN[engine] if (why := said(try_one, raw(engine, case)))}
    wrongly_taken = [case for case in REFUSED[engine] if not said(try_one, raw(engine, case))]
    assert not wrongly_refused and not wrongly_taken


def sendable(engine: str, folder: Path) -> list[Any]:
    lines = []
    for case in (*TAKEN[engine], *REFUSED[engine]):
        try:
            lines.append(sent(engine, case, folder))
        except Refused:
            continue
    return lines


@pytest.mark.parametrize("engine", ENGINES)
def test_no_line_would_end_a_batch(engine: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_one = standin(engine, monkeypatch)
    assert {json.dumps(line): why for line in sendable(engine, folder) if (why := said(try_one, line))} == {}


@pytest.mark.parametrize("engine", ENGINES)
def test_verdicts_are_nvidias_own(engine: str, folder: Path) -> None:
    """And its code takes every line of ours."""
    if not (checkout := os.environ.get(CHECKOUTS[engine], "")):
        pytest.skip(f"{CHECKOUTS[engine]} names no checkout")
    cases = [*TAKEN[engine], *REFUSED[engine]]
    verdicts = nvidias(engine, checkout, folder, [raw(engine, case) for case in cases])
    assert [case for case, verdict in zip(cases, verdicts, strict=True) if not verdict] == TAKEN[engine]
    lines = sendable(engine, folder)
    said_of_lines = nvidias(engine, checkout, folder, lines)
    assert {json.dumps(line): why for line, why in zip(lines, said_of_lines, strict=True) if why} == {}


def nvidias(engine: str, checkout: str, folder: Path, cases: Sequence[Any]) -> list[str]:
    (folder / "cases.json").write_text(json.dumps(cases))
    argv = [sys.executable, str(HARNESS / "nvidia_loaders.py"), engine, checkout, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    verdicts: list[str] = json.loads(done.stdout)
    return verdicts
