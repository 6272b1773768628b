"""The end of a sweep: one row per point, on the terminal, in sweep.csv and in index.html."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExitCode, InputError
from ..files import open_atomic
from ..run_folder import RunPaths
from ..runs.run_record import RunRecord, read_record
from ..runs.run_state import RunState, state_of
from ..text import cell, duration, printable
from ..worker.protocol import STATES

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a sweep that ended, well or not."""

    number: int
    folder: Path
    overrides: Sequence[str]
    code: ExitCode


@dataclass(frozen=True, slots=True)
class Row:
    """A point with what is known of its run. overrides: those that tell it from the others, as NAME: VALUE."""

    point: Point
    overrides: Mapping[str, str]
    record: RunRecord | None
    state: RunState | None

    @property
    def words(self) -> str:
        """How it stands, or why there is no run."""
        if self.state:
            return str(self.state)
        return "refused" if self.point.code is ExitCode.INPUT else "ended without a plan"

    @property
    def tokens(self) -> str:
        """Of prompts and answers as the engine counted them, else as planned."""
        if not self.record:
            return "–"
        return f"{self.record.tokens:,}" if self.record.tokens else f"{self.record.planned_tokens:,} planned"

    @property
    def time(self) -> str:
        return duration(self.record.seconds) if self.record and self.record.seconds else "–"

    @property
    def report(self) -> Path | None:
        report = RunPaths(self.point.folder).report
        return report if report.is_file() else None


def rows_of(points: Sequence[Point]) -> list[Row]:
    shared = set.intersection(*(set(point.overrides) for point in points)) if points else set()
    rows = []
    for point in points:
        own = dict(o.lstrip("+").partition("=")[::2] for o in point.overrides if o not in shared)
        try:
            record = read_record(RunPaths(point.folder))
            rows.append(Row(point, own, record, state_of(RunPaths(point.folder), record)))
        except InputError:
            rows.append(Row(point, own, None, None))
    return rows


def print_rows(rows: Sequence[Row], folder: Path, out: Console) -> None:
    """The table; reports are named as from the folder of the sweep."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["point", "overrides", "code", "state", "tokens", "time", "report"]
    if out.width < 100:
        columns.remove("tokens")
    for name in columns:
        numbers = name in ("code", "tokens", "time")
        table.add_column(name, overflow="fold", no_wrap=name != "overrides", justify="right" if numbers else "left")
    for row in rows:
        cells = (
            str(row.point.number),
            " ".join("=".join(pair) for pair in row.overrides.items()),
            str(int(row.point.code)),
            row.words,
            *((row.tokens,) if "tokens" in columns else ()),
            row.time,
            os.path.relpath(row.report, folder) if row.report else "–",
        )
        table.add_row(*(Text(printable(text)) for text in cells))
    out.print(table)


def write_table(rows: Sequence[Row], file: Path) -> None:
    """sweep.csv: a column for each override that differs."""
    names = list(dict.fromkeys(name for row in rows for name in row.overrides))
    with open_atomic(file) as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(
            ["point", *names, "exit_code", "state", *STATES, "items", "tokens", "seconds", "cost", "folder"]
        )
        for row in rows:
            record, states = row.record, row.state.states if row.state else {}
            known = (record.items, record.tokens, record.seconds, record.cost) if record else ("",) * 4
            values = [
                *(row.point.number, *(row.overrides.get(name, "") for name in names)),
                *(int(row.point.code), row.state.word if row.state else row.words),
                *(states.get(state, 0) for state in STATES),
                *("" if value is None else value for value in known),
                str(row.point.folder),
            ]
            writer.writerow(map(cell, values))


def write_page(rows: Sequence[Row], file: Path) -> None:
    """index.html: the table, with links to the reports."""
    from .pages import page_template

    page = page_template("sweep.html.j2").generate(
        folder=str(file.parent),
        thumbnail_px=0,
        rows=rows,
        link=lambda row: os.path.relpath(row.report, file.parent) if row.report else None,
    )
    with open_atomic(file, errors="replace") as f:
        f.writelines(page)
