"""The points of a sweep as a table: what tells them apart, and what became of each."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from src.errors import ExitCode
from src.reports.sweep_table import Point, rows_of, write_page, write_table
from src.run_folder import RunPaths
from src.runs.run_record import RunRecord, record_more
from src.worker.records import to_line
from tests.harness.rows import HOSTILE

RECORD = RunRecord("", "prompts.json", 3, 3, "vllm", "pixtral", "box", False, "2026-01-01T00:00:00+00:00", 1500)


@pytest.fixture
def points(tmp_path: Path) -> list[Point]:
    """One that ended, one that was planned, one that was refused."""
    codes = (ExitCode.INCOMPLETE, ExitCode.OK, ExitCode.INPUT)
    for n in (0, 1):
        (tmp_path / str(n)).mkdir()
        RunPaths(tmp_path / str(n)).record.write_text(to_line(RECORD))
    record_more(RunPaths(tmp_path / "0"), states={"upsampled": 2, "kept": 1}, tokens=2000, seconds=3.5, cost=0.25)
    RunPaths(tmp_path / "0").report.touch()
    overrides = [["task=upsample", f"upsample={name}"] for name in ("safe_320", "best_fit", HOSTILE)]
    return [Point(n, tmp_path / str(n), overrides[n], codes[n]) for n in range(3)]


def test_rows_differ_in_their_overrides(points: list[Point]) -> None:
    rows = rows_of(points)
    assert [row.overrides for row in rows[:2]] == [{"upsample": "safe_320"}, {"upsample": "best_fit"}]
    assert [row.words for row in rows] == ["complete, 3 of 3: 1 kept original", "planned, 0 of 3", "refused"]
    assert [(row.tokens, row.time) for row in rows] == [("2,000", "3.5 s"), ("1,500 planned", "–"), ("–", "–")]
    assert rows_of([]) == []


def test_table_has_a_column_per_override(points: list[Point], tmp_path: Path) -> None:
    write_table(rows_of(points), tmp_path / "sweep.csv")
    first, second, third = csv.DictReader((tmp_path / "sweep.csv").open(encoding="utf-8"))
    assert (first["upsample"], first["exit_code"], first["state"], first["kept"]) == ("safe_320", "3", "complete", "1")
    assert (first["tokens"], first["seconds"], first["cost"], second["cost"]) == ("2000", "3.5", "0.25", "")
    assert (third["state"], third["items"], third["upsample"]) == ("refused", "", HOSTILE)


def test_page_links_reports_and_escapes(points: list[Point], tmp_path: Path) -> None:
    write_page(rows_of(points), tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count('<a href="0/report.html">') == page.count("<a ") == 1
    assert HOSTILE not in page and "<script" not in page
