"""Frames as PNG files, and the hint video made from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.media.hint import RenderedHint
from src.media.render import render
from src.media.video import Video, probe
from tests.harness import pixtral
from tests.harness.ffmpeg import ClipSet, Pixels
from tests.unit.media.conftest import LIMITS, planned_hint


@pytest.fixture(scope="module")
def video(clip_set: ClipSet) -> Video:
    return probe(clip_set("24fps.mp4"), LIMITS)


def video_frames(hint: RenderedHint) -> list[Pixels]:
    assert hint.video_path
    with av.open(str(hint.video_path)) as container:
        return [np.asarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def mean_difference(path: Path, shown: Pixels) -> float:
    return float(np.abs(np.asarray(Image.open(path)).astype(int) - shown.astype(int)).mean())


@pytest.mark.parametrize("width_px", [16, 32, 130, 320])
def test_png_has_the_planned_size(tmp_path: Path, video: Video, width_px: int) -> None:
    hint = planned_hint(video, width_px=width_px)
    for path in render(video, hint, tmp_path, with_video=False).frame_paths:
        with Image.open(path) as picture:
            assert pixtral.image_tokens(*picture.size) == pixtral.image_tokens(hint.width_px, hint.height_px)
            assert (picture.mode, picture.format) == ("RGB", "PNG")


@pytest.mark.parametrize("fps", [2.0, 0.5, 29.97])
def test_hint_video_has_planned_size_and_rate(tmp_path: Path, video: Video, fps: float) -> None:
    hint = planned_hint(video, rule="ends", count=3, fps=fps)
    rendered = render(video, hint, tmp_path, with_video=True)
    assert rendered.video_path
    with av.open(str(rendered.video_path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", hint.width_px, hint.height_px)
        assert stream.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-3)
    assert len(video_frames(rendered)) == 3


@pytest.mark.parametrize("name", ["24fps.mp4", "rotated-90.mp4"])
def test_hint_video_shows_the_frames(tmp_path: Path, clip_set: ClipSet, name: str) -> None:
    video = probe(clip_set(name), LIMITS)
    rendered = render(video, planned_hint(video, rule="ends", count=3, width_px=96), tmp_path, with_video=True)
    pairs = list(zip(rendered.frame_paths, video_frames(rendered), strict=True))
    same = [mean_difference(path, shown) for path, shown in pairs]
    other = [mean_difference(path, shown) for path, (_, shown) in zip(rendered.frame_paths, pairs[1:], strict=False)]
    assert max(same) < 16 < min(other)  # H.264 is lossy, and has color at half the size


def test_hint_of_odd_size_has_even_video(tmp_path: Path, video: Video) -> None:
    hint = replace(planned_hint(video), width_px=61, height_px=47)
    rendered = render(video, hint, tmp_path, with_video=True)
    assert {Image.open(path).size for path in rendered.frame_paths} == {(61, 47)}
    assert {frame.shape[:2] for frame in video_frames(rendered)} == {(46, 60)}


@pytest.mark.parametrize("size", [(2, 2), (16, 2), (2, 64), (1024, 16)])
def test_smallest_and_flattest_sizes_are_encoded(tmp_path: Path, video: Video, size: tuple[int, int]) -> None:
    hint = replace(planned_hint(video), width_px=size[0], height_px=size[1])
    rendered = render(video, hint, tmp_path, with_video=True)
    assert {Image.open(path).size for path in rendered.frame_paths} == {size}
    assert len(video_frames(rendered)) == 2
