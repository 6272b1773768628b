"""How the program ends: kept prompts, bad input, engines that do not load, full disks, plans, sweeps in one process."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.program import plan_of, program, quoted, results_of, write_prompts

AWKWARD = "läuft 雨 (1), x=y's $1"
VLLM = ("engine=vllm", "model=tiny_random", f"worker.python={sys.executable}")  # an interpreter without vLLM


@pytest.fixture
def prompts(tmp_path: Path, clips: Path) -> Path:
    return write_prompts(tmp_path / AWKWARD / "prompts.json", clips / "wide.mp4", 2)


def test_kept_prompts_are_3_with_reasons(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([
        {"name": "good", "prompt": "A boat.", "video_path": str(clips / "wide.mp4")},
        {"name": "gone \x1b[2J\x1b]0;owned\x07", "prompt": "A car.", "video_path": "no\x1b[2J.mp4"},
        {"name": "sound", "prompt": "A song.", "video_path": str(clips / "sound.m4a")},
    ]))  # fmt: skip
    for task in ("plan", "upsample"):
        end = program(f"task={task}", f"prompts={file}", f"hydra.run.dir={tmp_path / task}", *common)
        assert end.code == 3, end.err
        assert "\x1b" not in end.out + end.err  # a name cannot control the terminal
    assert "1 upsampled, 2 kept original, 0 failed" in end.out
    assert "there is no such file" in end.out
    assert "has no video stream" in end.out
    rows = results_of(tmp_path / "upsample")
    assert [row["state"] for row in rows] == ["upsampled", "kept", "kept"]
    assert all(row["upsampled_prompt"] is None and row["reason"] for row in rows[1:])


def _no_file(at: Path) -> list[str]:
    return [f"prompts={at / 'missing.json'}"]


def _broken_file(at: Path) -> list[str]:
    (at / "broken.json").write_text('[{"prompt": 5}, {"name": "x"}]')
    return [f"prompts={at / 'broken.json'}"]


def _no_plan(at: Path) -> list[str]:
    (at / "empty").mkdir()
    return [f"resume={at / 'empty'}"]


def _foreign_plan(at: Path) -> list[str]:
    (at / "other").mkdir()
    (at / "other" / "plan.json").write_text('{"a plan": "of another program"}')
    return [f"resume={at / 'other'}"]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_no_file, "missing.json"),
        (_broken_file, "prompt"),
        (_no_plan, "no plan.json"),
        (_foreign_plan, "plan.json"),
        (lambda at: ["upsample=nope"], "nope"),
        (lambda at: ["no_such_key=1"], "no_such_key"),
        (lambda at: ["budget.max_model_len=many"], "budget.max_model_len"),
        (lambda at: ["frames.count=9"], "frames.count"),
        (lambda at: ["sampling.temperature=nan"], "sampling.temperature"),
    ],
    ids=[
        "no prompts", "broken prompts", "no plan", "foreign plan", "no such option", "no such key", "a word for a number",
        "out of range", "not a number",
    ],
)  # fmt: skip
def test_bad_input_is_2_and_starts_nothing(
    tmp_path: Path, common: tuple[str, ...], make: Callable[[Path], list[str]], word: str
) -> None:
    overrides = make(tmp_path)
    if not any(o.startswith("resume=") for o in overrides):
        overrides.append(f"hydra.run.dir={tmp_path / 'run'}")
    end = program(*overrides, *common)
    assert end.code == 2, end.err
    assert word in end.err
    assert "Traceback" not in end.err
    assert not list(tmp_path.rglob("job"))


def test_unloadable_engine_is_7_and_keeps_prompts(tmp_path: Path, prompts: Path, common: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *VLLM, *common)
    first, second = (item["id"] for item in plan_of(run)["items"])
    (run / "job" / "earlier").mkdir(parents=True)  # what ended before stays upsampled
    answer = {"id": first, "step": 0, "state": "upsampled", "reason": "", "text": "An answer."}
    (run / "job" / "earlier" / "results.jsonl").write_text(json.dumps(answer) + "\n")
    end = program(f"resume={run}")
    assert end.code == 7, end.err
    assert "Traceback" not in end.err
    assert "has no vLLM" in end.err
    assert {row["id"]: row["state"] for row in results_of(run)} == {first: "upsampled", second: "kept"}
    assert "has no vLLM" in results_of(run)[1]["reason"]


def test_full_disk_is_4_and_resumable(tmp_path: Path, clips: Path, own_cache: Path) -> None:
    run = tmp_path / "run"
    file = write_prompts(tmp_path / "prompts.json", clips / "hd.mp4", 2)
    end = program(f"prompts={file}", f"hydra.run.dir={run}", f"cache_dir={own_cache}", limit_bytes=25_000)
    assert end.code == 4, end.err
    assert "Traceback" not in end.err
    still = program(f"resume={run}", limit_bytes=1_500)
    assert still.code == 4 and f"error: {run}" in still.err and f"resume={run}" in still.err, still.err
    again = program(f"resume={run}")
    assert again.code == 0, again.out + again.err
    assert {row["state"] for row in results_of(run)} == {"upsampled"}


def test_log_that_cannot_be_opened_is_4(tmp_path: Path, prompts: Path, common: tuple[str, ...]) -> None:
    (tmp_path / "run" / "log.jsonl").mkdir(parents=True)
    end = program(f"prompts={quoted(prompts)}", f"hydra.run.dir={tmp_path / 'run'}", *common)
    assert end.code == 4 and f"error: {tmp_path / 'run' / 'log.jsonl'}: Is a directory" in end.err, end.err
    assert "Error executing" not in end.err and "Traceback" not in end.err + end.out


def test_impossible_run_folder_is_reported(tmp_path: Path, prompts: Path, common: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("in the way")
    end = program(f"prompts={quoted(prompts)}", f"hydra.run.dir={tmp_path / 'file' / 'run'}", *common)
    assert end.code in (2, 4)
    assert "Traceback" not in end.err


# ---------------------------------------------------------------------------------------- plans, reuse, run folders


def test_plan_is_repeatable_and_starts_nothing(
    tmp_path: Path, clips: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    one, two = tmp_path / 'say "hello"', tmp_path / "two"
    for run in (one, two):
        end = program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", *common)
        assert end.code == 0, end.err
        assert "take 0" in end.out
        assert str(run / "plan.json") in end.out
    before = (one / "plan.json").read_bytes()
    assert before == (two / "plan.json").read_bytes()
    written = {p.name for p in one.iterdir()}
    assert not written & {"job", "results.json", "hints", "journal.jsonl", "report.html", "specs.jsonl"}
    other = write_prompts(tmp_path / "other.json", clips / "other.mp4", 3)
    end = program("task=plan", f"resume={quoted(one)}", f"prompts={other}", *common)
    assert end.code == 0, end.err
    assert (one / "plan.json").read_bytes() == before  # the plan of a run that can be resumed


@pytest.mark.parametrize("lost", ["hint video", "hints"])
def test_reused_answers_have_their_files(tmp_path: Path, own_cache: Path, prompts: Path, lost: str) -> None:
    shared = (f"prompts={quoted(prompts)}", f"cache_dir={own_cache}")
    assert program(*shared, f"hydra.run.dir={tmp_path / 'one'}", f"hints.video={lost == 'hints'}").code == 0
    if lost == "hints":
        shutil.rmtree(own_cache / "hints")
    assert program(*shared, f"hydra.run.dir={tmp_path / 'two'}", "reuse=true").code == 0
    assert not (tmp_path / "two" / "job").exists()
    for row in results_of(tmp_path / "two"):
        named = [row["preprocessed_video"], *(frame["file"] for frame in row["frames"])]
        assert [name for name in named if name and not (tmp_path / "two" / name).is_file()] == []


def test_folder_of_another_run_is_refused(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    run, first = tmp_path / "run", write_prompts(tmp_path / "first.json", clips / "wide.mp4", 3)
    assert program(f"prompts={quoted(first)}", f"hydra.run.dir={run}", *common).code == 0
    before = (run / "results.json").read_bytes()
    other = write_prompts(tmp_path / "other.json", clips / "wide.mp4", 2)
    end = program(f"prompts={quoted(other)}", f"hydra.run.dir={run}", *common)
    assert end.code == 2 and "another run" in end.err and "3 items" in end.err
    assert (run / "results.json").read_bytes() == before
    assert program(f"prompts={quoted(first)}", f"hydra.run.dir={run}", *common).code == 0  # the same run goes on


def test_bad_point_does_not_stop_a_sweep(tmp_path: Path, prompts: Path, common: tuple[str, ...]) -> None:
    missing = tmp_path / "missing.json"
    end = program(
        "--multirun", "upsample=safe_320,best_fit", f"prompts={quoted(missing)},{quoted(prompts)}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", *common,
    )  # fmt: skip
    assert end.code == 2, end.err
    assert "Traceback" not in end.err
    assert end.err.count("there is no such file or folder") == 2
    assert "point 3: upsample=best_fit prompts=" in end.err
    table = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open(encoding="utf-8")))
    assert [(row["exit_code"], row["state"]) for row in table] == [("2", "refused"), ("0", "complete")] * 2
    assert [row["upsample"] for row in table] == ["safe_320", "safe_320", "best_fit", "best_fit"]
    assert re.search(r"^3 +upsample=best_fit .* 0  complete, 2 of 2 .* 3/report\.html", end.out, re.MULTILINE), end.out
    assert [(tmp_path / "sweep" / n / "results.json").exists() for n in "0123"] == [False, True, False, True]
    small, large = (plan_of(tmp_path / "sweep" / n)["items"][0]["hint"]["width_px"] for n in "13")
    assert small <= large
