"""Frame times of each rule, compared with a literal model of ffmpeg's fps filter."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.media.sampling import ends_times, frame_times, head_choice, head_times, slot, uniform_times

FPS = [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(12), Fraction(1), Fraction(1, 2)]


def vf_fps(times: list[Fraction], end: Fraction, fps: Fraction) -> list[int]:
    """libavfilter/vf_fps.c step by step, round=near, no start_time: the index of the frame in every output slot.

    The filter buffers at most two frames. It repeats the first one while the slot of the second is later than the next slot
    to write; at the end of the stream it repeats the last one up to the slot of the end.
    """
    written: list[int] = []
    next_slot: int | None = None
    for i, time in enumerate(times):
        at = slot(time, fps)
        next_slot = at if next_slot is None else next_slot
        following = slot(times[i + 1], fps) if i + 1 < len(times) else slot(end, fps)
        while following > next_slot:
            written.append(i)
            next_slot += 1
    return written


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("0", 0),
        ("0.24", 0),
        ("0.25", 1),
        ("0.5", 1),
        ("0.74", 1),
        ("0.75", 2),
        ("-0.24", 0),
        ("-0.25", -1),
        ("1.25", 3),
    ],
)
def test_slot_rounds_half_away_from_zero(time: str, expected: int) -> None:
    assert slot(Fraction(time), Fraction(2)) == expected


def test_head_of_24_fps_has_known_frames() -> None:
    times = [Fraction(i, 24) for i in range(48)]
    assert head_choice(times, Fraction(2), Fraction(2), 2) == [5, 17]


@pytest.mark.parametrize(
    ("fps", "frames", "expected"),
    [
        (24, 240, (5 / 24, 17 / 24)),
        (30, 300, (7 / 30, 22 / 30)),
        (25, 250, (6 / 25, 18 / 25)),
        (1, 10, (0.0, 0.0)),  # frames 0 and 1 are in slots 0 and 2: slot 1 repeats frame 0
        (2, 10, (0.0, 0.5)),
        (24, 12, (5 / 24,)),  # half a second is one slot
        (24, 6, (5 / 24,)),  # the shortest clip from which ffmpeg takes a frame
        (24, 5, (4 / 24,)),  # ffmpeg takes none: the last frame
        (24, 1, (0.0,)),
    ],
)
def test_head_of_constant_rate_has_known_times(fps: int, frames: int, expected: tuple[float, ...]) -> None:
    assert head_times(Fraction(fps), frames, Fraction(2), 2) == pytest.approx(expected)


@pytest.mark.parametrize("hint_fps", [Fraction(2), Fraction(1), Fraction(5), Fraction(1, 4), Fraction(30)])
@pytest.mark.parametrize("fps", FPS)
def test_head_times_are_those_of_the_filter(fps: Fraction, hint_fps: Fraction) -> None:
    for frames in (*range(1, 14), 29, 30, 31, 60, 97, 200):
        times = [Fraction(i) / fps for i in range(frames)]
        by_filter = vf_fps(times, Fraction(frames) / fps, hint_fps)[:4] or [frames - 1]
        assert head_times(fps, frames, hint_fps, 4) == tuple(float(times[i]) for i in by_filter), frames


@given(
    gaps=st.lists(st.integers(1, 900), min_size=1, max_size=40),
    start=st.integers(-100, 300),
    hint_fps=st.sampled_from([Fraction(2), Fraction(3), Fraction(1, 2), Fraction(24)]),
    count=st.integers(1, 8),
)
def test_head_choice_handles_variable_frame_rates(gaps: list[int], start: int, hint_fps: Fraction, count: int) -> None:
    ticks = [start]
    for gap in gaps:
        ticks.append(ticks[-1] + gap)
    times = [Fraction(t, 1000) for t in ticks[:-1]]
    by_filter = vf_fps(times, Fraction(ticks[-1], 1000), hint_fps)[:count]
    assert head_choice(times, Fraction(ticks[-1], 1000), hint_fps, count) == (by_filter or [len(times) - 1])


def test_head_of_endless_clip_is_instant() -> None:
    assert head_times(Fraction(24), 10**9, Fraction(2), 2) == head_times(Fraction(24), 240, Fraction(2), 2)


def test_ends_has_the_first_and_last_frame() -> None:
    assert ends_times(10.0, 100, 2) == pytest.approx((0.0, 9.9))


def test_ends_of_one_frame_is_the_first() -> None:
    assert ends_times(10.0, 100, 1) == (0.0,)
    assert ends_times(10.0, 1, 4) == (0.0,)


def test_uniform_has_middles_of_equal_parts() -> None:
    assert uniform_times(8.0, 100, 4) == (1.0, 3.0, 5.0, 7.0)


@given(
    rule=st.sampled_from(["head", "ends", "uniform"]),
    count=st.integers(1, 8),
    frames=st.integers(1, 5000),
    fps=st.sampled_from([float(f) for f in FPS]),
    hint_fps=st.sampled_from([0.5, 2.0, 23.976, 60.0]),
)
def test_times_are_ordered_and_inside_the_clip(rule: str, count: int, frames: int, fps: float, hint_fps: float) -> None:
    times = frame_times(rule, count, hint_fps, fps=fps, frames=frames, duration_s=frames / fps)
    assert 1 <= len(times) <= count
    assert list(times) == sorted(times)
    assert times[0] >= 0
    assert times[-1] < frames / fps


@pytest.mark.parametrize("rule", ["ends", "uniform"])
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 100])
def test_ends_and_uniform_have_distinct_times(rule: str, frames: int) -> None:
    times = frame_times(rule, 8, 2.0, fps=10.0, frames=frames, duration_s=frames / 10)
    assert len(times) == len(set(times)) == min(8, frames)
