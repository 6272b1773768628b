"""The report of a run, and of runs compared: HTML pages that open from disk, stand alone and load nothing.

A page contains its data as JSON, which its template draws, and thumbnails of the frames, each once; it is written as a
stream.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import open_atomic, safe_name
from ..timing.run_facts import Bar, WindowLine
from ..worker.protocol import STATES
from .compare import Compared, ordinal
from .compare import page_item as compared_item
from .pages import page_template
from .reviews import ACCEPTED, EDITED, REJECTED
from .rows import FLAGS, frame_files

COMMAND = "command"  # label, in any case, of the fact that gets a box to copy from
MAX_WIDTH_PX, MIN_WIDTH_PX = 360, 64
FULL_WIDTH_FRAMES = 1000  # as many thumbnails of full width take 8 MB (drawn clips) to 18 MB (busy ones) as base64

# What a card has of a row unchanged; `page_item` adds the texts and the frames.
_KEYS = ["id", "name", "state", "reason", "note", "attempts", "engine", "tokens", "finish_reason", "seconds"]
_KEYS += ["source", "hint", "shrunk_from"]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page.

    facts: (label, value) pairs about the run; the one labeled COMMAND gets a box to copy from.
    rows: rows of results.json in input order, gone through twice, each with `source`, `hint` (as in plan.json, or None) and
    `frame_files` (absolute PNG paths in order; a file that is missing or damaged leads to a placeholder).
    timelines: the phases of each start of the run. windows: requests in flight over the time of each worker.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    max_model_len: int
    max_output_tokens: int
    rows: Iterable[Mapping[str, Any]]
    timelines: tuple[tuple[Bar, ...], ...] = ()
    windows: tuple[tuple[WindowLine, ...], ...] = ()


def write_report(report: Report, out: Path) -> None:
    """Write the page aside, then rename it to `out`; creates the folder. Same report and frames: same bytes."""
    states, flags, files, offline = Counter[str](), Counter[str](), dict[str, None](), False
    for row in report.rows:
        states[row["state"]] += 1
        flags.update(_flags(row))
        files.update(dict.fromkeys(row["frame_files"]))
        offline = offline or row["engine"] == "offline"
    number_of, pictures = distinct_frames(files)
    width_px = thumbnail_width(len(pictures))
    page = page_template("report.html.j2").generate(
        title=report.title,
        facts=[fact for fact in report.facts if fact[0].casefold() != COMMAND],
        commands=[value for label, value in report.facts if label.casefold() == COMMAND],
        counts=[(state, states[state]) for state in STATES],
        flags=[(flag, flags[flag]) for flag in (*FLAGS, ACCEPTED, EDITED, REJECTED) if flags[flag]],
        timelines=report.timelines,
        windows=report.windows,
        offline=offline,
        thumbnail_px=width_px,
        budget={"max_model_len": report.max_model_len, "max_output_tokens": report.max_output_tokens},
        items=(page_item(row, [number_of[file] for file in row["frame_files"]]) for row in report.rows),
        frames=thumbnails(pictures, width_px),
    )
    with open_atomic(out, errors="replace") as f:  # half a surrogate pair in a text must not prevent the report
        f.writelines(page)


def write_comparison(sides: Sequence[Mapping[str, str]], items: Sequence[Compared], out: Path) -> None:
    """Write the page of runs side by side; `sides` are `compare.facts` of each, with its folder as `run`."""
    files = [
        [frame_files(Path(side["run"]), row) for side, row in zip(sides, item.rows, strict=True)] for item in items
    ]
    number_of, pictures = distinct_frames(file for item in files for side in item for file in side)
    width_px = thumbnail_width(len(pictures))
    numbers = ([[number_of[file] for file in side] for side in item] for item in files)
    page = page_template("compare.html.j2").generate(
        facts=[(label, [side[label] for side in sides]) for label in sides[0]],
        runs=[f"{side['run']} · {side['target' if _differ(sides, 'target') else 'recipe']}" for side in sides],
        names=[ordinal(n) for n in range(len(sides))],
        count=len(items),
        differ=sum(item.differs for item in items),
        states_differ=sum(item.states_differ for item in items),
        thumbnail_px=width_px,
        items=(compared_item(item, frames) for item, frames in zip(items, numbers, strict=True)),
        frames=thumbnails(pictures, width_px),
    )
    with open_atomic(out, errors="replace") as f:
        f.writelines(page)


def _differ(sides: Sequence[Mapping[str, str]], label: str) -> bool:
    return len({side.get(label) for side in sides}) > 1


def distinct_frames(files: Iterable[str]) -> tuple[dict[str, int | None], list[str]]:
    """The number of the picture in each file, by content (None: cannot be read), and one file for each picture."""
    number_of: dict[str, int | None] = {}
    by_content: dict[bytes, int] = {}
    pictures: list[str] = []
    for file in dict.fromkeys(files):
        try:
            content = hashlib.sha256(Path(file).read_bytes()).digest()
        except OSError:
            number_of[file] = None
            continue
        number_of[file] = by_content.setdefault(content, len(pictures))
        if number_of[file] == len(pictures):
            pictures.append(file)
    return number_of, pictures


def thumbnail_width(distinct_frames: int) -> int:
    """Width in pixels that keeps all thumbnails within about 18 MB; from 10,000 frames on it is the smallest that is useful.

    The exponent is measured: a WebP grows as width ** 1.33, since small pictures have more detail per pixel.
    """
    width_px = int(MAX_WIDTH_PX * (FULL_WIDTH_FRAMES / max(1, distinct_frames)) ** 0.75)
    return max(MIN_WIDTH_PX, min(MAX_WIDTH_PX, width_px))


def thumbnails(files: Sequence[str], width_px: int) -> Iterator[str | None]:
    """Base64 WebP of each file in order, at most `width_px` wide and high; None where it is not a readable picture."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the interpreter lock while it encodes
        yield from pool.map(lambda file: _thumbnail(file, width_px), files)


def _thumbnail(file: str, width_px: int) -> str | None:
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
        picture.thumbnail((width_px, width_px), Image.Resampling.LANCZOS)
        picture.save(buffer, "WEBP", quality=75)
    except Exception:  # whatever Pillow raises for a damaged file: the page has a placeholder for it
        return None
    return base64.b64encode(buffer.getvalue()).decode()


def _flags(row: Mapping[str, Any]) -> list[str]:
    """The flags of a row, the review verdict included."""
    return [*row["flags"], *([row["review"]["verdict"]] if row.get("review") else [])]


def page_item(row: Mapping[str, Any], frames: Sequence[int | None]) -> dict[str, Any]:
    """What the page needs of a row. `quoted`: `after` is only what was added after the original prompt."""
    before, after = row["original_prompt"], row["upsampled_prompt"]
    quoted = bool(before) and after is not None and after.startswith(before)
    texts = {"before": before, "after": after[len(before) :] if quoted else after, "quoted": quoted}
    return {
        "slug": safe_name(row["name"]),
        **{key: row[key] for key in _KEYS},
        **texts,
        "frames": frames,
        "flags": _flags(row),
        "answer": (row.get("review") or {}).get("answer"),
    }
