"""The guard of a clip: it is given up when it takes too long, holds a frame too large, or the program is to end."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from src.errors import HintError, VideoError
from src.media.frames import read_frames
from src.media.guard import Guard
from tests.harness.clips import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", size=(64, 48), fps=10, seconds=2.0)


def ticking(step_s: float) -> Iterator[float]:
    now_s = 0.0
    while True:
        yield (now_s := now_s + step_s)


@pytest.mark.parametrize("rule", ["head", "ends", "uniform"])
def test_clip_that_takes_too_long_is_given_up(clip: Path, rule: str) -> None:
    clock = ticking(1.0)
    with pytest.raises(VideoError, match="max_render_s=5"):
        read_frames(clip, rule, 2, 2.0, 2.0, Guard(str(clip), 5.0, clock=lambda: next(clock)))


def test_slow_clip_is_named_once(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = ticking(9.0)
    read_frames(clip, "ends", 2, 2.0, 2.0, Guard(str(clip), clock=lambda: next(clock)))
    assert capsys.readouterr().out.count(str(clip)) == 1


def test_end_of_the_program_is_heard_at_once(clip: Path) -> None:
    with pytest.raises(HintError, match="stopped"):
        read_frames(clip, "ends", 2, 2.0, 2.0, Guard(str(clip), is_stopped=lambda: True))


@pytest.mark.parametrize("most", [64 * 64, 200 * 100])
def test_frame_larger_than_its_header_is_refused(tmp_path: Path, most: int) -> None:
    path = tmp_path / "grows.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        for n in range(20):
            size = (64, 64) if n < 10 else (128, 256)
            coder = av.CodecContext.create("mjpeg", "w")
            coder.height, coder.width = size
            coder.pix_fmt, coder.time_base = "yuvj420p", Fraction(1, 10)
            picture = av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), "rgb24").reformat(format="yuvj420p")
            for made in (*coder.encode(picture), *coder.encode(None)):
                packet = av.Packet(bytes(made))
                packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), n, n
                packet.is_keyframe = True
                out.mux(packet)
    with pytest.raises(VideoError, match=f"256x128 is larger than video.max_pixels={most}|decoding stopped"):
        read_frames(path, "ends", 2, 2.0, 2.0, Guard(str(path), max_pixels=most))
