"""Two runs compared: which items are paired, and the facts, table and page of the pairs. How it behaves: tests/e2e."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from src.errors import InputError
from src.planning.plan import Plan
from src.planning.plan_file import write_plan
from src.planning.resolve import resolve
from src.reports.compare import Compared, Finished, as_csv, common_items, facts, read_run
from src.reports.report import write_comparison
from src.reports.rows import Row
from src.run_folder import RunPaths
from tests.conftest import Configure
from tests.harness.pages import Page
from tests.harness.rows import HOSTILE, compared_pairs, kept_row, row, two_runs


@pytest.fixture
def plan(tmp_path: Path, configure: Configure) -> Plan:
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "A boat."}]')
    config = configure()
    config.prompts = str(tmp_path / "prompts.json")
    return resolve(config)


def run_of(plan: Plan, *rows: Row, folder: str = "outputs/a") -> Finished:
    return Finished(folder, plan.settings, rows)


def test_pairs_share_name_prompt_and_video(plan: Plan) -> None:
    first = run_of(plan, row("a"), row("b"), row("c"), row("d"))
    second = run_of(
        plan, row("d"), row("a"), row("b", original_prompt="another"), row("c", video_path="other.mp4"), folder="b"
    )
    assert [item.rows[0]["name"] for item in common_items([first, second])] == ["a", "d"]


def test_items_may_be_paired_by_name_alone(plan: Plan) -> None:
    first = run_of(plan, row("a"), row("b"))
    second = run_of(plan, row("b", original_prompt="another"), row("a", video_path="other.mp4"), folder="b")
    assert [item.rows[0]["name"] for item in common_items([first, second], by_name=True)] == ["a", "b"]


@pytest.mark.parametrize(("by_name", "advice"), [(False, "pair_by=name"), (True, "compared by the names")])
def test_runs_without_common_items_are_rejected(plan: Plan, by_name: bool, advice: str) -> None:
    with pytest.raises(InputError, match="share no item") as caught:
        common_items([run_of(plan, row("a")), run_of(plan, row("b"))], by_name=by_name)
    assert advice in caught.value.hint


def test_pair_differs_by_text_or_state_only() -> None:
    assert not Compared((row(), row(seconds=9.0, engine="other"))).differs
    assert Compared((row(), row(upsampled_prompt="another"))).differs
    assert Compared((row(), kept_row("harbor"))).differs


def test_unfinished_run_is_rejected_with_advice(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no plan\.json"):
        read_run(str(tmp_path / "nowhere"))
    with open(tmp_path / "plan.json", "w") as f:
        write_plan(plan, f)
    with pytest.raises(InputError, match="has not finished") as e:
        read_run(str(tmp_path))
    assert f"resume={tmp_path}" in e.value.hint


def test_damaged_results_are_rejected(plan: Plan, tmp_path: Path) -> None:
    with open(tmp_path / "plan.json", "w") as f:
        write_plan(plan, f)
    RunPaths(tmp_path).results.write_text("[{")
    with pytest.raises(InputError, match="cannot be read"):
        read_run(str(tmp_path))
    RunPaths(tmp_path).results.write_text(json.dumps([row()]))
    assert read_run(str(tmp_path)).rows == (row(),)


def test_facts_have_only_measured_values(plan: Plan) -> None:
    tokens = {**row()["tokens"], "measured": None, "output": None}
    found = facts(run_of(plan), [row(tokens=tokens, seconds=None), kept_row("b", tokens=tokens, seconds=None)])
    assert (found["upsampled"], found["kept"], found["failed"]) == ("1", "1", "0")
    assert found["prompt tokens, measured"] == found["answer tokens"] == found["seconds per answer"] == "–"
    assert found["prompt tokens, planned"] == "509 on average"


def test_table_has_one_line_per_pair() -> None:
    text = as_csv([Compared((row("a"), kept_row("a", seconds=None))), Compared((row("b, c"), row("b, c")))])
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["name"], line["differs"]) for line in lines] == [("a", "yes"), ("b, c", "no")]
    assert (lines[0]["state_1"], lines[0]["state_2"], lines[0]["seconds_2"]) == ("upsampled", "kept", "")
    assert lines[0]["words_2"] == "0"


def test_any_number_of_runs_is_compared(plan: Plan, tmp_path: Path) -> None:
    verdict = {"verdict": "accepted", "at": "2026-01-01"}
    runs = [
        run_of(plan, row("a"), row("b"), folder="outputs/a"),
        run_of(plan, row("b"), row("a", upsampled_prompt="another", flags=["too_long"]), folder="outputs/b"),
        run_of(plan, row("a", review=verdict), folder="outputs/c"),
    ]
    (item,) = items = common_items(runs)
    assert item.differs and not item.states_differ
    line = next(csv.DictReader(io.StringIO(as_csv(items))))
    assert (line["flags_2"], line["review_3"], line["seconds_1"]) == ("too_long", "accepted", "3.25")
    write_comparison([facts(run, [row]) for run, row in zip(runs, item.rows, strict=True)], items, tmp_path / "c.html")
    page = Page(tmp_path / "c.html")
    assert page.json("names") == ["First", "Second", "Third"] and len(page.json("items")[0]["sides"]) == 3


def test_hostile_text_is_only_data(tmp_path: Path) -> None:
    write_comparison(({"run": HOSTILE, "recipe": HOSTILE},) * 2, compared_pairs(), tmp_path / "compare.html")
    page = Page(tmp_path / "compare.html")
    assert [tag for tag, _ in page.tags if tag in ("script", "img")] == [
        "script"
    ] * 5  # runs, names, items, frames, the code
    assert page.json("items")[3]["name"] == HOSTILE


def test_common_pictures_are_embedded_once(tmp_path: Path) -> None:
    write_comparison(*two_runs(tmp_path), tmp_path / "compare.html")
    page = Page(tmp_path / "compare.html")
    sides = [[side["frames"] for side in item["sides"]] for item in page.json("items")]
    assert sides == [[[0], [0]], [[1], [2, 0]], [[None], []]]
    assert len(page.json("frames")) == 3
    assert str(tmp_path) not in json.dumps(page.json("items"))
