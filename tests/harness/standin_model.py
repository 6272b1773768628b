"""What the STAND-INS for NVIDIA's programs share: how they behave, and the videos that they draw in place of a model's.

A file says how they behave, standin.json in the folder of the checkpoints (Cosmos-Transfer1) or in HF_HOME (the others):

    delay_s       how long one video takes
    fail, block   words: a prompt with one of them raises, or is blocked as by the guardrail
    hold          a file: while it is there, nothing goes on
    once          a file that `fail` makes; while it is there, nothing fails
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

STRENGTHS = ["very_low", "low", "medium", "high", "very_high"]
NOISE = "[patch] Skipping something harmless: ValueError: not installed"  # as NVIDIA's programs print at each start


class Conduct:
    def __init__(self, folder: str | Path) -> None:
        print(f"{NOISE}\n{NOISE}\nLoading from {folder}", flush=True)
        self.said: dict[str, Any] = json.loads((Path(folder) / "standin.json").read_text())

    def is_blocked(self, prompt: str) -> bool:
        return any(word in prompt for word in self.said.get("block", ()))

    def follow(self) -> None:
        """What the other ranks do, which the first one is not in step with: wait as it does."""
        while os.path.exists(self.said.get("hold", "")):
            time.sleep(0.02)

    def generate(self, prompt: str) -> None:
        """Take time, or raise."""
        until = time.monotonic() + self.said.get("delay_s", 0.0)
        while time.monotonic() < until or os.path.exists(self.said.get("hold", "")):
            print(f"Sampling: {time.monotonic():.1f}", end="\r", flush=True)
            time.sleep(0.02)
        once = Path(self.said["once"]) if self.said.get("once") else None
        if any(word in prompt for word in self.said.get("fail", ())) and not (once and once.exists()):
            if once:
                once.touch()
            raise RuntimeError(f"CUDA out of memory, says the stand-in about: {prompt}")


def draw(source: str, target: Path, given: Any, fps: int = 24) -> None:
    """The first frame of the source four times, with the hash of what was given as a grey step."""
    try:
        import av
    except ImportError:  # under an interpreter that has torch: what comes out is what went in
        target.write_bytes(Path(source).read_bytes())
        return
    with av.open(source) as video:
        frame = next(video.decode(video=0)).reformat(64, 64, "rgb24").to_ndarray()
    frame[:16, :16] = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).digest()[0]
    with av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"  # type: ignore[attr-defined]
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))  # type: ignore[attr-defined]
        out.mux(stream.encode(None))  # type: ignore[attr-defined]
