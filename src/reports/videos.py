"""videos.html: what inference made, beside what it was made from; of several runs, side by side."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import InputError
from ..files import write_atomic
from ..run_folder import RunPaths
from ..text import cell
from ..worker.records import parsed
from .compare import ordinal
from .pages import page_template


@dataclass(frozen=True, slots=True)
class Shown:
    """A video on the page: its label, and its address from there."""

    label: str
    src: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The best video of an item, by a reviewer. run: the folder that it is of; sha256: of the video."""

    name: str
    run: str
    sha256: str
    at: str = ""


def read_videos(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's inference.json. Raises InputError where it is not there, or is none."""
    file = RunPaths(run).inference_results
    try:
        rows = parsed(file.read_bytes())
        return [dict(row) for row in rows if isinstance(row["name"], str)]
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise InputError(f"{file}: cannot be read ({type(e).__name__}: {e})") from None


def check_choices(choices: Sequence[Choice], runs: Sequence[Path]) -> dict[str, int]:
    """The run that each chosen video is of, by its place, by the item's name. Raises InputError for all that cannot be."""
    tables = [{row["name"]: row for row in read_videos(run)} for run in runs]
    places, best, wrong = {run.resolve(): n for n, run in enumerate(runs)}, dict[str, int](), []
    for choice in choices:
        n = places.get(Path(choice.run).resolve())
        row = tables[n].get(choice.name) if n is not None else None
        if choice.name in best:
            wrong.append(f"{choice.name}: has two choices")
        elif n is None:
            wrong.append(f"{choice.name}: {choice.run} is not among the runs that are compared")
        elif not row or not row.get("video"):
            wrong.append(f"{choice.name}: {choice.run} has no video of it")
        elif row.get("sha256") != choice.sha256:
            wrong.append(f"{choice.name}: the choice is about another video than {choice.run} has now")
        else:
            best[choice.name] = n
    if wrong:
        raise InputError("choices: nothing was taken:\n" + "\n".join(f"  - {w}" for w in wrong))
    return best


def write_videos(runs: Sequence[Path], page: Path, best: Mapping[str, int] | None = None) -> None:
    """One row for each item of the first run: the clip, the video of each run, and the control videos.

    best: which run has the best video of an item, by its place. Of several runs, the same as a table beside the page.
    """
    tables = [{row["name"]: row for row in read_videos(run)} for run in runs]
    items = []
    for name, first in tables[0].items():
        sides = [
            (n, run, table[name]) for n, (run, table) in enumerate(zip(runs, tables, strict=True)) if name in table
        ]
        clip = first.get("clip")
        videos = [Shown("clip", _seen_from(page, Path(clip)))] if clip and Path(clip).is_file() else []
        controls = []
        for n, run, row in sides:
            whose = f" {n + 1}" if len(runs) > 1 else ""
            files = row.get("controls", {}).items()
            controls += [Shown(f"{control}{whose}", _seen_from(page, run / file)) for control, file in files]
            videos += [Shown(f"video{whose}", _seen_from(page, run / row["video"]))] if row.get("video") else []
        chosen = (best or {}).get(name)
        items.append({"name": name, "videos": [*videos, *controls], "sides": [_side(*side, chosen) for side in sides]})
    html = page_template("videos.html.j2").render(items=items, runs=[str(run) for run in runs], thumbnail_px=320)
    write_atomic(page, html)
    if len(runs) > 1:
        write_atomic(page.with_suffix(".csv"), _as_csv(tables, best or {}))


def _side(n: int, run: Path, row: Mapping[str, Any], best: int | None) -> dict[str, Any]:
    choice = json.dumps({"name": row["name"], "run": str(run), "sha256": row.get("sha256")}) if row.get("video") else ""
    return {"run": f"{ordinal(n)} · {run}", "row": row, "asked": _asked(row), "choice": choice, "best": n == best}


def _asked(row: Mapping[str, Any]) -> str:
    """Controls with their fields, seed and other keys of a video; "" in a run of an earlier version."""
    asked = dict(row.get("asked", {}))
    controls = asked.pop("controls", {})
    words = [_words(name, fields) for name, fields in controls.items()]
    return " · ".join([*words, _words("", {"seed": "the engine's", **asked})]) if asked else ""


def _words(name: str, fields: Mapping[str, Any]) -> str:
    texts = (f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in fields.items())
    return " ".join(filter(None, (name, ", ".join(texts))))


def _as_csv(tables: Sequence[Mapping[str, Mapping[str, Any]]], best: Mapping[str, int]) -> str:
    """One line per item, for a spreadsheet; best: the number of the run with the best video; _1, _2 and so on are the runs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = ("state", "asked", "prompt", "video")
    writer.writerow(["name", "best", *(f"{kind}_{n}" for kind in kinds for n in range(1, len(tables) + 1))])
    for name in tables[0]:
        rows = [table.get(name, {}) for table in tables]
        values = [_asked(row) if kind == "asked" else row.get(kind) for kind in kinds for row in rows]
        writer.writerow([cell(value) for value in (name, best[name] + 1 if name in best else None, *values)])
    return out.getvalue()


def _seen_from(page: Path, file: Path) -> str:
    return quote(os.path.relpath(file, page.parent))
