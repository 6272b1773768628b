"""A plan in short: problems first, then sizes; plan.csv for spreadsheets."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.reports.plan_summary import MAX_REASONS, Groups, as_json, lines_of, tabulated
from tests.conftest import Configure


def planned(configure: Configure, folder: Path, items: list[dict[str, Any]], *overrides: str) -> Plan:
    (folder / "prompts.json").write_text(json.dumps(items))
    config = configure(*overrides)
    config.prompts = str(folder / "prompts.json")
    return resolve(config)


def item(name: str, video: Path | str | None, prompt: str = "A boat.") -> dict[str, Any]:
    return {"name": name, "prompt": prompt, "video_path": str(video) if video else None}


@pytest.fixture
def plan(configure: Configure, clips: Path, tmp_path: Path) -> Plan:
    """Two clips of one size, one of another, two that are missing, two prompts that are too long."""
    long = [item(f"long{n}", clips / "wide.mp4", "word " * count) for n, count in ((1, 5000), (2, 6000))]
    shown = [
        item("one", clips / "wide.mp4"),
        item("two", clips / "wide.mp4", "=1+1"),
        item("three", clips / "square.mp4"),
    ]
    missing = [item("gone", "gone.mp4"), item("lost", "lost.mp4")]
    return planned(configure, tmp_path, [*shown, *missing, *long])


def groups_of(plan: Plan, folder: Path) -> Groups:
    return tabulated(plan, folder / "plan.csv")


def test_problems_come_first_with_reasons(plan: Plan, tmp_path: Path) -> None:
    lines = list(lines_of(plan, groups_of(plan, tmp_path)))
    assert lines[0] == "4 of 7 items cannot be upsampled and keep their original prompt:"
    assert lines[1].split("  ")[-2:] == ["there is no such file", "(gone: gone.mp4, and 1 more)"]
    assert "needs" in lines[2] and lines[2].endswith("(long1, and 1 more)")
    assert [line.split()[0] for line in lines[3:]] == ["2", "1"]
    assert "2  items with 2 x " in lines[3] and "of the budget" in lines[3]


def test_text_only_items_are_told_apart(configure: Configure, tmp_path: Path) -> None:
    plan = planned(configure, tmp_path, [item("gone", "gone.mp4")], "video.on_bad_video=text_only")
    lines = list(lines_of(plan, groups_of(plan, tmp_path)))
    assert lines[0] == "1 of 1 items are upsampled from their text only:"
    assert lines[-1].split()[:4] == ["1", "items", "with", "no"]


def test_unverified_items_are_marked(configure: Configure, clips: Path, tmp_path: Path) -> None:
    plan = planned(configure, tmp_path, [item("one", clips / "wide.mp4")], "model.family=unverified")
    groups_of(plan, tmp_path)
    [row] = csv.DictReader((tmp_path / "plan.csv").open(encoding="utf-8-sig"))
    assert row["verdict"] == "unverified"


def test_many_reasons_are_counted(configure: Configure, tmp_path: Path) -> None:
    files = []
    for n in range(MAX_REASONS + 2):
        files.append(tmp_path / f"{n}.mp4")
        files[-1].symlink_to("/dev/null" if n % 2 else tmp_path)
    plan = planned(configure, tmp_path, [item(str(n), file) for n, file in enumerate(files)])
    groups = groups_of(plan, tmp_path).not_served
    assert sum(group.items for group in groups) == MAX_REASONS + 2 and len(groups) <= 2


def test_table_lists_problems_first_and_inert(plan: Plan, tmp_path: Path) -> None:
    groups_of(plan, tmp_path)
    assert (tmp_path / "plan.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader((tmp_path / "plan.csv").open(encoding="utf-8-sig")))
    assert [row["name"] for row in rows] == ["gone", "lost", "long1", "long2", "one", "two", "three"]
    assert [row["verdict"] for row in rows] == ["not served"] * 4 + ["fits"] * 3
    assert {row["name"]: row["prompt"] for row in rows}["two"] == "'=1+1"
    assert all(int(row["prompt_tokens"]) > 0 for row in rows)


def test_json_has_counts_and_reasons(plan: Plan, tmp_path: Path) -> None:
    found = as_json(plan, groups_of(plan, tmp_path), {"command": "x"})
    json.dumps(found)
    assert (found["items"], found["fit"], found["command"]) == (7, 3, "x")
    assert [(p["items"], p["kept"]) for p in found["problems"]] == [(2, True), (2, True)]
    assert [size["items"] for size in found["sizes"]] == [2, 1]
