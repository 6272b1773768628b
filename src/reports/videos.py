"""videos.html: what inference made, beside what it was made from; of several runs, side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import InputError
from ..files import write_atomic
from ..run_folder import RunPaths
from .pages import page_template


@dataclass(frozen=True, slots=True)
class Shown:
    """A video on the page: its label, and its address from there."""

    label: str
    src: str


def read_videos(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's inference.json. Raises InputError where it is not there, or is none."""
    file = RunPaths(run).inference_results
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return [dict(row) for row in rows if isinstance(row["name"], str)]
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise InputError(f"{file}: cannot be read ({type(e).__name__}: {e})") from None


def write_videos(runs: Sequence[Path], page: Path) -> None:
    """One row for each item of the first run: the clip, then the control videos and the video of each run."""
    tables = [{row["name"]: row for row in read_videos(run)} for run in runs]
    items = []
    for name, first in tables[0].items():
        sides = [(run, table[name]) for run, table in zip(runs, tables, strict=True) if name in table]
        clip = first.get("clip")
        videos = [Shown("clip", _seen_from(page, Path(clip)))] if clip and Path(clip).is_file() else []
        for n, (run, row) in enumerate(sides):
            whose = f" {n + 1}" if len(runs) > 1 else ""
            files = {f"{control}{whose}": file for control, file in row.get("controls", {}).items()}
            files |= {f"video{whose}": row["video"]} if row.get("video") else {}
            videos += [Shown(label, _seen_from(page, run / file)) for label, file in files.items()]
        items.append({"name": name, "sides": [row for _, row in sides], "videos": videos})
    html = page_template("videos.html.j2").render(items=items, runs=[str(run) for run in runs], thumbnail_px=320)
    write_atomic(page, html)


def _seen_from(page: Path, file: Path) -> str:
    return quote(os.path.relpath(file, page.parent))
