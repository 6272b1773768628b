"""`task=runs`: the runs in outputs/, the newest first. Reads what lies on this machine; no host is asked."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import ExitCode, InputError
from ..run_folder import LATEST, OUTPUTS, RunPaths, run_folders
from ..runs.run_record import read_record
from ..runs.run_state import state_of
from ..text import age, printable
from . import Invocation

MAX_ROWS = 40


def run(invocation: Invocation) -> ExitCode:
    found = run_folders()
    shown = found if invocation.wants_json else found[:MAX_ROWS]
    rows = [_facts(folder) for folder in shown]
    if invocation.wants_json:
        invocation.print_json(rows)
        return ExitCode.OK
    if not rows:
        invocation.print(f"no runs in {OUTPUTS}/ yet")
        return ExitCode.OK
    _print(rows, invocation)
    if len(found) > len(rows):
        invocation.print(f"… and {len(found) - len(rows)} older runs; console.format=json lists all")
    invocation.print(f"in {OUTPUTS}/; run= and resume= take these, {LATEST} or a name")
    if any(row["state"] == "detached" for row in rows):
        invocation.print("detached: its host was not asked; task=status run=… does")
    return ExitCode.OK


def _facts(folder: Path) -> dict[str, Any]:
    """What is known of a run: a row of the table, an object of the JSON."""
    paths = RunPaths(folder)
    try:
        record = read_record(paths)
        state = state_of(paths, record)
    except InputError as e:
        return {"run": str(folder), "state": "damaged", "reason": e.message}
    return {
        "run": str(folder),
        "name": record.name,
        "state": state.word,
        "done": state.done,
        "total": state.total,
        "states": dict(state.states),
        **{key: getattr(record, key) for key in ("prompts", "engine", "model", "host", "created", "seconds", "cost")},
    }


def _print(rows: list[dict[str, Any]], invocation: Invocation) -> None:
    from rich.table import Table
    from rich.text import Text

    table, now = Table(box=None, pad_edge=False, header_style="bold"), datetime.now().astimezone()
    width = invocation.out.width
    least = {"age": 70, "prompts": 70, "engine": 100, "cost": 100}  # width that a column needs
    columns = ("run", "state", "items", "age", "prompts", "engine", "cost")
    has_cost = any(row.get("cost") for row in rows)
    shown = [c for c in columns if width >= least.get(c, 0) and (c != "cost" or has_cost)]
    for name in shown:
        kept, right = name in ("run", "state", "items", "age"), name in ("items", "age", "cost")
        table.add_column(name, no_wrap=kept, overflow="ellipsis", min_width=8, justify="right" if right else "left")
    for row in rows:
        if row["state"] == "damaged":
            table.add_row(printable(os.path.relpath(row["run"], OUTPUTS)), Text("damaged", style="red"))
            continue
        others = [f"{row['states'][s]:,} {s}" for s in ("failed", "kept") if row["states"].get(s)]
        cells = (
            os.path.relpath(row["run"], OUTPUTS),
            ", ".join((row["state"], *others)),
            f"{row['done']:,} of {row['total']:,}",
            age((now - datetime.fromisoformat(row["created"])).total_seconds()),
            " · ".join(filter(None, (row["prompts"], row["name"]))),
            " ".join(filter(None, (row["engine"], row["model"]))),
            "–" if row["cost"] is None else f"{row['cost']:.2f}",
        )
        table.add_row(*(Text(printable(cell)) for name, cell in zip(columns, cells, strict=True) if name in shown))
    invocation.out.print(table)
