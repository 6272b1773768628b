"""How NVIDIA's programs show, in the folder that they write into, which samples were started, are whole, or were blocked.

Sources: cosmos-transfer1, diffusion/inference/transfer.py; cosmos-transfer2.5, cosmos_transfer2/inference.py; cosmos-framework,
inference/inference.py and inference/common/inference.py (heads of 2026-06 and 2026-08).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .protocol import BLOCKED


@dataclass(frozen=True, slots=True)
class Traces:
    """Paths in that folder; {n}: number of the line, {name}: of the sample.

    started: there once a sample is started. video, whole: the video, and what is written after it. controls: glob of the control
    videos. error: pattern of what the log says of one sample. block_ends: pattern of a log that a blocked sample ended.
    passes_blocked: whether the program goes past a sample only where that was blocked, which the log may not say.
    """

    started: str
    video: str
    whole: str
    controls: str
    error: str = ""
    block_ends: str = r"(?i)guardrail blocked[^\n]*\s*\Z"
    passes_blocked: bool = False

    def control_videos(self, folder: Path, n: int, name: str) -> dict[str, Path]:
        """The control videos of a sample, by the name of the control."""
        found = {}
        for path in sorted(folder.glob(self.controls.format(n=n, name=name))):
            control = re.sub(r".*control_|_input$", "", path.stem.removesuffix("_control_0"))
            found[control] = path
        return found

    def why_no_video(self, log: str, name: str) -> str:
        """Why a sample that the program went past has no video."""
        said = re.search(self.error.format(name=re.escape(name)), log) if self.error else None
        if self.passes_blocked or re.search("(?i)guardrail blocked", said[0] if said else log):
            return BLOCKED
        return said[1] if said else "NVIDIA's program wrote no video and gave no reason"


TRACES: Mapping[str, Traces] = {
    # A blocked prompt ends transfer.py: it unpacks the None that stands for the video.
    "transfer1": Traces(
        "video_{n}", "video_{n}/output.mp4", "video_{n}/prompt.txt", "video_{n}/*_input_control_0.mp4",
        block_ends=r"(?is)guardrail blocked.*TypeError: cannot unpack non-iterable NoneType",
    ),
    "transfer2_5": Traces(
        "{name}.json", "{name}.mp4", "{name}.txt", "{name}_control_*.mp4", passes_blocked=True
    ),
    "cosmos3": Traces(
        "{name}/sample_args.json", "{name}/vision.mp4", "{name}/sample_outputs.json", "{name}/control_*.mp4",
        error=r"Error generating sample '{name}': ([^\n]*)",
        block_ends=r"(?i)error: (error generating sample '[^']*': )?guardrail blocked",
    ),
}  # fmt: skip
