"""Qwen-VL: counts and sizes against what real engines reported, and what must hold for every size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.media.geometry import Size
from src.models.families import CLIP_FAMILIES, FAMILIES, TOKENIZERS, family_of
from src.models.family import Media
from src.models.qwen import Qwen
from tests.harness.records import ENGINE, MODEL

SIDES = st.integers(1, 4500)
SIZES = st.builds(Size, SIDES, SIDES)


def family(name: str, cache_dir: Path) -> Qwen:
    found = family_of(replace(MODEL, family=name, tokenizer=TOKENIZERS[name]), ENGINE, str(cache_dir))
    assert isinstance(found, Qwen)
    return found


def bare(name: str) -> Qwen:
    """Without a tokenizer: a text has as many tokens as characters."""
    found = FAMILIES[name](replace(MODEL, family=name), len)
    assert isinstance(found, Qwen)
    return found


def prompt(counts: Qwen, size: Size, media: Media, text: str = "Test prompt", system: str = "") -> int:
    texts = counts.text_tokens(system, text, with_media=True)
    return counts.media_tokens(size, media) + counts.wrapper_tokens(system) + texts


# One image and "Test prompt": tokens of the prompt as vLLM 0.32 reported them, for Qwen2.5-VL and Qwen3-VL.
IMAGES = {
    "1x1": (27, 76), "31x33": (29, 84), "10x2000": (52, 126), "320x180": (89, 78), "640x360": (322, 232),
    "832x480": (533, 402), "960x960": (1179, 912), "1280x704": (1173, 892), "1280x720": (1219, 892),
    "1920x1080": (2714, 2052), "3840x2160": (10572, 8172), "4200x4200": (16407, 16396),
}  # fmt: skip
# A whole clip (size, frames, frames per second) and "Describe the clip.", likewise, and for Qwen3.5.
CLIPS = {
    ("320x180", 3, 24.0): (91, 150, 152), ("64x64", 50, 25.0): (33, 38, 40), ("320x180", 120, 24.0): (355, 354, 356),
    ("832x480", 48, 24.0): (1045, 810, 812), ("1280x720", 16, 8.0): (2417, 1790, 1792),
    ("640x360", 145, 24000 / 1001): (1819, 1382, 1384),
}  # fmt: skip


def size_of(text: str) -> Size:
    return Size(*map(int, text.split("x")))


@pytest.mark.parametrize("size", IMAGES)
def test_image_prompts_cost_what_vllm_reported(cache_dir: Path, size: str) -> None:
    counted = [prompt(family(name, cache_dir), size_of(size), Media(1)) for name in CLIP_FAMILIES]
    assert counted == [*IMAGES[size], IMAGES[size][1] + 2]


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: f"{clip[0]}-{clip[1]}")
def test_clip_prompts_cost_what_vllm_reported(cache_dir: Path, clip: tuple[str, int, float]) -> None:
    size, frames, fps = clip
    media = Media(frames, fps)
    counted = [prompt(family(n, cache_dir), size_of(size), media, "Describe the clip.") for n in CLIP_FAMILIES]
    assert counted == list(CLIPS[clip])


def test_cap_lowers_what_large_frames_cost() -> None:
    counts = bare("qwen3_vl")
    hd, small = (Size(1280, 720), Media(120, 24.0)), (Size(832, 480), Media(48, 24.0))
    brackets = 2  # around the groups of frames, of which the rule of transformers counts 4440 and 3640
    assert counts.media_tokens(*hd) == brackets + 4440
    assert replace(counts, capped=True).media_tokens(*hd) == brackets + 3640
    assert counts.media_tokens(*small) == replace(counts, capped=True).media_tokens(*small)


def test_clip_of_a_folder_with_class_numbers_costs_more() -> None:
    """Qwen2.5-VL with a video_preprocessor_config.json that holds the numbers of transformers' class."""
    counts = replace(bare("qwen2_5_vl"), clip_pixels=(100_352, 602_112))
    assert counts.media_tokens(Size(64, 64), Media(50, 25.0)) == 313 - 33 + bare("qwen2_5_vl").media_tokens(
        Size(64, 64), Media(50, 25.0)
    )


