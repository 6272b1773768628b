"""task=review: verdicts from the command line and on a terminal, and what a rerun and a resume make of them."""

from __future__ import annotations

import csv
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.program import (
    ROOT,
    Ended,
    Program,
    journal_lines,
    plan_of,
    program,
    quoted,
    results_of,
    start,
    wait_for,
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the examples."""
    folder = tmp_path_factory.mktemp("examples")
    end = program(f"hydra.run.dir={folder / 'run'}", f"cache_dir={folder / 'cache'}")
    assert end.code == 0, end.err
    return folder / "run"


@pytest.fixture(scope="module")
def reviewed(example: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A copy of the run in which two texts were rejected, one was edited and the rest accepted."""
    run = tmp_path_factory.mktemp("reviewed") / "run"
    shutil.copytree(example, run)
    return run, program(
        "task=review", f"run={run}", "review.reject=[robot_arm,sunset_sail]",
        "review.edit={snowy_street: Snow falls softly.}", "review.all=accepted",
    )  # fmt: skip


def test_review_is_in_every_export(reviewed: tuple[Path, Ended]) -> None:
    run, end = reviewed
    assert end.code == 0, end.err
    assert "5 accepted, 2 rejected, 1 edited" in end.out
    rows = {row["name"]: row for row in results_of(run)}
    assert (rows["robot_arm"]["state"], rows["robot_arm"]["reason"]) == ("kept", "rejected in review")
    assert rows["robot_arm"]["review"]["answer"].startswith(rows["robot_arm"]["original_prompt"])
    assert rows["snowy_street"]["upsampled_prompt"] == "Snow falls softly."
    assert rows["tractor_field"]["review"]["verdict"] == "accepted"
    batch = [json.loads(line)["prompt"] for line in (run / "batch.jsonl").read_text(encoding="utf-8").splitlines()]
    assert batch == [row["upsampled_prompt"] or row["original_prompt"] for row in rows.values()]
    specs = [json.loads(line) for line in (run / "specs.jsonl").read_text(encoding="utf-8").splitlines()]
    spec = next(spec for spec in specs if spec["name"] == "robot_arm")
    assert (spec["upsampled_prompt"], spec["metadata"]["upsampling"]["review"]) == (None, "rejected")
    assert "Snow falls softly." in (run / "report.html").read_text(encoding="utf-8")
    summary = list(csv.DictReader((run / "summary.csv").open(encoding="utf-8")))
    assert [line["review"] for line in summary][:3] == ["rejected", "accepted", "edited"]


def test_retry_and_exports_of_a_reviewed_run(reviewed: tuple[Path, Ended], tmp_path: Path) -> None:
    """What was asked for is done, and no review in place of it; later verdicts reach the new export."""
    run = tmp_path / "run"
    shutil.copytree(reviewed[0], run)
    end = program(f"resume={run}", "output.exports=[txt]", "retry=failed")
    assert end.code == 0, end.err
    assert (run / "txt" / "snowy_street.txt").read_text() == "Snow falls softly.\n"
    assert program("task=review", f"run={run}", "review.edit={snowy_street: Hail.}").code == 0
    assert (run / "txt" / "snowy_street.txt").read_text() == "Hail.\n"


def test_several_runs_are_checked_like_one(reviewed: tuple[Path, Ended], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reviewed[0], run)
    end = program("task=review", f"runs=[{run}]", "review.rerun=true")
    assert end.code == 2 and "one run at a time" in end.err
    plan = run / "plan.json"
    plan.write_text(plan.read_text().replace('"python":', '"python": "/tmp/x", "other":', 1))
    for way in (f"run={run}", f"runs=[{run}]"):
        end = program("task=review", way, "review.all=accepted")
        assert end.code == 2 and "another user" in end.err, end.err
    (run / "elsewhere").symlink_to("/tmp")
    assert "is a link" in program("task=review", f"runs=[{run}]", "review.all=accepted").err


def test_edit_that_is_no_text_leaves_the_run_usable(reviewed: tuple[Path, Ended], tmp_path: Path) -> None:
    run, edits = tmp_path / "run", tmp_path / "edits.json"
    shutil.copytree(reviewed[0], run)
    edits.write_text('{"snowy_street": "half \\ud83d a pair"}')
    end = program("task=review", f"run={run}", f"review.edit={edits}")
    assert end.code == 2 and "not valid text" in end.err
    assert program("task=report", f"run={run}").code in (0, 3)


def test_run_of_an_existing_folder_resumes_it(example: Path, tmp_path: Path) -> None:
    """It has its own prompts: those of this command line are not put in their place."""
    prompts, run = tmp_path / "p.json", tmp_path / "run"
    prompts.write_text('[{"prompt": "a boat"}, {"prompt": "a train"}]')
    common = f"cache_dir={example.parent / 'cache'}"
    assert program("task=plan", f"prompts={prompts}", f"hydra.run.dir={run}", common).code == 0
    before = (run / "plan.json").read_bytes()
    assert program("task=plan", f"run={run}", common).code == 0
    assert program(f"run={run}", common).code in (0, 3)
    assert (run / "plan.json").read_bytes() == before and len(results_of(run)) == 2
    for task in ("stage", "limits"):
        end = program(f"task={task}", f"resume={run}", f"job={tmp_path / 'job'}", common)
        assert end.code == 2 and "Traceback" not in end.err, end.err


def test_review_outlasts_resume_and_can_change(reviewed: tuple[Path, Ended], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reviewed[0], run)
    assert program(f"resume={run}").code == 0
    assert results_of(run) == results_of(reviewed[0])
    assert program("task=review", f"run={run}", "review.accept=[robot_arm]", "review.page=0").code == 0
    [row] = [row for row in results_of(run) if row["name"] == "robot_arm"]
    assert (row["state"], row["review"]["verdict"]) == ("upsampled", "accepted")
    before = (run / "review.jsonl").read_bytes()
    end = program("task=review", f"run={run}", "review.accept=[dusk_drive,nobody]")
    assert end.code == 2 and "nobody" in end.err
    assert (run / "review.jsonl").read_bytes() == before  # a wrong name marks nothing


def test_rerun_asks_only_the_rejected(reviewed: tuple[Path, Ended], tmp_path: Path) -> None:
    run, again = reviewed[0], tmp_path / "again"
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


# ---------------------------------------------------------------------------------------------------- on a terminal


def review_on_terminal(run: Path) -> tuple[Program, int]:
    """A review of a run on a terminal: its process, and where a person types."""
    keys, terminal = pty.openpty()
    process = start("task=review", f"run={quoted(run)}", "review.page=0", "review.terminal=true", stdin=terminal)
    os.close(terminal)
    return process, keys


def test_terminal_asks_about_each_text(example: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(example, run)
    process, keys = review_on_terminal(run)
    os.write(keys, b"y\nn\ns\nq\n")
    end = process.ended()
    os.close(keys)
    assert end.code == 0, end.err
    marks = journal_lines(run / "review.jsonl")
    assert [(m["name"], m["verdict"]) for m in marks] == [("robot_arm", "accepted"), ("robot_arm_camera", "rejected")]
    assert results_of(run)[1]["state"] == "kept"


@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D"])
def test_interrupted_review_counts(example: Path, tmp_path: Path, key: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(example, run)
    process, keys = review_on_terminal(run)
    os.write(keys, b"n\n")
    wait_for(lambda: journal_lines(run / "review.jsonl"))
    if key == "Ctrl-C":
        process.interrupt()
    else:
        os.write(keys, b"\x04")
    end = process.ended()
    os.close(keys)
    assert end.code == (130 if key == "Ctrl-C" else 0), end.err
    assert results_of(run)[0]["state"] == "kept"  # in every file
    assert key == "Ctrl-D" or f"resume={run}" in end.err
