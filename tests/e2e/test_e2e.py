"""The program as a person starts it: `python -m src.run` in a process of its own, from the repository root."""

from __future__ import annotations

import csv
import json
import os
import pty
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.worker.journal import read_records
from tests.harness.program import (
    ROOT,
    Ended,
    ended,
    journalled,
    plan_of,
    program,
    quoted,
    results_of,
    start,
    wait_for,
    write_prompts,
)

pytestmark = pytest.mark.e2e

AWKWARD = "läuft 雨 (1), x=y's $1"
SLOW = ("engine.item_delay_s=0.2", "engine.in_flight=1")

# What design.md, section 5, lets others rely on.
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


def with_tokenizer(cache: Path, other: Path) -> None:
    """A cache that holds nothing but the tokenizer of another one, if that has been made."""
    cache.mkdir()
    if (other / "tokenizer").exists():
        shutil.copytree(other / "tokenizer", cache / "tokenizer")


def answered(run: Path) -> list[str]:
    """Ids that the workers of a run wrote down, in order."""
    return [r["id"] for results in run.glob("job/*/results.jsonl") for r in read_records(results)]


def worker_pid(run: Path) -> int | None:
    """The worker at work in this run, if there is one."""
    for lock in run.glob("job/*/lock"):
        pid = lock.read_text()
        try:
            if pid and str(lock.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        except OSError:
            continue  # it ended while we looked
    return None


@pytest.fixture(scope="session")
def common(cache_dir: Path) -> tuple[str, ...]:
    """Overrides of every call: a cache that the session shares."""
    return (f"cache_dir={quoted(cache_dir)}",)


# ------------------------------------------------------------------------------------------------------------ examples


@dataclass(frozen=True)
class ExampleRun:
    run: Path
    prompts: Path
    ended: Ended


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> ExampleRun:
    """The examples, from and to folders with spaces, quotes and letters of other scripts, and with an empty cache."""
    folder = tmp_path_factory.mktemp("examples") / AWKWARD
    shutil.copytree(ROOT / "examples", folder / "in puts")
    prompts, run = folder / "in puts" / "prompts.json", folder / "out puts"
    return ExampleRun(
        run,
        prompts,
        program(f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", f"cache_dir={quoted(folder / 'cache')}"),
    )


def test_the_examples_run_as_they_are_and_all_end_upsampled(example: ExampleRun) -> None:
    assert example.ended.code == 0, example.ended.err
    rows = results_of(example.run)
    assert rows
    assert {row["state"] for row in rows} == {"upsampled"}
    assert f"{len(rows)} upsampled, 0 kept, 0 failed" in example.ended.out
    assert str(example.run / "results.json") in example.ended.out.replace("\n", "")


def test_results_are_in_the_order_of_the_prompts_and_hold_every_documented_key(example: ExampleRun) -> None:
    asked, rows = json.loads(example.prompts.read_text()), results_of(example.run)
    assert [row["name"] for row in rows] == [item["name"] for item in asked]
    for row, item in zip(rows, asked, strict=True):
        assert row.keys() >= RESULT_KEYS
        assert row["tokens"].keys() >= RESULT_TOKEN_KEYS
        assert (row["original_prompt"], row["video_path"]) == (item["prompt"], item["video_path"])
        assert row["upsampled_prompt"].startswith(item["prompt"])
        assert (row["engine"], row["reason"], row["attempts"]) == ("offline", "", 1)
        assert (example.run / row["preprocessed_video"]).is_file()


def test_the_plan_holds_every_documented_key_and_accounts_for_every_token(example: ExampleRun) -> None:
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


@pytest.mark.parametrize(
    "name",
    ["summary.csv", "report.html", "log.jsonl", "batch.jsonl", ".hydra/config.yaml", "plan.json", "timings.json"],
)
def test_a_run_leaves_the_documented_file(example: ExampleRun, name: str) -> None:
    assert (example.run / name).stat().st_size > 0


def test_a_run_leaves_one_updated_spec_an_item(example: ExampleRun) -> None:
    specs = [json.loads(path.read_text(encoding="utf-8")) for path in (example.run / "specs").iterdir()]
    rows = {row["name"]: row["upsampled_prompt"] for row in results_of(example.run)}
    assert {spec["name"]: spec["upsampled_prompt"] for spec in specs} == rows
    assert all(Path(spec["video_path"]).is_file() for spec in specs)


def test_inputs_are_left_as_they_were(example: ExampleRun) -> None:
    assert example.prompts.read_bytes() == (ROOT / "examples" / "prompts.json").read_bytes()
    inside = sorted(str(p.relative_to(example.prompts.parent)) for p in example.prompts.parent.rglob("*"))
    assert inside == sorted(str(p.relative_to(ROOT / "examples")) for p in (ROOT / "examples").rglob("*"))


def test_a_second_run_says_before_how_long_it_may_take_and_after_how_far_that_was_off(
    example: ExampleRun, tmp_path: Path
) -> None:
    assert "estimated" not in example.ended.out
    cache = example.run.parent / "cache"
    shared = (f"prompts={quoted(example.prompts)}", f"cache_dir={quoted(cache)}")
    planned = program("task=plan", f"hydra.run.dir={tmp_path / 'plan'}", *shared)
    assert "It may take about" in planned.out and "by the last run with engine=offline on local" in planned.out
    again = program(f"hydra.run.dir={tmp_path / 'again'}", *shared)
    assert "It may take about" in again.err
    assert re.search(r"^estimated .* s, took .* s \(.\d+ %\)$", again.out, re.MULTILINE), again.out
    [start] = json.loads((tmp_path / "again" / "timings.json").read_text())["starts"]
    assert 0 < start["phases"]["answers"]["end_s"] <= start["seconds"]
    assert start["phases"]["answers"]["amount"] == start["phases"]["hints"]["amount"] == 8
    assert start["estimated_s"]["total"] > 0


def test_a_finished_run_resumed_says_the_same_again_and_asks_nothing(example: ExampleRun) -> None:
    before = results_of(example.run)
    again = program(f"resume={quoted(example.run)}")
    assert again.code == 0, again.err
    assert results_of(example.run) == before
    assert len(answered(example.run)) == len(before)


# -------------------------------------------------------------------------------------------------- compare and review


def test_two_runs_are_compared_in_a_folder_of_their_own(example: ExampleRun, tmp_path: Path) -> None:
    again, both = tmp_path / "ägain", tmp_path / "both"
    shared = (f"prompts={quoted(example.prompts)}", f"cache_dir={quoted(example.run.parent / 'cache')}")
    assert program(f"hydra.run.dir={quoted(again)}", "frames=ends_2", *shared).code == 0
    end = program("task=compare", f"runs=[{quoted(example.run)},{quoted(again)}]", f"hydra.run.dir={both}")
    assert end.code == 0, end.err
    assert re.search(r"8 items in both, \d of them differ", end.out)
    lines = list(csv.DictReader((both / "compare.csv").open(encoding="utf-8")))
    texts = [{row["name"]: row["upsampled_prompt"] for row in results_of(run)} for run in (example.run, again)]
    assert {line["name"]: line["differs"] for line in lines} == {
        name: "no" if texts[1][name] == text else "yes" for name, text in texts[0].items()
    }
    assert "ends_2" not in example.ended.out and (both / "compare.html").stat().st_size > 10_000
    assert not (both / "plan.json").exists()


def test_runs_that_cannot_be_compared_are_2_with_the_reason(example: ExampleRun, tmp_path: Path) -> None:
    one = quoted(example.run)
    for runs, says in {f"[{one}]": "1 runs were named", f"[{one},{one}]": "named twice"}.items():
        end = program("task=compare", f"runs={runs}", f"hydra.run.dir={tmp_path / 'both'}")
        assert (end.code, says in end.err, "Traceback" in end.err) == (2, True, False), end.err


@pytest.fixture(scope="module")
def judged(example: ExampleRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A copy of the examples' run in which two texts were rejected, one was edited and the rest accepted."""
    run = tmp_path_factory.mktemp("judged") / "run"
    shutil.copytree(example.run, run)
    return run, program(
        "task=review", f"run={run}", "review.reject=[robot_arm,sunset_sail]",
        "review.edit={snowy_street: Snow falls softly.}", "review.all=accepted",
    )  # fmt: skip


def test_a_review_is_written_into_every_export(judged: tuple[Path, Ended]) -> None:
    run, end = judged
    assert end.code == 0, end.err
    assert "5 accepted, 2 rejected, 1 edited" in end.out
    rows = {row["name"]: row for row in results_of(run)}
    assert (rows["robot_arm"]["state"], rows["robot_arm"]["reason"]) == ("kept", "rejected in review")
    assert rows["robot_arm"]["review"]["answer"].startswith(rows["robot_arm"]["original_prompt"])
    assert rows["snowy_street"]["upsampled_prompt"] == "Snow falls softly."
    assert rows["tractor_field"]["review"]["verdict"] == "accepted"
    batch = [json.loads(line)["prompt"] for line in (run / "batch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert batch == [row["upsampled_prompt"] or row["original_prompt"] for row in rows.values()]
    spec = json.loads((run / "specs" / "robot_arm.json").read_text())
    assert (spec["upsampled_prompt"], spec["metadata"]["upsampling"]["review"]) == (None, "rejected")
    assert "Snow falls softly." in (run / "report.html").read_text(encoding="utf-8")
    summary = list(csv.DictReader((run / "summary.csv").open(encoding="utf-8")))
    assert [line["review"] for line in summary][:3] == ["rejected", "accepted", "edited"]


def test_a_review_lasts_over_a_resume_and_what_was_rejected_can_be_accepted_later(
    judged: tuple[Path, Ended], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(judged[0], run)
    assert program(f"resume={run}").code == 3  # two are kept
    assert results_of(run) == results_of(judged[0])
    assert program("task=review", f"run={run}", "review.accept=[robot_arm]", "review.page=0").code == 0
    [row] = [row for row in results_of(run) if row["name"] == "robot_arm"]
    assert (row["state"], row["review"]["verdict"]) == ("upsampled", "accepted")


def test_a_wrong_name_in_a_review_is_2_and_marks_nothing(judged: tuple[Path, Ended]) -> None:
    before = (judged[0] / "review.jsonl").read_bytes()
    end = program("task=review", f"run={judged[0]}", "review.accept=[dusk_drive,nobody]")
    assert end.code == 2 and "nobody: there is no such item" in end.err
    assert (judged[0] / "review.jsonl").read_bytes() == before


def test_only_the_rejected_are_asked_again_in_a_run_of_its_own(judged: tuple[Path, Ended], tmp_path: Path) -> None:
    run, again = judged[0], tmp_path / "again"
    before = results_of(run)
    end = program("task=review", f"run={run}", "review.rerun=true", "sampling.seed=7", f"hydra.run.dir={again}")
    assert end.code == 0, end.err
    assert [row["name"] for row in results_of(again)] == ["robot_arm", "sunset_sail"]
    assert results_of(run) == before
    assert plan_of(again)["settings"]["seed"] == 7
    assert plan_of(again)["settings"]["cache_dir"] == plan_of(run)["settings"]["cache_dir"]  # as the run was made
    assert "the_same_is_asked" not in (again / "log.jsonl").read_text()
    repeated = (again / "command.txt").read_text().replace("python", shlex.quote(sys.executable), 1).strip()
    done = subprocess.run(
        ["bash", "-c", f"{repeated} hydra.run.dir={tmp_path / 'third'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [r["id"] for r in results_of(tmp_path / "third")] == [r["id"] for r in results_of(again)]


def reviewing(run: Path) -> tuple[subprocess.Popen[str], int]:
    """A review of a run on a terminal: its process, and where a person types."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "src.run", "task=review", f"run={run}", "review.page=0"], cwd=ROOT, stdin=theirs,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


def test_on_a_terminal_a_person_is_asked_about_each_text(example: ExampleRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(example.run, run)
    process, keys = reviewing(run)
    os.write(keys, b"y\nn\ns\nq\n")
    end = ended(process)
    os.close(keys)
    assert end.code == 0, end.err
    marks = [json.loads(line) for line in (run / "review.jsonl").read_text().splitlines()]
    assert [(m["name"], m["verdict"]) for m in marks] == [("robot_arm", "accepted"), ("robot_arm_camera", "rejected")]
    assert results_of(run)[1]["state"] == "kept"


@pytest.mark.parametrize("end_it", ["Ctrl-C", "Ctrl-D"])
def test_a_review_that_is_broken_off_counts_as_far_as_it_came(example: ExampleRun, tmp_path: Path, end_it: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(example.run, run)
    process, keys = reviewing(run)
    os.write(keys, b"n\n")
    wait_for(lambda: (run / "review.jsonl").exists() and (run / "review.jsonl").read_text().endswith("\n"))
    if end_it == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.write(keys, b"\x04")
    end = ended(process)
    os.close(keys)
    assert end.code == (130 if end_it == "Ctrl-C" else 0), end.err
    assert results_of(run)[0]["state"] == "kept"  # as it was said, in every file
    assert end_it == "Ctrl-D" or "task=review run=" in end.err


# ---------------------------------------------------------------------------------------------------------- exit codes


@pytest.fixture
def prompts(tmp_path: Path, clips: Path) -> Path:
    return write_prompts(tmp_path / AWKWARD / "prompts.json", clips / "wide.mp4", 2)


def test_some_kept_is_3_and_says_which_and_why(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([
        {"name": "good", "prompt": "A boat.", "video_path": str(clips / "wide.mp4")},
        {"name": "gone", "prompt": "A car.", "video_path": "gone.mp4"},
        {"name": "sound", "prompt": "A song.", "video_path": str(clips / "sound.m4a")},
    ]))  # fmt: skip
    end = program(f"prompts={file}", f"hydra.run.dir={tmp_path / 'run'}", *common)
    assert end.code == 3, end.err
    assert "1 upsampled, 2 kept, 0 failed" in end.out
    assert "gone.mp4: there is no such file" in end.out
    assert "has no video stream" in end.out
    rows = results_of(tmp_path / "run")
    assert [(row["name"], row["state"]) for row in rows] == [("good", "upsampled"), ("gone", "kept"), ("sound", "kept")]
    assert all(row["upsampled_prompt"] is None and row["reason"] for row in rows[1:])


def _no_file(at: Path) -> list[str]:
    return [f"prompts={at / 'missing.json'}"]


def _broken_file(at: Path) -> list[str]:
    (at / "broken.json").write_text('[{"prompt": 5}, {"name": "x"}]')
    return [f"prompts={at / 'broken.json'}"]


def _no_plan(at: Path) -> list[str]:
    (at / "empty").mkdir()
    return [f"resume={at / 'empty'}"]


def _wrong_plan(at: Path) -> list[str]:
    (at / "other").mkdir()
    (at / "other" / "plan.json").write_text('{"a plan": "of another program"}')
    return [f"resume={at / 'other'}"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_no_file, "missing.json"),
        (_broken_file, "prompt"),
        (_no_plan, "no plan.json"),
        (_wrong_plan, "plan.json"),
        (lambda at: ["upsample=nope"], "nope"),
        (lambda at: ["no_such_key=1"], "no_such_key"),
        (lambda at: ["budget.max_model_len=many"], "budget.max_model_len"),
        (lambda at: ["frames.count=9"], "frames.count"),
        (lambda at: ["hints.workers=-1"], "hints.workers"),
        (lambda at: ["engine.item_delay_s=-1"], "engine.item_delay_s"),
        (lambda at: ["sampling.temperature=nan"], "sampling.temperature"),
    ],
    ids=[
        "no prompts", "broken prompts", "no plan", "a plan of another program", "no such option", "no such key",
        "a word for a number", "out of range", "negative workers", "negative delay", "not a number",
    ],
)  # fmt: skip
def test_bad_input_is_2_names_what_is_wrong_and_starts_nothing(
    tmp_path: Path, common: tuple[str, ...], make: Callable[[Path], list[str]], says: str
) -> None:
    overrides = make(tmp_path)
    if not any(o.startswith("resume=") for o in overrides):
        overrides.append(f"hydra.run.dir={tmp_path / 'run'}")
    end = program(*overrides, *common)
    assert end.code == 2, end.err
    assert says in end.err
    assert "Traceback" not in end.err
    assert not list(tmp_path.rglob("job"))


def test_an_engine_that_cannot_be_loaded_is_7_and_keeps_every_prompt(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    vllm = ("engine=vllm", "model=tiny_random", f"worker.python={sys.executable}")
    end = program(f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *vllm, *common)
    assert end.code == 7, end.err
    assert "Traceback" not in end.err
    assert "has no vLLM" in end.err
    assert {row["state"] for row in results_of(run)} == {"kept"}
    assert all("has no vLLM" in row["reason"] for row in results_of(run))


def test_what_ended_before_an_engine_could_not_be_loaded_stays_upsampled(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    vllm = ("engine=vllm", "model=tiny_random", f"worker.python={sys.executable}")
    program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *vllm, *common)
    first, second = (item["id"] for item in plan_of(run)["items"])
    (run / "job" / "earlier").mkdir(parents=True)
    answer = {
        "id": first,
        "step": 0,
        "state": "upsampled",
        "reason": "",
        "text": "An answer.",
        "tokens": {},
        "seconds": {},
    }
    (run / "job" / "earlier" / "results.jsonl").write_text(json.dumps(answer) + "\n")
    end = program(f"resume={run}")
    assert end.code == 7, end.err
    assert {row["id"]: row["state"] for row in results_of(run)} == {first: "upsampled", second: "kept"}


def test_a_full_disk_is_4_and_with_room_again_the_run_ends_well(tmp_path: Path, clips: Path, cache_dir: Path) -> None:
    cache, run = tmp_path / "cache", tmp_path / "run"
    with_tokenizer(cache, cache_dir)
    file = write_prompts(tmp_path / "prompts.json", clips / "hd.mp4", 2)
    end = program(f"prompts={file}", f"hydra.run.dir={run}", f"cache_dir={cache}", limit_bytes=25_000)
    assert end.code == 4, end.err
    assert "Traceback" not in end.err
    again = program(f"resume={run}")
    assert again.code == 0, again.out + again.err
    assert {row["state"] for row in results_of(run)} == {"upsampled"}


def test_a_run_folder_that_cannot_be_made_is_reported_in_words(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("in the way")
    end = program(f"prompts={quoted(prompts)}", f"hydra.run.dir={tmp_path / 'file' / 'run'}", *common)
    assert end.code in (2, 4)
    assert "Traceback" not in end.err


def test_what_a_name_holds_cannot_steer_the_terminal(tmp_path: Path, common: tuple[str, ...]) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(
        json.dumps([{"name": "evil \x1b[2J\x1b]0;owned\x07", "prompt": "p", "video_path": "no\x1b[2J.mp4"}])
    )
    for task in ("plan", "upsample"):
        end = program(f"task={task}", f"prompts={file}", f"hydra.run.dir={tmp_path / task}", *common)
        assert end.code == 3
        assert "\x1b" not in end.out + end.err


# ---------------------------------------------------------------------------------------------------- plan and multirun


def test_task_plan_writes_the_plan_and_starts_nothing_and_the_same_plan_again(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    for name in ("one", "two"):
        end = program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={tmp_path / name}", *common)
        assert end.code == 0, end.err
        assert "take 0" in end.out
        assert str(tmp_path / name / "plan.json") in end.out
    assert (tmp_path / "one" / "plan.json").read_bytes() == (tmp_path / "two" / "plan.json").read_bytes()
    left = {p.name for p in (tmp_path / "one").iterdir()}
    assert not left & {"job", "results.json", "hints", "journal.jsonl", "report.html", "specs"}


def test_task_plan_leaves_the_plan_of_a_run_that_can_be_resumed_alone(
    tmp_path: Path, clips: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    run, other = tmp_path / "run", write_prompts(tmp_path / "other.json", clips / "other.mp4", 3)
    assert program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *common).code == 0
    before = (run / "plan.json").read_bytes()
    program("task=plan", f"resume={run}", f"prompts={other}", *common)
    assert (run / "plan.json").read_bytes() == before


def test_a_run_folder_with_quotation_marks_in_its_name_can_be_resumed(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    run = tmp_path / 'say "hello"'
    assert program("task=plan", f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", *common).code == 0
    again = program("task=plan", f"resume={quoted(run)}", *common)
    assert again.code == 0, again.err


@pytest.mark.parametrize("lost", ["hint video", "hints"])
def test_files_that_the_results_name_are_there_also_when_answers_are_reused(
    tmp_path: Path, cache_dir: Path, prompts: Path, lost: str
) -> None:
    cache = tmp_path / "cache"
    with_tokenizer(cache, cache_dir)
    given = (f"prompts={quoted(prompts)}", f"cache_dir={cache}")
    assert program(*given, f"hydra.run.dir={tmp_path / 'one'}", f"hints.video={lost == 'hints'}").code == 0
    if lost == "hints":
        shutil.rmtree(cache / "hints")
    assert program(*given, f"hydra.run.dir={tmp_path / 'two'}", "reuse=true").code == 0
    assert not (tmp_path / "two" / "job").exists()
    for row in results_of(tmp_path / "two"):
        named = [row["preprocessed_video"], *(frame["file"] for frame in row["frames"])]
        assert [name for name in named if name and not (tmp_path / "two" / name).is_file()] == []


def test_a_sweep_runs_every_point_and_a_failing_one_does_not_stop_the_others(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    missing = tmp_path / "missing.json"
    end = program(
        "--multirun", "upsample=safe_320,best_fit", f"prompts={quoted(missing)},{quoted(prompts)}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}", *common,
    )  # fmt: skip
    assert end.code == 2, end.err
    assert "Traceback" not in end.err
    assert end.err.count("there is no such file or folder") == 2
    assert "── point 3: upsample=best_fit prompts=" in end.err
    assert [line.split("  ")[0] for line in end.out.splitlines() if line.startswith("point ")] == [
        "point 0: exit code 2", "point 1: exit code 0", "point 2: exit code 2", "point 3: exit code 0",
    ]  # fmt: skip
    assert [(tmp_path / "sweep" / n / "results.json").exists() for n in "0123"] == [False, True, False, True]
    small, large = (plan_of(tmp_path / "sweep" / n)["items"][0]["hint"]["width_px"] for n in "13")
    assert small <= large


# ------------------------------------------------------------------------------------------ interrupted, held, killed


ITEMS = 48  # at SLOW, enough to outlast the start of another process on a busy machine


@dataclass(frozen=True)
class Interrupted:
    """A slow run in which a second start was tried, and which then got Ctrl-C, and then the line that it printed."""

    run: Path
    ids: list[str]
    second: Ended
    first: Ended
    ended_then: list[str]
    resumed: Ended


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, clips: Path, common: tuple[str, ...]) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted") / AWKWARD
    file, run = write_prompts(folder / "prompts.json", clips / "wide.mp4", ITEMS), folder / "run"
    process = start(f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *SLOW, *common)
    wait_for(lambda: (run / "journal.jsonl").exists() and len(journalled(run)) >= 2)
    second = program(f"resume={quoted(run)}")
    process.send_signal(signal.SIGINT)
    first = ended(process)
    ended_then = journalled(run)
    line = next((x.strip() for x in first.err.splitlines() if "resume=" in x), "false")
    by_shell = subprocess.Popen(
        ["bash", "-c", line.replace("python", shlex.quote(sys.executable), 1)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return Interrupted(run, [i["id"] for i in plan_of(run)["items"]], second, first, ended_then, ended(by_shell))


def test_a_second_start_in_the_same_folder_is_75_and_says_so(interrupted: Interrupted) -> None:
    assert interrupted.second.code == 75, interrupted.second.err
    assert "another process works in this run folder" in interrupted.second.err
    assert "Traceback" not in interrupted.second.err


def test_ctrl_c_is_130_and_what_was_in_flight_is_written_down(interrupted: Interrupted) -> None:
    assert interrupted.first.code == 130, interrupted.first.err
    assert "Traceback" not in interrupted.first.err
    assert 2 <= len(interrupted.ended_then) < ITEMS
    assert interrupted.ended_then == answered(interrupted.run)[: len(interrupted.ended_then)]


def test_the_line_that_is_printed_takes_the_run_up_again(interrupted: Interrupted) -> None:
    assert interrupted.resumed.code == 0, interrupted.resumed.err
    assert {row["state"] for row in results_of(interrupted.run)} == {"upsampled"}
    assert Counter(answered(interrupted.run)) == Counter(interrupted.ids)
    assert Counter(journalled(interrupted.run)) == Counter(interrupted.ids)


def test_ctrl_c_before_anything_began_is_no_success(tmp_path: Path, prompts: Path, common: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    process = start(f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *common)
    wait_for((run / ".hydra" / "config.yaml").exists, step_s=0.001)
    process.send_signal(signal.SIGINT)
    end = ended(process)
    assert end.code == 130
    assert "resume=" not in end.err or (run / "plan.json").exists()


def test_a_program_that_is_asked_to_end_does_so_as_with_ctrl_c(
    tmp_path: Path, clips: Path, common: tuple[str, ...]
) -> None:
    file, run = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 40), tmp_path / "run"
    process = start(f"prompts={quoted(file)}", f"hydra.run.dir={run}", *SLOW, *common)
    wait_for(lambda: (run / "journal.jsonl").exists() and len(journalled(run)) >= 2)
    process.terminate()
    end = ended(process)
    assert end.code == 130 and "resume=" in end.err
    assert worker_pid(run) is None and 2 <= len(journalled(run)) < 40


def test_a_folder_with_answers_is_not_taken_for_another_run(
    tmp_path: Path, clips: Path, common: tuple[str, ...]
) -> None:
    run, first = tmp_path / "run", write_prompts(tmp_path / "first.json", clips / "wide.mp4", 3)
    assert program(f"prompts={quoted(first)}", f"hydra.run.dir={run}", *common).code == 0
    before = (run / "results.json").read_bytes()
    other = write_prompts(tmp_path / "other.json", clips / "wide.mp4", 2)
    end = program(f"prompts={quoted(other)}", f"hydra.run.dir={run}", *common)
    assert end.code == 2 and "holds another run already, of 3 items" in end.err
    assert (run / "results.json").read_bytes() == before
    assert program(f"prompts={quoted(first)}", f"hydra.run.dir={run}", *common).code == 0  # the same run goes on


def test_options_that_a_resumed_run_does_not_hear_are_named(example: ExampleRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(example.run, run)
    end = program(f"resume={quoted(run)}", "upsample=best_fit", "budget.max_model_len=9000", "output.report=true")
    assert end.code == 0, end.err
    assert 'overrides="upsample=best_fit budget.max_model_len=9000"' in end.err


def test_ctrl_c_while_the_worker_starts_leaves_none_behind(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    process = start(f"prompts={quoted(prompts)}", f"hydra.run.dir={run}", *SLOW, *common)
    wait_for(lambda: any(run.glob("job/*/worker.log")), step_s=0.001)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(run).encode() in _bytes(p)]
    try:
        assert left == []
    finally:
        for path in left:
            os.kill(int(path.parent.name), signal.SIGKILL)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_moments_every_item_ends_exactly_once(
    tmp_path: Path, clips: Path, common: tuple[str, ...], seed: int
) -> None:
    dice, run = random.Random(seed), tmp_path / AWKWARD / "run"
    file = write_prompts(tmp_path / AWKWARD / "prompts.json", clips / "wide.mp4", 120)
    first = (f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *SLOW, *common)
    for kill in range(15):
        resuming = (run / "plan.json").exists()
        process = start(*((f"resume={quoted(run)}",) if resuming else first))
        victim = dice.choice(["controller", "worker", "both"])
        if kill % 3:  # some die while they start, some after a few answers more
            goal = len(journalled(run)) + dice.randrange(1, 4) if (run / "journal.jsonl").exists() else 1
            wait_for(lambda goal=goal, process=process: process.poll() is not None or len(journalled(run)) >= goal)  # type: ignore[misc]
        else:
            time.sleep(dice.uniform(0.1, 1.5))
        pid = worker_pid(run) if victim != "controller" else None
        if pid:
            os.kill(pid, signal.SIGKILL)
        if victim == "worker" and pid:
            wait_for(lambda pid=pid, process=process: process.poll() is not None or worker_pid(run) not in (None, pid))  # type: ignore[misc]
        process.kill()  # with `worker`, only after it has started another one
        process.communicate()
        if dice.random() < 0.3 and (run / "journal.jsonl").exists():
            with open(run / "journal.jsonl", "ab") as f:
                f.write(b'{"id": "torn')
    assert len(journalled(run)) < 120, "nothing was left to do while it was being killed"
    end = program(f"resume={quoted(run)}")
    assert end.code == 0, end.err
    ids = [item["id"] for item in plan_of(run)["items"]]
    assert len(set(ids)) == 120
    assert Counter(answered(run)) == Counter(ids)
    assert Counter(journalled(run)) == Counter(ids)
    assert [row["id"] for row in results_of(run)] == ids
    assert {row["state"] for row in results_of(run)} == {"upsampled"}
    assert worker_pid(run) is None


def test_runs_started_at_the_same_moment_get_folders_of_their_own(
    tmp_path: Path, prompts: Path, common: tuple[str, ...]
) -> None:
    pattern = f"hydra.run.dir=${{run_folder:null,null,upsample,{tmp_path}/run}}"
    starts = [start(f"prompts={quoted(prompts)}", pattern, *common) for _ in range(4)]
    ends = [ended(process) for process in starts]
    assert [end.code for end in ends] == [0, 0, 0, 0], [end.err for end in ends]
    assert len(list(tmp_path.glob("run*/results.json"))) == 4
