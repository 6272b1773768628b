"""The bundled examples: what a run writes, what a second one says, and two runs compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.program import ROOT, Ended, answered, plan_of, program, quoted, results_of

AWKWARD = "läuft 雨 (1), x=y's $1"

# What docs/formats.md lets others rely on.
PLAN_KEYS = {"version", "run", "model", "engine", "budget", "batches", "items"}
BUDGET_KEYS = {"max_model_len", "max_output_tokens"}
ITEM_KEYS = {"id", "name", "prompt", "video", "hint", "tokens", "fits", "batch"}
VIDEO_KEYS = {"path", "width_px", "height_px", "fps", "frames", "duration_s"}
HINT_KEYS = {"width_px", "height_px", "frames", "times_s"}
TOKEN_KEYS = {"image", "text", "prompt", "output_reserved", "linear_estimate"}
RESULT_KEYS = {
    "id", "name", "original_prompt", "upsampled_prompt", "video_path", "preprocessed_video", "state", "reason", "attempts",
    "engine", "tokens", "finish_reason", "seconds",
}  # fmt: skip
RESULT_TOKEN_KEYS = {"predicted", "measured", "output"}
FILES = ("summary.csv", "report.html", "log.jsonl", "batch.jsonl", ".hydra/config.yaml", "plan.json", "timings.json")


@dataclass(frozen=True)
class ExampleRun:
    run: Path
    prompts: Path
    cache: Path
    ended: Ended


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> ExampleRun:
    """The examples in a new interpreter, from and to folders with awkward names, and with an empty cache."""
    folder = tmp_path_factory.mktemp("examples") / AWKWARD
    shutil.copytree(ROOT / "examples", folder / "in puts")
    prompts, run, cache = folder / "in puts" / "prompts.json", folder / "out puts", folder / "cache"
    overrides = (f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", f"cache_dir={quoted(cache)}")
    return ExampleRun(run, prompts, cache, program(*overrides, fresh=True))


def test_all_examples_are_upsampled(example: ExampleRun) -> None:
    assert example.ended.code == 0, example.ended.err
    asked, rows = json.loads(example.prompts.read_text()), results_of(example.run)
    assert rows and {row["state"] for row in rows} == {"upsampled"}
    assert f"{len(rows)} upsampled, 0 kept original, 0 failed" in example.ended.out
    assert str(example.run / "results.json") in example.ended.out.replace("\n", "")
    assert [row["name"] for row in rows] == [item["name"] for item in asked]
    for row, item in zip(rows, asked, strict=True):
        assert row.keys() >= RESULT_KEYS
        assert row["tokens"].keys() >= RESULT_TOKEN_KEYS
        assert (row["original_prompt"], row["video_path"]) == (item["prompt"], item["video_path"])
        assert row["upsampled_prompt"].startswith(item["prompt"])
        assert (row["engine"], row["reason"], row["attempts"]) == ("offline", "", 1)
        assert (example.run / row["preprocessed_video"]).is_file()


def test_plan_has_documented_keys_and_tokens(example: ExampleRun) -> None:
    plan = plan_of(example.run)
    assert plan.keys() >= PLAN_KEYS
    assert plan["budget"].keys() >= BUDGET_KEYS
    for item in plan["items"]:
        assert item.keys() >= ITEM_KEYS
        assert item["video"].keys() >= VIDEO_KEYS
        assert item["hint"].keys() >= HINT_KEYS
        assert item["tokens"].keys() >= TOKEN_KEYS
        assert len(item["hint"]["times_s"]) == item["hint"]["frames"]
        total = item["tokens"]["prompt"] + item["tokens"]["output_reserved"]
        assert item["fits"] == (total <= plan["budget"]["max_model_len"])
        assert item["id"] in plan["batches"][item["batch"]]
    assert {row["id"] for row in results_of(example.run)} == {item["id"] for item in plan["items"]}


def test_run_writes_documented_files(example: ExampleRun) -> None:
    assert [name for name in FILES if not (example.run / name).stat().st_size] == []
    specs = [json.loads(line) for line in (example.run / "specs.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = {row["name"]: row["upsampled_prompt"] for row in results_of(example.run)}
    assert {spec["name"]: spec["upsampled_prompt"] for spec in specs} == rows
    assert all(Path(spec["video_path"]).is_file() for spec in specs)


def test_inputs_stay_unchanged(example: ExampleRun) -> None:
    assert example.prompts.read_bytes() == (ROOT / "examples" / "prompts.json").read_bytes()
    inside = sorted(str(p.relative_to(example.prompts.parent)) for p in example.prompts.parent.rglob("*"))
    assert inside == sorted(str(p.relative_to(ROOT / "examples")) for p in (ROOT / "examples").rglob("*"))


def test_second_run_is_estimated_and_compared(example: ExampleRun, tmp_path: Path) -> None:
    shared = (f"prompts={quoted(example.prompts)}", f"cache_dir={quoted(example.cache)}")
    again = tmp_path / "ägain"
    second = program(f"hydra.run.dir={quoted(again)}", "frames=ends_2", *shared)
    assert "Estimated time" not in second.err and ", took" not in second.out  # it takes seconds
    [start] = json.loads((again / "timings.json").read_text())["starts"]
    assert 0 < start["phases"]["answers"]["end_s"] <= start["seconds"]
    assert start["phases"]["answers"]["amount"] == start["phases"]["hints"]["amount"] == 8
    assert start["estimated_s"]["total"] > 0
    both = tmp_path / "both"
    end = program("task=compare", f"runs=[{quoted(example.run)},{quoted(again)}]", f"hydra.run.dir={both}")
    assert end.code == 0, end.err
    assert re.search(r"8 items in both, \d ", end.out)
    lines = list(csv.DictReader((both / "compare.csv").open(encoding="utf-8")))
    texts = [{row["name"]: row["upsampled_prompt"] for row in results_of(run)} for run in (example.run, again)]
    assert {line["name"]: line["differs"] for line in lines} == {
        name: "no" if texts[1][name] == text else "yes" for name, text in texts[0].items()
    }
    assert (both / "compare.html").stat().st_size > 10_000
    assert not (both / "plan.json").exists()


def test_runs_not_comparable_are_refused(example: ExampleRun, tmp_path: Path) -> None:
    one = quoted(example.run)
    for runs, word in {f"[{one}]": "1 ", f"[{one},{one}]": "twice"}.items():
        end = program("task=compare", f"runs={runs}", f"hydra.run.dir={tmp_path / 'both'}")
        assert (end.code, word in end.err, "Traceback" in end.err) == (2, True, False), end.err


def test_finished_run_resumed_asks_nothing(example: ExampleRun, tmp_path: Path) -> None:
    """And names the options that a resumed run ignores."""
    run = tmp_path / "run"
    shutil.copytree(example.run, run)
    before = results_of(run)
    again = program(f"resume={quoted(run)}", "upsample=best_fit", "budget.max_model_len=9000", "output.report=true")
    assert again.code == 0, again.err
    assert "upsample=best_fit budget.max_model_len=9000" in again.err
    assert results_of(run) == before
    assert len(answered(run)) == len(before)
