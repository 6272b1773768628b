"""Estimates against what happened: how long a run took, as a part of what was said before it began.

Every run but the first is another kind of work than those before it, so that the arithmetic is shown, not the memory. Only
engine=offline: with a model the answers take longer and vary less. Runs this short are the hardest to tell.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, shown

COPIES = 25  # of the examples, in the larger list
WITHIN = (0.6, 1.67)


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = _many(folder / "many.json")
        _run(folder, "first")
        works = {
            "the same again": (),
            "larger hints (best_fit)": ("upsample=best_fit",),
            f"{COPIES} times the prompts": (many,),
            "other frames (uniform_4)": ("frames=uniform_4",),
            f"{COPIES} times the prompts, larger hints": (many, "upsample=best_fit"),
        }
        return [_row(what, *_run(folder, f"{n}", *given)) for n, (what, given) in enumerate(works.items())]


def _row(what: str, took_s: float, estimated_s: float) -> Row:
    ratio = took_s / estimated_s
    within = WITHIN[0] <= ratio <= WITHIN[1]
    goal = f"{WITHIN[0]:g} to {WITHIN[1]:g}"
    return Row(what, "its estimate", ratio, goal, within, f"{shown(took_s)} / {shown(estimated_s)}")


def _many(file: Path) -> str:
    examples = Path("examples/prompts.json").resolve()
    items = [
        {
            "name": f"{item['name']} {n}",
            "prompt": f"{item['prompt']} Take {n}.",
            "video_path": str(examples.parent / item["video_path"]),
        }
        for n in range(COPIES)
        for item in json.loads(examples.read_text())
    ]
    file.write_text(json.dumps(items))
    return f'prompts="{file}"'


def _run(folder: Path, name: str, *given: str) -> tuple[float, float]:
    """Seconds that a run took, and that it had been estimated to take (0: not at all)."""
    run = folder / name
    argv = [sys.executable, "-m", "src.run", f'hydra.run.dir="{run}"', f'cache_dir="{folder / "cache"}"', *given]
    subprocess.run(argv, capture_output=True, check=True)
    [start] = json.loads((run / "timings.json").read_text())["starts"]
    return start["seconds"], start["estimated_s"].get("total", 0.0)
