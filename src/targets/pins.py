"""What a clip decides of a prompt for Cosmos 3: resolution, aspect ratio, duration and frame rate of the video that is made.

Source: cosmos-framework, inference/prompt_upsampling.py and inference/common/args.py (sizes; the four fields are overwritten).
"""

from __future__ import annotations

import math
from typing import Any

PINS = ("resolution", "aspect_ratio", "duration", "fps")
# Resolution -> width and height at 16,9, at 1,1 and at 4,3; upright ones are these, swapped.
SIZES = {
    "256": ((320, 192), (256, 256), (320, 256)),
    "480": ((832, 480), (640, 640), (736, 544)),
    "720": ((1280, 720), (960, 960), (1104, 832)),
    "768": ((1360, 768), (1024, 1024), (1184, 880)),
}
ASPECTS = {"16,9": 16 / 9, "9,16": 9 / 16, "4,3": 4 / 3, "3,4": 3 / 4, "1,1": 1.0}
DURATIONS_S, FPS = (2, 10), (10, 30)  # that there are; frames per second are even


def facts_of(width_px: int, height_px: int, duration_s: float, fps: float, resolution: str) -> dict[str, Any]:
    """All four fields for the clip that a video is made from, or for the video that is wanted, as near to it as the model can;
    aspect ratios are compared by their logarithm."""
    ratio = math.log(width_px / height_px)
    aspect = min(ASPECTS, key=lambda name: abs(math.log(ASPECTS[name]) - ratio))
    wide, square, classic = SIZES[resolution]
    width, height = square if aspect == "1,1" else wide if aspect in ("16,9", "9,16") else classic
    width, height = (height, width) if ASPECTS[aspect] < 1 else (width, height)
    return {
        "resolution": {"H": height, "W": width},
        "aspect_ratio": aspect,
        "duration": f"{min(max(round(duration_s), DURATIONS_S[0]), DURATIONS_S[1])}s",
        "fps": min(max(2 * round(fps / 2), FPS[0]), FPS[1]),
    }
