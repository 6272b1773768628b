"""Rows of results.json with plausible values, pictures for their frames, and hostile text to put into them."""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageDraw

from src.reports.compare import Compared
from src.reports.report import Report
from src.reports.rows import ReportRow, Row
from src.reports.totals import Totals

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!--<script>window.hacked=2</script> {{ 7*7 }} \u2028 \'"&amp;'


def row(name: str = "harbor", **changes: Any) -> ReportRow:
    """The row of an upsampled item as the report shows it; `changes` replace its values."""
    prompt = changes.get("original_prompt", "boats in a harbor at sunset")
    plain: dict[str, Any] = {
        "id": "458e66b2d1bd9206", "name": name, "original_prompt": prompt,
        "upsampled_prompt": f"{prompt}. A slow tide lifts the hulls.\n\nThe last light is low and golden on the water.",
        "video_path": "clips/harbor.mp4", "preprocessed_video": None, "state": "upsampled", "reason": "", "note": "",
        "attempts": 1, "engine": "vllm",
        "tokens": {
            "predicted": 509, "measured": 509, "output": 120, "image": 494, "text": 12, "output_reserved": 300,
            "linear_estimate": 1992,
        },
        "finish_reason": "stop", "seconds": 3.25, "frames": [], "shrunk_from": None, "flags": [],
        "source": {"width_px": 3840, "height_px": 2160, "fps": 24, "frames": 72, "duration_s": 3.0, "codec": "h264"},
        "hint": {"width_px": 320, "height_px": 180, "frames": 2, "times_s": [0.208, 0.708], "rule": "head", "fps": 2.0},
        "frame_files": [],
    }  # fmt: skip
    return cast(ReportRow, plain | changes)


def kept_row(name: str, **changes: Any) -> ReportRow:
    """The row of an item whose original prompt is kept."""
    return row(name, **{"upsampled_prompt": None, "state": "kept", "reason": "there is no such file", **changes})


def report_of(*rows: ReportRow, **changes: Any) -> Report:
    """A report over these rows; `changes` replace its other values."""
    facts = (("Recipe", "safe_320"), ("Engine", "vllm"), ("Command", "python -m src.run upsample=safe_320"))
    totals = Totals()
    for one in rows:
        totals.add(one)
    return replace(Report("safe_320 · vllm", facts, 4096, 300, totals, rows), **changes)


def table_row(number: int, **changes: Any) -> Row:
    """A row with every field of results.json, in values that tables are likely to change."""
    counts = dict.fromkeys(("predicted", "output", "image", "text", "output_reserved", "linear_estimate"), number)
    frame = {"sha256": "ab", "bytes": 5, "size": "16x16", "file": None}
    plain: dict[str, Any] = {
        "id": f"{number:016x}", "name": f"n{number} 雨", "original_prompt": "",
        "upsampled_prompt": "line\nline \u2028 \0 🚗", "video_path": None, "preprocessed_video": None,
        "state": "upsampled", "reason": "", "note": "", "attempts": 1, "engine": "offline",
        "tokens": {**counts, "measured": None}, "finish_reason": "stop", "seconds": 0.5, "frames": [frame, frame],
        "shrunk_from": None, "flags": ["cut off"],
        "review": {"verdict": "edited", "at": "2026-01-01", "answer": "x"},
    }  # fmt: skip
    return cast(Row, plain | changes)


def picture(path: Path, *, hue: float = 0.08, size: tuple[int, int] = (320, 180), sun: float = 0.5) -> str:
    """Draw a sunset as PNG; hue and sun (0 to 1, left to right) make pictures different."""
    width, height = size
    band = Image.new("RGB", (1, height))
    for line in range(height):
        share = line / height
        color = colorsys.hsv_to_rgb((hue - 0.12 * (1 - share)) % 1, 0.35 + 0.4 * share, 0.95 - 0.55 * share)
        band.putpixel((0, line), tuple(round(255 * part) for part in color))
    image = band.resize(size)
    x, y, r = sun * width, 0.55 * height, 0.14 * min(size)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill="#fff3d6")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return str(path)


# Two runs compared

Sides = tuple[dict[str, str], dict[str, str]]
SIDES: Sides = ({"run": "outputs/a", "recipe": "safe_320"}, {"run": "outputs/b", "recipe": "best_fit"})


def compared_pairs() -> list[Compared]:
    """An item that ended alike in both runs, one with other words, one with another state, and one of hostile text."""
    return [
        Compared((row("same"), row("same"))),
        Compared((row("other", upsampled_prompt="A gray boat."), row("other", upsampled_prompt="A big gray ship."))),
        Compared((row("state"), kept_row("state"))),
        Compared((row(HOSTILE, original_prompt=HOSTILE), row(HOSTILE, upsampled_prompt=HOSTILE))),
    ]


def two_runs(folder: Path) -> tuple[Sides, list[Compared]]:
    """Two runs with frames: an item with equal frames in both, one with different frames, and one whose frame is gone."""

    def frames(size: str, *names: str) -> dict[str, Any]:
        return {"frames": [{"sha256": "ab", "bytes": 5, "size": size, "file": f"hints/{name}.png"} for name in names]}

    for run, name, sun in (("a", "same", 0.5), ("b", "same", 0.5), ("a", "own", 0.2), ("b", "own", 0.8)):
        picture(folder / run / "hints" / f"{name}.png", sun=sun)
    pairs = [
        Compared((row("same", **frames("320x180", "same")), row("same", **frames("320x180", "same")))),
        Compared((row("own", **frames("320x180", "own")), row("own", **frames("910x512", "own", "same")))),
        Compared((row("gone", **frames("320x180", "gone")), kept_row("gone"))),
    ]
    return ({"run": str(folder / "a"), "recipe": "x"}, {"run": str(folder / "b"), "recipe": "y"}), pairs


def made_videos(root: Path, clip: Path, *names: str) -> Path:
    """A run folder with a video, and a control video, for each of these items."""
    rows: list[dict[str, Any]] = []
    for n, name in enumerate(names):
        files = {"video": f"videos/{n}, 雨.mp4", "edge": f"controls/{n}/edge.mp4"}
        for file in files.values():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        rows.append(
            {"name": name, "state": "done", "reason": "", "prompt": f"A <b>boat</b> {n}, {root.name}", "clip": str(clip),
             "video": files["video"], "controls": {"edge": files["edge"]}, "sha256": f"{root.name} {n}",
             "asked": {"engine": "transfer1", "controls": {"edge": {"control_weight": 0.5}}, "seed": 7}}
        )  # fmt: skip
    rows.append(
        {"name": "none", "state": "failed", "reason": "blocked <i>", "prompt": "x", "clip": None, "video": None}
    )
    (root / "inference.json").write_text(json.dumps(rows))
    return root
