"""Finished runs side by side: the items that all of them have, and the results of each."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from ..errors import InputError
from ..planning.plan_file import read_plan
from ..planning.settings import Settings
from ..run_folder import RunPaths
from ..text import cell
from ..worker.protocol import STATES
from .rows import Row, read_rows


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that ended: its folder, what its items shared, and the rows of its results.json."""

    folder: str
    settings: Settings
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One item in all runs: the same name, prompt and video, or the same name with pair_by=name."""

    rows: tuple[Row, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs differ in state or text."""
        return len({(row["state"], row["upsampled_prompt"]) for row in self.rows}) > 1

    @property
    def states_differ(self) -> bool:
        return len({row["state"] for row in self.rows}) > 1


def ordinal(n: int) -> str:
    """What a run is called, by its place among those that are compared."""
    return ("First", "Second", "Third", "Fourth")[n] if n < 4 else f"Run {n + 1}"


def read_run(folder: str) -> Finished:
    """A finished run; InputError for any other folder."""
    paths = RunPaths(Path(folder))
    if not paths.plan.is_file():
        raise InputError(f"runs: {folder} has no plan.json", hint="name the folder that a run printed at its end")
    return Finished(folder, read_plan(paths.plan).settings, tuple(rows_of_run(folder)))


def rows_of_run(folder: str) -> Sequence[Row]:
    """The rows of a finished run; InputError for any other folder."""
    file = RunPaths(Path(folder)).results
    try:
        return read_rows(file)
    except FileNotFoundError:
        raise InputError(
            f"{folder} has no results.json: it was only planned, or has not finished",
            hint=f"finish it with resume={folder}",
        ) from None


def common_items(runs: Sequence[Finished], *, by_name: bool = False) -> tuple[Compared, ...]:
    """The items that all runs have, in the order of the first; InputError when there is none."""
    key = (lambda row: row["name"]) if by_name else _input_of
    others = [{key(row): row for row in run.rows} for run in runs[1:]]
    found = tuple(
        Compared((row, *(rows[key(row)] for rows in others)))
        for row in runs[0].rows
        if all(key(row) in rows for rows in others)
    )
    if not found:
        raise InputError(
            f"runs: {' and '.join(run.folder for run in runs)} share no item",
            hint="runs are compared by the names of their items"
            if by_name
            else "runs are compared by name, prompt and video of their items; pair_by=name compares by name alone",
        )
    return found


def _input_of(row: Row) -> tuple[Any, ...]:
    return row["name"], row["original_prompt"], row["video_path"]


def facts(run: Finished, rows: Sequence[Row]) -> dict[str, str]:
    """What is known of a run and its compared items; – where nothing was measured."""
    settings, states = run.settings, Counter(row["state"] for row in rows)
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    measured = [row["tokens"]["measured"] for row in rows if row["tokens"]["measured"] is not None]
    output = [row["tokens"]["output"] for row in rows if row["tokens"]["output"] is not None]
    return {
        "run": run.folder,
        "recipe": settings.recipe,
        "engine": settings.engine.name,
        "model": settings.model.name if settings.engine.name != "offline" else "none",
        "budget": f"{settings.max_model_len} tokens, {settings.max_output_tokens} reserved",
        "target": settings.target.name,
        "template": settings.template,
        "temperature": f"{settings.temperature:g}",
        "seed": str(settings.seed),
        **{state: str(states[state]) for state in STATES},
        "prompt tokens, planned": f"{mean(row['tokens']['predicted'] for row in rows):.0f} on average",
        "prompt tokens, measured": f"{mean(measured):.0f} on average" if measured else "–",
        "answer tokens": f"{mean(output):.0f} on average" if output else "–",
        "seconds per answer": f"{median(seconds):.3g}, the median" if seconds else "–",
    }


_SHOWN = ("state", "reason", "tokens", "seconds", "engine", "flags")  # of a row, on the page


def page_item(item: Compared, frames: Sequence[Sequence[int | None]]) -> dict[str, Any]:
    """What the page needs of an item. frames: of each run, the numbers of its pictures."""
    sides = [
        {
            "text": row["upsampled_prompt"],
            **{name: value for name, value in row.items() if name in _SHOWN},
            "review": _verdict(row),
            "frames": numbers,
            "size": row["frames"][0]["size"] if numbers else None,
        }
        for row, numbers in zip(item.rows, frames, strict=True)
    ]
    return {
        "name": item.rows[0]["name"],
        "before": item.rows[0]["original_prompt"],
        "differs": item.differs,
        "sides": sides,
    }


def _verdict(row: Row) -> str:
    review = row.get("review")
    return review["verdict"] if review else ""


def as_csv(items: Sequence[Compared]) -> str:
    """One line per item, for a spreadsheet; _1, _2 and so on are the runs."""
    out = io.StringIO()
    kinds = ("state", "reason", "predicted", "measured", "output", "seconds", "words", "flags", "review")
    numbers = range(1, len(items[0].rows) + 1)
    columns = ["name", "differs", *(f"{kind}_{n}" for kind in kinds for n in numbers), "video_path"]
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for item in items:
        line: dict[str, object] = {
            "name": item.rows[0]["name"],
            "differs": "yes" if item.differs else "no",
            "video_path": item.rows[0]["video_path"],
        }
        for n, row in enumerate(item.rows, start=1):
            more = {"words": len((row["upsampled_prompt"] or "").split()), "flags": ", ".join(row["flags"])}
            values: dict[str, object] = {**row, **row["tokens"], **more, "review": _verdict(row)}
            line |= {f"{kind}_{n}": values[kind] for kind in kinds}
        writer.writerow({column: cell(value) for column, value in line.items()})
    return out.getvalue()
