"""How a run stands, by its folder; and the record of it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import ExitCode
from src.hosts.job_folder import JobPaths, open_job
from src.planning.plan import Plan
from src.run_folder import RunPaths, locked
from src.runs import run_record
from src.runs.run_record import RunRecord, prompts_of, read_record, record_more
from src.runs.run_state import RunState, state_of
from src.runs.saved_run import save_plan
from src.runs.staging import job_folder, upsample_job
from src.worker.journal import Journal
from src.worker.protocol import Outcome
from tests.unit.runs.conftest import MakePlan

COUNT = 4


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan({f"item{n}": (f"A boat, take {n}.", None) for n in range(COUNT)})


def end_items(file: Path, plan: Plan, states: Sequence[str]) -> None:
    journal = Journal(file)
    for item, state in zip(plan.items, states, strict=False):
        journal.append(Outcome(item.id, state))
    journal.close()


def opened_job(plan: Plan, paths: RunPaths) -> JobPaths:
    job = job_folder(plan, paths.jobs)
    open_job(job, upsample_job(plan))
    return job


def words(paths: RunPaths) -> str:
    return str(state_of(paths, read_record(paths)))


def test_planned_run_is_not_interrupted(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths)
    assert words(paths) == "planned, 0 of 4"


@pytest.mark.parametrize(
    ("collected", "written", "expected"),
    [
        (["upsampled"], [], "interrupted, 1 of 4"),
        (["upsampled"], ["upsampled", "kept"], "interrupted, 2 of 4: 1 kept original"),
        (["upsampled"], ["upsampled", "refused"], "interrupted, 1 of 4"),
        (["upsampled"], ["upsampled"] * 4, "answered, 4 of 4"),
        (["upsampled", "kept", "failed", "failed"], [], "complete, 4 of 4: 1 kept original, 2 failed"),
        ([], [], "interrupted, 0 of 4"),
    ],
)
def test_state_counts_what_journals_have(
    paths: RunPaths, plan: Plan, collected: list[str], written: list[str], expected: str
) -> None:
    save_plan(plan, paths)
    end_items(paths.journal, plan, collected)
    end_items(opened_job(plan, paths).results, plan, written)
    assert words(paths) == expected


def test_held_locks_mean_running(paths: RunPaths, plan: Plan) -> None:
    """Of the run by its controller, or of a job by a worker that outlived it."""
    save_plan(plan, paths)
    with locked(paths):
        assert words(paths) == "running, 0 of 4"
    job = opened_job(plan, paths)
    with open(job.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert words(paths) == "running, 0 of 4"
    assert words(paths) == "interrupted, 0 of 4"


def test_open_job_elsewhere_is_detached(paths: RunPaths, plan: Plan) -> None:
    away = replace(plan, settings=replace(plan.settings, host=replace(plan.settings.host, kind="ssh")))
    save_plan(away, paths)
    opened_job(away, paths)
    assert words(paths) == "detached, 0 of 4"


def test_recorded_end_needs_no_journal(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths, "nightly")
    record_more(paths, states={"upsampled": 3, "failed": 1}, cost=1.5)
    paths.journal.write_text("not read")
    assert words(paths) == "complete, 4 of 4: 1 failed"
    assert (read_record(paths).name, read_record(paths).cost) == ("nightly", 1.5)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (None, "interrupted, 0 of 4"),
        (["done", "done", "unfinished"], "interrupted, 2 of 3"),
        (["done", "skipped", "failed"], "complete, 3 of 3: 1 skipped, 1 failed"),
    ],
)
def test_pipeline_is_complete_with_its_videos(
    paths: RunPaths, plan: Plan, states: list[str] | None, expected: str
) -> None:
    save_plan(plan, paths)
    end_items(paths.journal, plan, ["upsampled"] * 3)
    paths.pipeline.touch()
    assert words(paths) == "interrupted, 3 of 4"
    end_items(paths.journal, plan, ["upsampled"] * 4)
    if states is not None:
        paths.inference_results.write_text(json.dumps([{"state": state} for state in states]))
    assert words(paths) == expected


def test_measured_limits_are_complete(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths)
    paths.points.touch()
    assert words(paths) == "planned, 0 of 4"
    (paths.root / "matrix.json").touch()
    assert words(paths) == "complete, 4 of 4"


def test_damaged_line_is_no_end(paths: RunPaths, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    save_plan(plan, paths)
    paths.journal.write_text("nonsense\n")
    assert words(paths) == "interrupted, 0 of 4" or words(paths) == "planned, 0 of 4"
    assert "journal.jsonl, line 1" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "{", "[]", '{"items": "many"}'])
def test_run_without_record_has_its_plan(paths: RunPaths, plan: Plan, text: str | None) -> None:
    save_plan(plan, paths)
    expected = read_record(paths)
    paths.record.unlink()
    if text is not None:
        paths.record.write_text(text)
    assert replace(read_record(paths), created=expected.created) == expected
    assert json.loads(json.dumps(expected.planned_tokens)) == sum(item.tokens.prompt for item in plan.items)


def test_identical_items_are_one_request(make_plan: MakePlan, paths: RunPaths) -> None:
    plan = make_plan({"one": ("A boat.", None), "two": ("A boat.", None)})
    save_plan(plan, paths)
    assert (read_record(paths).items, read_record(paths).requests) == (2, 1)
    end_items(paths.journal, plan, ["upsampled"])
    assert words(paths) == "complete, 2 of 2"


@pytest.mark.parametrize(
    ("word", "states", "code"),
    [
        ("complete", {"upsampled": 2}, ExitCode.OK),
        ("complete", {"upsampled": 1, "kept": 1}, ExitCode.INCOMPLETE),
        ("running", {}, ExitCode.OK),
        ("detached", {}, ExitCode.OK),
        ("interrupted", {"upsampled": 1}, ExitCode.INTERRUPTED),
        ("answered", {"upsampled": 2}, ExitCode.INTERRUPTED),
        ("planned", {}, ExitCode.INPUT),
    ],
)
def test_exit_code_says_the_state(word: str, states: dict[str, int], code: ExitCode) -> None:
    state = RunState(word, 1, 2, states)  # type: ignore[arg-type]
    assert state.exit_code is code
    assert state.is_open == (word not in ("running", "complete"))


def test_large_counts_are_readable() -> None:
    assert str(RunState("interrupted", 1166, 5000, {})) == "interrupted, 1,166 of 5,000"


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (["/a/prompts.json"] * 2, "prompts.json"),
        (["/a/b/one.json", "/a/b/two.json"], "b/"),
        (["/one.json", "/two.json"], "/"),
    ],
)
def test_prompts_are_named_as_people_know_them(sources: list[str], name: str) -> None:
    assert prompts_of(*sources) == name


def test_title_has_prompts_and_name() -> None:
    record = RunRecord("", "prompts.json", 1, 1, "offline", "", "local", False, "", version=run_record.VERSION)
    assert (record.title, replace(record, name="x").title) == ("prompts.json", "prompts.json · x")
