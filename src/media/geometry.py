"""Sizes: the Cosmos table, the size rules, and the exact search for the largest size that fits. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

# Width and height by resolution category and aspect. Source: NVIDIA cosmos-transfer1 (Apache-2.0),
# cosmos_transfer1/diffusion/datasets/augmentors/control_input.py, VIDEO_RES_SIZE_INFO.
COSMOS_SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "1080": {"1:1": (1024, 1024), "4:3": (1440, 1056), "3:4": (1056, 1440), "16:9": (1920, 1056), "9:16": (1056, 1920)},
    "720": {"1:1": (960, 960), "4:3": (960, 704), "3:4": (704, 960), "16:9": (1280, 704), "9:16": (704, 1280)},
    "512": {"1:1": (512, 512), "4:3": (640, 512), "3:4": (512, 640), "16:9": (640, 384), "9:16": (384, 640)},
    "480": {"1:1": (480, 480), "4:3": (640, 480), "3:4": (480, 640), "16:9": (768, 432), "9:16": (432, 768)},
    "256": {"1:1": (256, 256), "4:3": (320, 256), "3:4": (256, 320), "16:9": (320, 192), "9:16": (192, 320)},
}

ASPECTS = ("16:9", "4:3", "1:1", "3:4", "9:16")  # in NVIDIA's order, which settles ties


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"


def detect_aspect_ratio(size: Size) -> str:
    """The Cosmos aspect nearest to width / height, by squared difference, as NVIDIA's `detect_aspect_ratio` does."""
    ratio = size.width_px / size.height_px

    def squared_difference(aspect: str) -> float:
        w, h = aspect.split(":")
        return (ratio - int(w) / int(h)) ** 2

    return min(ASPECTS, key=squared_difference)


def within(size: Size, box: Size) -> Size:
    """`size` if it fits into a box, else the largest even size of its aspect that does."""
    if size.width_px <= box.width_px and size.height_px <= box.height_px:
        return size
    candidates = (at_width(size, w) for w in range(max(2, box.width_px // 2 * 2), 1, -2))
    return next((c for c in candidates if c.height_px <= box.height_px), Size(2, 2))


def category_size(category: str, aspect: str) -> Size:
    """Size of a Cosmos category ("720") for an aspect ("16:9")."""
    return Size(*COSMOS_SIZES[category][aspect])


def _nearest_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` to the nearest even number, half away from zero, at least 2.

    This is how ffmpeg's scale filter resolves -2 (`av_rescale` by the factor, rounding half away from zero).
    """
    return max(2, (numerator + denominator) // (2 * denominator) * 2)


def at_width(source: Size, width_px: int) -> Size:
    """`source` scaled to a width, aspect kept, even height (ffmpeg `scale=WIDTH:-2`)."""
    return Size(width_px, _nearest_even(width_px * source.height_px, source.width_px))


def at_height(source: Size, height_px: int) -> Size:
    """`source` scaled to a height, aspect kept, even width (ffmpeg `scale=-2:HEIGHT`)."""
    return Size(_nearest_even(height_px * source.width_px, source.height_px), height_px)


def even(size: Size) -> Size:
    """The next smaller size with even sides, as H.264 needs them."""
    return Size(max(2, size.width_px // 2 * 2), max(2, size.height_px // 2 * 2))


def visible(source: Size, max_side_px: int) -> Size:
    """The largest even size of this aspect with no side beyond max_side_px; as large as the source at most, but for the pixel
    that makes a side even."""
    limit = max_side_px // 2 * 2
    if source.width_px >= source.height_px:
        return at_width(source, min(max(2, source.width_px // 2 * 2), limit))
    return at_height(source, min(max(2, source.height_px // 2 * 2), limit))


def fixed_width(source: Size, width_px: int, limit: Size) -> Size:
    """`scale=WIDTH:-2`, but never larger than `limit`, the largest size worth sending."""
    size = at_width(source, width_px)
    return size if size.width_px <= limit.width_px and size.height_px <= limit.height_px else limit


@lru_cache(maxsize=4096)
def aligned_sizes(source: Size, limit: Size) -> tuple[Size, ...]:
    """All aspect-true even sizes up to `limit`, and `limit` itself, largest area first."""
    sizes = {limit}
    sizes.update(at_width(source, width) for width in range(2, limit.width_px + 1, 2))
    sizes.update(at_height(source, height) for height in range(2, limit.height_px + 1, 2))
    inside = [s for s in sizes if s.width_px <= limit.width_px and s.height_px <= limit.height_px]
    return tuple(sorted(inside, key=lambda s: (s.width_px * s.height_px, s.width_px), reverse=True))


def best_fit(sizes: Sequence[Size], fits: Callable[[Size], bool]) -> Size | None:
    """The first size, that is the largest, for which `fits` holds; None when not even the smallest does."""
    return next((size for size in sizes if fits(size)), None)


def step_down(sizes: Sequence[Size], current: Size, fits: Callable[[Size], bool]) -> Size | None:
    """The largest size smaller than `current` for which `fits` holds."""
    area = current.width_px * current.height_px
    return best_fit(sizes, lambda size: size.width_px * size.height_px < area and fits(size))


def shrunk(
    sizes_for: Callable[[int], Sequence[Size]],
    size: Size,
    frames: int,
    min_side_px: int,
    fits: Callable[[Size, int], bool],
) -> tuple[Size, int] | None:
    """The largest size below `size` that fits with as many frames as possible; None for none.

    sizes_for: the sizes for a number of frames, largest first. No side is made smaller than min_side_px, unless `size` is
    already.
    """
    floor = min(min_side_px, size.width_px, size.height_px)

    def fits_above_floor(candidate: Size, count: int) -> bool:
        return min(candidate.width_px, candidate.height_px) >= floor and fits(candidate, count)

    for count in range(frames, 0, -1):
        if count < frames and fits_above_floor(size, count):
            return size, count
        if smaller := step_down(sizes_for(count), size, lambda s, count=count: fits_above_floor(s, count)):  # type: ignore[misc]
            return smaller, count
    return None
