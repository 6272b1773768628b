"""Clips for the tests: made by PyAV, animated, and the same bytes every time on one machine."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from numpy.typing import NDArray


def make_clip(
    path: Path,
    *,
    size: tuple[int, int],
    fps: int | Fraction,
    seconds: float,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip of `round(seconds * fps)` frames, each unlike the one before it; the suffix decides the container.

    options go to the encoder. libx264 is quick and uses one thread unless they set something else.
    """
    width, height = size
    given = {"preset": "veryfast", "threads": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(codec, rate=Fraction(fps), options=given | (options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number in range(max(1, round(seconds * fps))):
            frame = av.VideoFrame.from_ndarray(picture(width, height, number), format="rgb24")
            frame.pts, frame.time_base, frame.pict_type = number, 1 / Fraction(fps), PictureType.NONE
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def picture(width: int, height: int, number: int) -> NDArray[np.uint8]:
    """RGB frame `number`: a still gradient, a bar that moves a little every frame, and a grey step for the number."""
    x = np.linspace(0, 255, width, dtype=np.float32)[None, :, None]
    y = np.linspace(0, 255, height, dtype=np.float32)[:, None, None]
    rgb: NDArray[np.float32] = np.concatenate([x + 0 * y, y + 0 * x, 255 - (x + y) / 2], axis=2)
    at = (number * max(1, width // 24)) % width
    rgb[:, at : at + max(1, width // 8)] = (255, 240, 16)
    rgb[: max(1, height // 4), : max(1, width // 4)] = (number * 37) % 256
    return rgb.astype(np.uint8)


def make_sound(path: Path, *, seconds: float = 0.5, codec: str = "aac") -> Path:
    """Write a file with a tone and no picture."""
    rate = 44_100
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        times = np.arange(round(seconds * rate), dtype=np.float32) / rate
        samples = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
