"""Planning time over the number of items: linear, and how long an item takes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Row, shown

COUNTS = (1_000, 10_000, 100_000)
CLIPS = Path("examples/clips")
SENTENCE = "a slow pan over wet streets at night with neon light on glass while people walk home under umbrellas"


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        took = {count: _plan(Path(folder), count) for count in COUNTS}
    each = {count: seconds / count for count, seconds in took.items()}
    base = COUNTS[1]
    return [
        Row(
            f"planning, seconds an item at {count:,}",
            f"at {base:,}",
            each[count] / each[base],
            "≤ 1.2 (linear)" if count > base else "",
            each[count] / each[base] <= 1.2 if count > base else None,
            f"{shown(took[count])} in all",
        )
        for count in COUNTS
    ]


def _plan(folder: Path, count: int) -> float:
    """Seconds of `task=plan` as a whole process, over 7 clips."""
    chance = random.Random(count)
    clips = sorted(str(path.resolve()) for path in CLIPS.iterdir())
    prompts = folder / f"{count}.jsonl"
    with open(prompts, "w") as f:
        for n in range(count):
            prompt = " ".join(chance.choices(SENTENCE.split(" "), k=60))
            f.write(
                json.dumps({"name": f"item-{n}", "prompt": f"{prompt} {n}", "video_path": clips[n % len(clips)]}) + "\n"
            )
    started = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "src.run",
            "task=plan",
            f'prompts="{prompts}"',
            f'hydra.run.dir="{folder / str(count)}"',
        ],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started
