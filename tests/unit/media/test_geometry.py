"""Sizes: the table of Cosmos, ffmpeg's rounding, and the largest size that fits, compared with brute force."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.media import geometry
from src.media.geometry import (
    COSMOS_SIZES,
    Size,
    at_height,
    at_width,
    category_size,
    detect_aspect_ratio,
    within,
)
from src.models.family import Media
from tests.harness.pixtral import MAX_SIDE_PX, PIXTRAL, prompt_tokens

SIDES = st.integers(1, 5000)
SIZES = st.builds(Size, SIDES, SIDES)
CLIPS = [
    *[Size(1920, 1080), Size(1280, 720), Size(3840, 2160), Size(640, 480), Size(480, 640), Size(1080, 1920)],
    *[Size(854, 480), Size(1000, 1000), Size(2048, 858), Size(333, 777), Size(2, 2), Size(17, 31), Size(320, 179)],
]
EXTREME = [Size(2048, 64), Size(64, 2048), Size(105, 2661), Size(3129, 259), Size(4000, 40)]


# The functions of geometry with the sizes of one family: Pixtral's.


def visible(source: Size) -> Size:
    return geometry.visible(source, MAX_SIDE_PX)


def fixed_width(source: Size, width_px: int) -> Size:
    return geometry.fixed_width(source, width_px, visible(source))


def aligned_sizes(source: Size) -> tuple[Size, ...]:
    return PIXTRAL.sizes(source, Media(1))


def best_fit(source: Size, fits: Callable[[Size], bool]) -> Size | None:
    return geometry.best_fit(aligned_sizes(source), fits)


def step_down(source: Size, current: Size, fits: Callable[[Size], bool]) -> Size | None:
    return geometry.step_down(aligned_sizes(source), current, fits)


def shrunk(
    source: Size, size: Size, frames: int, min_side_px: int, fits: Callable[[Size, int], bool]
) -> tuple[Size, int] | None:
    return geometry.shrunk(lambda count: aligned_sizes(source), size, frames, min_side_px, fits)


def area(size: Size | None) -> int:
    return size.width_px * size.height_px if size else 0


@lru_cache
def aspect_true(source: Size) -> list[Size]:
    """Every size with even sides that keeps the aspect ratio as ffmpeg does, up to what the model sees of the clip."""
    limit = visible(source)
    sizes = {limit}
    for edge in range(2, MAX_SIDE_PX + 1, 2):
        sizes |= {at_width(source, edge), at_height(source, edge)}
    return [s for s in sizes if s.width_px <= limit.width_px and s.height_px <= limit.height_px]


def fitting(size: Size, frames: int, limit: int) -> bool:
    return prompt_tokens(size.width_px, size.height_px, frames, 120) <= limit


def test_table_has_five_categories_of_five_aspects() -> None:
    assert list(COSMOS_SIZES) == ["1080", "720", "512", "480", "256"]
    assert [set(c) for c in COSMOS_SIZES.values()] == [{"1:1", "4:3", "3:4", "16:9", "9:16"}] * 5


# Copied by hand from cosmos-transfer1, control_input.py, VIDEO_RES_SIZE_INFO, so that a typo in src is found.
NVIDIA = """
1080  1:1 1024x1024  4:3 1440x1056  3:4 1056x1440  16:9 1920x1056  9:16 1056x1920
720   1:1 960x960    4:3 960x704    3:4 704x960    16:9 1280x704   9:16 704x1280
512   1:1 512x512    4:3 640x512    3:4 512x640    16:9 640x384    9:16 384x640
480   1:1 480x480    4:3 640x480    3:4 480x640    16:9 768x432    9:16 432x768
256   1:1 256x256    4:3 320x256    3:4 256x320    16:9 320x192    9:16 192x320
"""


@pytest.mark.parametrize("line", NVIDIA.strip().splitlines(), ids=lambda line: line.split()[0])
def test_category_sizes_are_those_of_nvidia(line: str) -> None:
    category, *rest = line.split()
    for aspect, size in zip(rest[::2], rest[1::2], strict=True):
        assert str(category_size(category, aspect)) == size


def test_category_sizes_come_in_transposed_pairs() -> None:
    for category, sizes in COSMOS_SIZES.items():
        for aspect in sizes:
            size = category_size(category, aspect)
            transposed = category_size(category, ":".join(reversed(aspect.split(":"))))
            assert (transposed.width_px, transposed.height_px) == (size.height_px, size.width_px)


def nearest_aspects(size: Size) -> set[str]:
    """By definition, in exact arithmetic; two for a clip in the middle between them."""
    ratio = Fraction(size.width_px, size.height_px)
    distance = {a: (ratio - Fraction(*map(int, a.split(":")))) ** 2 for a in ("16:9", "4:3", "1:1", "3:4", "9:16")}
    return {a for a, d in distance.items() if d == min(distance.values())}


@given(size=SIZES)
def test_aspect_is_the_nearest_one(size: Size) -> None:
    assert detect_aspect_ratio(size) in nearest_aspects(size)


@pytest.mark.parametrize(
    ("size", "aspect"),
    [
        (Size(1920, 1080), "16:9"),
        (Size(854, 480), "16:9"),
        (Size(640, 480), "4:3"),
        (Size(1000, 1000), "1:1"),
        (Size(480, 640), "3:4"),
        (Size(1080, 1920), "9:16"),
        (Size(5000, 10), "16:9"),
        (Size(10, 5000), "9:16"),
        (Size(1556, 1000), "16:9"),  # 1.556 is just above 14/9, the middle of 4:3 and 16:9
        (Size(1555, 1000), "4:3"),
    ],
    ids=str,
)
def test_known_sizes_have_known_aspects(size: Size, aspect: str) -> None:
    assert detect_aspect_ratio(size) == aspect


@pytest.mark.parametrize(
    ("source", "width", "expected"),
    [
        ("1280x720", 320, "320x180"),
        ("854x480", 320, "320x180"),  # 179.86
        ("1920x1080", 320, "320x180"),
        ("1080x1920", 320, "320x568"),  # 568.9: to the nearest even number
        ("640x480", 320, "320x240"),
        ("1440x1080", 320, "320x240"),
        ("2048x858", 320, "320x134"),
        ("320x179", 320, "320x180"),  # 179: halfway between two even numbers, ffmpeg rounds up
        ("320x181", 320, "320x182"),
        ("2048x64", 320, "320x10"),
        ("4000x4", 320, "320x2"),  # never 0
    ],
)
def test_at_width_rounds_height_like_ffmpeg(source: str, width: int, expected: str) -> None:
    assert str(at_width(Size(*map(int, source.split("x"))), width)) == expected


@given(source=SIZES, edge=st.integers(1, 2048))
def test_at_width_has_the_nearest_even_height(source: Size, edge: int) -> None:
    size = at_width(source, edge)
    exact = Fraction(edge * source.height_px, source.width_px)
    assert size.width_px == edge
    assert size.height_px % 2 == 0
    assert abs(size.height_px - exact) <= 1 or size.height_px == 2


@given(source=SIZES, edge=st.integers(1, 2048))
def test_at_height_is_at_width_transposed(source: Size, edge: int) -> None:
    size = at_width(source, edge)
    transposed = at_height(Size(source.height_px, source.width_px), edge)
    assert (transposed.width_px, transposed.height_px) == (size.height_px, size.width_px)


@given(source=SIZES)
def test_visible_size_is_even_and_never_larger(source: Size) -> None:
    size = visible(source)
    assert size.width_px % 2 == size.height_px % 2 == 0
    assert size.width_px <= min(MAX_SIDE_PX, source.width_px + source.width_px % 2)  # even: one more for an odd source
    assert size.height_px <= min(MAX_SIDE_PX, source.height_px + source.height_px % 2)


@pytest.mark.parametrize("source", [Size(1920, 1080), Size(1080, 1920), Size(1025, 577), Size(4096, 4096)], ids=str)
def test_visible_size_reaches_the_encoder_limit(source: Size) -> None:
    assert max(visible(source).width_px, visible(source).height_px) == MAX_SIDE_PX


@given(source=SIZES, width=st.integers(16, 4096))
def test_fixed_width_never_scales_up(source: Size, width: int) -> None:
    size = fixed_width(source, width)
    assert size.width_px <= min(width, MAX_SIDE_PX) or size.width_px == 2
    assert size.width_px <= source.width_px + source.width_px % 2
    assert size.height_px <= min(MAX_SIDE_PX, source.height_px + source.height_px % 2)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Size(1280, 720), "320x180"),
        (Size(64, 2048), "32x1024"),  # ffmpeg's scale=320:-2 would give 320x10240
        (Size(2048, 64), "320x10"),
        (Size(200, 100), "200x100"),
        (Size(201, 101), "200x100"),
        (Size(1080, 1920), "320x568"),
        (Size(320, 1100), "298x1024"),
    ],
    ids=str,
)
def test_fixed_width_gives_known_sizes(source: Size, expected: str) -> None:
    assert str(fixed_width(source, 320)) == expected


@pytest.mark.parametrize("source", CLIPS, ids=str)
def test_aligned_sizes_shrink_and_keep_the_aspect(source: Size) -> None:
    sizes = aligned_sizes(source)
    assert [area(s) for s in sizes] == sorted((area(s) for s in sizes), reverse=True)
    assert set(sizes) <= set(aspect_true(source))
    assert sizes[0] == visible(source)


@pytest.mark.parametrize("frames", [1, 2, 4, 8])
@pytest.mark.parametrize("source", [Size(1920, 1080), Size(640, 480), Size(1080, 1920), Size(1000, 1000)], ids=str)
def test_best_fit_of_common_clips_wastes_little(source: Size, frames: int) -> None:
    for budget in (4096, 8192, 16384, 32768):
        found = best_fit(source, lambda s, limit=budget - 300: fitting(s, frames, limit))  # type: ignore[misc]
        assert found
        assert fitting(found, frames, budget - 300)
        largest = max(area(s) for s in aspect_true(source) if fitting(s, frames, budget - 300))
        assert largest - area(found) <= 2 * max(found.width_px, found.height_px)


def test_best_fit_is_the_largest_that_fits() -> None:
    wrong = []
    for source in [*CLIPS, *EXTREME]:
        for frames in (1, 2, 4, 8):
            for limit in (150, 400, 1000, 2000, 3796, 7892):
                found = best_fit(source, lambda s, f=frames, r=limit: fitting(s, f, r))  # type: ignore[misc]
                largest = max((area(s) for s in aspect_true(source) if fitting(s, frames, limit)), default=0)
                wrong += [(str(source), frames, limit, str(found))] if area(found) != largest else []
    assert not wrong


def test_best_fit_is_896x504_at_4096_tokens() -> None:
    found = best_fit(Size(1920, 1080), lambda s: fitting(s, 2, 4096 - 300))
    assert found == Size(896, 504)
    assert found.width_px * found.height_px > 7.8 * 320 * 180  # almost eight times the pixels of safe_320


def test_best_fit_never_exceeds_the_source() -> None:
    assert best_fit(Size(200, 100), lambda s: True) == Size(200, 100)


def test_best_fit_is_none_when_nothing_fits() -> None:
    assert best_fit(Size(1920, 1080), lambda s: False) is None


def test_best_fit_grows_with_the_budget() -> None:
    for source in [*CLIPS, *EXTREME]:
        areas = [
            area(best_fit(source, lambda s, limit=limit: fitting(s, 2, limit)))  # type: ignore[misc]
            for limit in range(124, 5000, 60)
        ]
        assert areas == sorted(areas)


def test_step_down_is_smaller_and_fits() -> None:
    rnd = random.Random(3)
    for _ in range(300):
        source = rnd.choice([*CLIPS, *EXTREME])
        current = rnd.choice([source, visible(source), *aligned_sizes(source)])
        limit = rnd.randint(124, 6000)
        found = step_down(source, current, lambda s, limit=limit: fitting(s, 2, limit))  # type: ignore[misc]
        if found:
            assert area(found) < area(current)
            assert fitting(found, 2, limit)
        else:
            assert not any(area(s) < area(current) and fitting(s, 2, limit) for s in aligned_sizes(source))


def test_repeated_step_down_reaches_every_area() -> None:
    for source in [*CLIPS, *EXTREME]:
        size: Size | None = visible(source)
        seen = []
        while size:
            seen.append(area(size))
            size = step_down(source, size, lambda s: True)
        assert seen == sorted({area(s) for s in aligned_sizes(source)}, reverse=True)


def test_step_down_from_upscaled_is_best_fit() -> None:
    source = Size(640, 480)
    smaller = step_down(source, Size(1280, 704), lambda s: fitting(s, 2, 2000))
    assert smaller == best_fit(source, lambda s: fitting(s, 2, 2000))


# Boxes and frames


@given(size=SIZES, box=st.builds(Size, st.integers(16, 2000), st.integers(16, 2000)))
def test_size_within_a_box_fits_it(size: Size, box: Size) -> None:
    found = within(size, box)
    assert found == size or found.width_px <= box.width_px
    assert found == size or found.height_px <= box.height_px or found == Size(2, 2)


@given(size=SIZES)
def test_size_within_its_own_box_is_unchanged(size: Size) -> None:
    assert within(size, size) == size


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ("1280x720", "320x320", "320x180"),
        ("720x1280", "320x320", "180x320"),
        ("1280x720", "400x200", "356x200"),
        ("100x50", "320x320", "100x50"),
        ("1440x1056", "640x480", "640x470"),
    ],
)
def test_boxes_give_known_sizes(size: str, box: str, expected: str) -> None:
    sizes = [Size(*map(int, text.split("x"))) for text in (size, box)]
    assert str(within(*sizes)) == expected


@given(source=SIZES, frames=st.integers(1, 4), min_side_px=st.integers(2, 200), limit=st.integers(50, 6000))
def test_shrunk_hint_fits_above_the_floor(source: Size, frames: int, min_side_px: int, limit: int) -> None:
    size = visible(source)
    found = shrunk(source, size, frames, min_side_px, lambda s, n: fitting(s, n, limit))
    if found:
        smaller, count = found
        assert fitting(smaller, count, limit)
        assert 1 <= count <= frames and (count, area(smaller)) < (frames, area(size))
        floor = min(min_side_px, size.width_px, size.height_px)
        assert min(smaller.width_px, smaller.height_px) >= floor


@pytest.mark.parametrize(
    ("min_side_px", "limit", "expected"),
    [(96, 800, ("256x144", 4)), (124, 500, ("224x126", 3)), (160, 500, ("398x224", 1)), (700, 500, None)],
)
def test_shrunk_hint_keeps_frames_before_size(min_side_px: int, limit: int, expected: tuple[str, int] | None) -> None:
    found = shrunk(Size(1280, 720), Size(1280, 720), 4, min_side_px, lambda s, n: fitting(s, n, limit))
    assert (found and (str(found[0]), found[1])) == expected
