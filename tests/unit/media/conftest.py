"""What the tests of media share: a set of clips made by ffmpeg, and hints planned as a run plans them."""

from __future__ import annotations

import hashlib

import av
import pytest
from PIL import Image

from src.media import geometry, sampling
from src.media.hint import Hint, RenderedHint
from src.media.video import Video, VideoLimits
from tests.conftest import shared_folder
from tests.harness.ffmpeg import ClipSet
from tests.harness.pixtral import MAX_SIDE_PX

LIMITS = VideoLimits(max_bytes=10**9, max_pixels=8192 * 8192, max_duration_s=86_400.0)


def planned_times(video: Video, rule: str, count: int, fps: float = 2.0) -> tuple[float, ...]:
    return sampling.frame_times(rule, count, fps, fps=video.fps, frames=video.frames, duration_s=video.duration_s)


def planned_hint(video: Video, *, rule: str = "head", count: int = 2, fps: float = 2.0, width_px: int = 64) -> Hint:
    size, times = (
        geometry.fixed_width(video.size, width_px, geometry.visible(video.size, MAX_SIDE_PX)),
        planned_times(video, rule, count, fps),
    )
    return Hint(size.width_px, size.height_px, len(times), times, rule, fps)


@pytest.fixture(scope="session")
def clip_set(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    """Clips of many codecs and containers, by file name; processes of one test run share them."""
    return ClipSet(shared_folder(tmp_path_factory, "clip_set"))


def assert_complete(hint: RenderedHint) -> None:
    """Every file of a cache entry exists and is as its manifest describes it."""
    for frame, path in zip(hint.frames, hint.frame_paths, strict=True):
        data = path.read_bytes()
        assert (frame.bytes, frame.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        Image.open(path).load()
    if hint.video_path:
        with av.open(str(hint.video_path)) as container:
            assert len(list(container.decode(video=0))) == len(hint.frames)