@given(size=SIZES)
@pytest.mark.parametrize("name", CLIP_FAMILIES)
def test_what_is_seen_costs_the_same(name: str, size: Size) -> None:
    counts, media = bare(name), Media(1)
    if not counts.refusal(size, media):
        seen = counts.seen(size, media)
        assert counts.seen(seen, media) == seen or counts.refusal(seen, media)
        assert seen.width_px % counts.token_px == seen.height_px % counts.token_px == 0
        assert counts.media_tokens(size, media) == seen.width_px * seen.height_px // counts.token_px**2 + 2


@given(source=SIZES, frames=st.integers(1, 40), fps=st.sampled_from([None, 2.0, 5.0]))
@pytest.mark.parametrize("name", CLIP_FAMILIES)
def test_sizes_shrink_and_never_exceed_the_clip(name: str, source: Size, frames: int, fps: float | None) -> None:
    counts, media = bare(name), Media(frames + 1, fps)
    sizes = counts.sizes(source, media)
    areas = [size.width_px * size.height_px for size in sizes]
    assert areas == sorted(areas, reverse=True) and sizes[0] == counts.largest(source, media)
    assert all(
        size.width_px <= max(2, source.width_px) and size.height_px <= max(2, source.height_px) for size in sizes
    )
    assert all(size.width_px % 2 == size.height_px % 2 == 0 for size in sizes)


@given(source=st.builds(Size, st.integers(300, 2500), st.integers(300, 2500)), limit=st.integers(80, 4000))
def test_sizes_waste_no_token(source: Size, limit: int) -> None:
    """The first of the sizes that fits shows at least as much as any other size of the clip's shape at that cost."""
    counts, media = bare("qwen3_vl"), Media(1)
    found = next((s for s in counts.sizes(source, media) if counts.media_tokens(s, media) <= limit), None)
    for width in range(32, source.width_px, 24):
        other = Size(width, max(1, round(width * source.height_px / source.width_px)))
        if counts.media_tokens(other, media) <= limit and found:
            seen = counts.seen(other, media)
            inside = seen.width_px <= source.width_px and seen.height_px <= source.height_px
            assert not inside or found.width_px * found.height_px >= seen.width_px * seen.height_px


@given(frames=st.integers(2, 2000), fps=st.floats(0.5, 60))
@pytest.mark.parametrize("name", CLIP_FAMILIES)
def test_kept_frames_are_frames_of_the_clip(name: str, frames: int, fps: float) -> None:
    kept = bare(name).kept(frames, fps)
    assert kept == sorted(kept) and kept[0] == 0 and kept[-1] < frames
    assert 2 <= len(kept) <= min(768, frames)


def test_clip_at_two_frames_per_second_is_kept_whole() -> None:
    assert bare("qwen3_vl").kept(20, 2.0) == list(range(20))


@pytest.mark.parametrize(
    ("name", "system", "text", "with_media", "tokens"),
    [
        ("qwen2_5_vl", "", "abc", True, 19 + 3),
        ("qwen2_5_vl", "S", "abc", True, 13 + len("system\nS") - 2 + 3),
        ("qwen3_vl", "", "abc", True, 8 + 3),
        ("qwen3_vl", "", "abc", False, 8 + len("user\nabc") - 2),
        ("qwen3_5", "", "  abc \n", True, 10 + 5),
        ("qwen3_5", "", "  abc \n", False, 10 + len("user\nabc") - 2),
    ],
)
def test_template_is_counted(name: str, system: str, text: str, with_media: bool, tokens: int) -> None:
    counts = bare(name)
    assert counts.wrapper_tokens(system) + counts.text_tokens(system, text, with_media=with_media) == tokens


def test_shapes_that_engines_refuse_are_named() -> None:
    counts = bare("qwen3_vl")
    assert "200 to 1" in counts.refusal(Size(1, 201), Media(1)) and not counts.refusal(Size(1, 200), Media(1))
    assert "one frame" in counts.refusal(Size(64, 64), Media(1, 2.0)) and not counts.refusal(
        Size(64, 64), Media(2, 2.0)
    )
