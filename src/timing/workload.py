"""The work of a plan, in the units that take time."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..media.hint import Hint
from ..media.sampling import SLOTTED
from ..media.video import Video
from ..planning.partition import places
from ..planning.plan import Plan

# What a hint costs to render, in pixels of the clip that are decoded: `rendering_cost`. The weight was fitted to measured
# times (clips of 360p to 2160p, 2 to 8 frames of 320 to 800 pixels, good to a factor of two): writing a pixel as PNG and
# H.264 takes about as long as decoding a hundred.
WRITTEN_PIXEL = 100
# As x264 places them by default (250 frames); a frame is decoded from the key frame before it.
KEY_FRAMES_APART_S = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a plan, in the units that take time.

    tokens: of all prompts and the reserves for their answers. pixels: of all distinct frames. to_render: cost of the hints
    that are not in the cache, see `rendering_cost`. lanes: requests in flight at the same time, at most.
    """

    requests: int
    tokens: int
    pixels: int
    to_render: int
    lanes: int


def work_of(plan: Plan) -> Work:
    """To be called before a run renders: hints that are in the cache cost nothing."""
    cache, summary = Path(plan.settings.cache_dir) / "hints", plan.summary
    return Work(
        summary.sent,
        summary.tokens,
        sum(hint.width_px * hint.height_px * hint.frames for _, hint in summary.hints.values()),
        sum(rendering_cost(*pair) for key, pair in summary.hints.items() if not (cache / key).exists()),
        max_in_flight(plan),
    )


def rendering_cost(video: Video, hint: Hint) -> int:
    """What a hint costs to render, in decoded pixels: its frames from the key frame before each (for `head` and `clip`,
    all up to the last one), and the pixels that are written."""
    if hint.rule in SLOTTED:
        decoded_s = min(video.duration_s, (hint.frames + 1) / hint.fps)
    else:
        decoded_s = sum(min(time_s, KEY_FRAMES_APART_S / 2) for time_s in hint.times_s)
    decoded = video.width_px * video.height_px * video.fps * decoded_s
    return round(decoded + WRITTEN_PIXEL * hint.width_px * hint.height_px * hint.frames)


def max_in_flight(plan: Plan) -> int:
    """How many requests the workers of a plan have in flight, as far as that is known before; a guess for an endpoint."""
    s = plan.settings
    by_engine = {
        "offline": os.cpu_count() or 1,
        "endpoint": 16,
        "llamacpp": s.engine.slots,
        "vllm": s.model.max_num_seqs * s.model.data_parallel_size,
    }
    each = 1 if s.engine.name == "cosmos" else s.engine.in_flight or by_engine.get(s.engine.name, 1)
    return each * len(places(plan))
