"""Which frames of a clip the model sees: pure arithmetic on time, no video is opened.

`head` is defined by ffmpeg's `fps` filter (libavfilter/vf_fps.c, round=near): frame times are rounded to slots of
1/fps seconds, half away from zero, and each slot shows the last frame that rounds to it or to an earlier slot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

SLOTTED = ("head", "clip")  # rules that take a frame for each slot, from the start


def slot(time_s: Fraction, fps: Fraction) -> int:
    """The slot that a frame at `time_s` falls into: round(time * fps), half away from zero."""
    exact = time_s * fps
    rounded = math.floor(abs(exact) + Fraction(1, 2))
    return rounded if exact >= 0 else -rounded


def head_choice(times_s: Sequence[Fraction], end_s: Fraction, fps: Fraction, count: int) -> list[int]:
    """Indices of the frames that `fps=FPS` followed by `-vframes COUNT` gives.

    times_s: presentation times in order, the clip starting near 0. end_s: end of the last frame.
    A clip too short for one whole slot gives ffmpeg nothing; here it gives its last frame.
    """
    slots = [slot(t, fps) for t in times_s]
    first, end = slots[0], slot(end_s, fps)
    chosen = []
    for k in range(count):
        wanted = first + k
        if slots[-1] <= wanted and end <= wanted:  # the filter stops at the end of the stream
            break
        chosen.append(max(i for i, s in enumerate(slots) if s <= wanted))
    return chosen or [len(times_s) - 1]


def head_times(fps: Fraction, frames: int, hint_fps: Fraction, count: int) -> tuple[float, ...]:
    """Times in seconds of `head_choice` for a clip of constant frame rate."""
    last_slot_end = (Fraction(count) + 1) / hint_fps
    needed = min(frames, math.ceil(last_slot_end * fps) + 2)
    times = [Fraction(i) / fps for i in range(needed)]
    chosen = head_choice(times, Fraction(needed) / fps, hint_fps, count)
    return tuple(float(times[i]) for i in chosen)


def ends_times(duration_s: float, frames: int, count: int) -> tuple[float, ...]:
    """`count` times evenly from the first frame to the last one."""
    count = min(count, frames)
    last = duration_s * (frames - 1) / frames
    return (0.0,) if count == 1 else tuple(last * k / (count - 1) for k in range(count))


def uniform_times(duration_s: float, frames: int, count: int) -> tuple[float, ...]:
    """Middles of `count` equal parts of the clip."""
    count = min(count, frames)
    return tuple(duration_s * (k + 0.5) / count for k in range(count))


def frame_times(
    rule: str, count: int, hint_fps: float, *, fps: float, frames: int, duration_s: float
) -> tuple[float, ...]:
    """Times in seconds of the frames that a rule takes from a clip, as its header describes it.

    fps, frames, duration_s describe the clip; hint_fps is the slot rate of `head`.
    """
    if rule in SLOTTED:
        return head_times(
            Fraction(fps).limit_denominator(100_000), frames, Fraction(hint_fps).limit_denominator(1000), count
        )
    times = ends_times if rule == "ends" else uniform_times
    return times(duration_s, frames, count)
