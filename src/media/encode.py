"""Frames as PNG files and as an H.264 hint video, upright and scaled by FFmpeg's own filters."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VideoError
from . import colour
from .geometry import Size
from .hint import Frame, Hint

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

HINT_CRF = 18
CLIP_CRF = 10


def write_png(folder: Path, number: int, time_s: float, rgb: VideoFrame) -> Frame:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb.to_ndarray()).save(buffer, "PNG", compress_level=4)
    data = buffer.getvalue()
    file = f"frame_{number}.png"
    (folder / file).write_bytes(data)
    return Frame(file, hashlib.sha256(data).hexdigest(), len(data), round(time_s, 6))


def write_video(path: Path, frames: list[VideoFrame], hint: Hint) -> None:
    """The frames that the model sees, as H.264; made from the small frames, since scaling the clip twice takes longer."""
    import av

    rate = Fraction(hint.fps).limit_denominator(1000)
    width, height = max(2, hint.width_px // 2 * 2), max(2, hint.height_px // 2 * 2)
    preset = "medium" if hint.clip_fps else "veryfast"  # a model reads the one, people look at the other
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": str(HINT_CRF), "preset": preset})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for n, frame in enumerate(frames):
            picture = filtered(frame, (), width, height, "yuv420p")  # upright already
            picture.pts, picture.time_base = n, 1 / rate
            picture.pict_type = av.video.frame.PictureType.NONE
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def clip_of_frames(path: Path, frames: Sequence[Path], fps: int, *, is_colour: bool = True) -> None:
    """A clip of pictures that have one size, as H.264 that loses little. is_colour: linear light (EXR) becomes sRGB; values of a
    depth map stay as they are. VideoError for a picture that cannot be read."""
    import av

    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": str(CLIP_CRF)})
        stream.pix_fmt = "yuv420p"
        for n, file in enumerate(frames):
            try:
                with av.open(str(file)) as source:
                    if is_colour and file.suffix.lower() == ".exr":
                        source.streams.video[0].codec_context.options = {"apply_trc": "iec61966_2_1"}
                    picture = next(source.decode(video=0))
            except (OSError, StopIteration, av.FFmpegError) as e:
                raise VideoError(f"{file}: is not a readable picture ({type(e).__name__})") from None
            if n == 0:
                stream.width, stream.height = max(2, picture.width // 2 * 2), max(2, picture.height // 2 * 2)
            shaped = filtered(picture, (), stream.width, stream.height, "yuv420p")
            shaped.pts, shaped.time_base = n, Fraction(1, fps)
            shaped.pict_type = av.video.frame.PictureType.NONE
            out.mux(stream.encode(shaped))
        out.mux(stream.encode(None))


def blank_clip(size: Size, frames: int, fps: int) -> bytes:
    """A black clip as H.264, for measuring what a clip of a shape costs."""
    import av
    import numpy as np

    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = size.width_px, size.height_px, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((size.height_px, size.width_px, 3), np.uint8), format="rgb24")
        for n in range(frames):
            picture.pts = n
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()


def shown(frame: VideoFrame, width: int, height: int, transfer: str = "") -> VideoFrame:
    """A frame as RGB in this size, as a standard screen shows it: upright, transparency over black, high dynamic range
    (transfer: PQ or HLG) tone-mapped."""
    import av
    import numpy as np

    filters = upright(display_matrix(frame))
    if colour.has_alpha(frame.format):
        filters = (*filters, ("format", "gbrap"), ("premultiply", "inplace=1"))
    if not transfer:
        return filtered(frame, filters, width, height, "rgb24")
    deep = filtered(frame, filters, width, height, "rgb48le")
    return av.VideoFrame.from_ndarray(
        colour.to_bt709(np.asarray(deep.to_ndarray(), dtype=np.uint16), transfer), format="rgb24"
    )


def filtered(frame: VideoFrame, filters: Sequence[tuple[str, str]], width: int, height: int, pixels: str) -> VideoFrame:
    """A frame through `filters`, then scaled by ffmpeg's own `scale=W:H:flags=lanczos` and in another pixel format."""
    import av

    graph = av.filter.Graph()
    graph.threads = 1  # two clips on two cores are faster than one picture on two threads
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
    )
    chain = [source]
    chain += [graph.add(name, arguments) for name, arguments in filters]
    chain.append(graph.add("scale", f"{width}:{height}:flags=lanczos"))
    chain.append(graph.add("format", pixels))
    chain.append(graph.add("buffersink"))
    graph.link_nodes(*chain).configure()
    graph.push(frame)
    scaled = graph.pull()
    assert isinstance(scaled, av.VideoFrame)
    return scaled


_IDENTITY = (1, 0, 0, 0, 1, 0)


def display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """The first two rows of the display matrix, (a, b, u, c, d, v); the identity where a frame has none."""
    from av.sidedata.sidedata import Type

    try:
        held: Any = frame.side_data
    except ValueError:  # of a kind that PyAV does not know, as the EXIF of pictures: the angle is known all the same
        turned = math.radians(-frame.rotation)
        a, b = round(math.cos(turned)), round(math.sin(turned))
        return (a, b, 0, -b, a, 0)
    return struct.unpack("<6i", bytes(held[Type.DISPLAYMATRIX])[:24]) if Type.DISPLAYMATRIX in held else _IDENTITY


def upright(matrix: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """The filters that turn a picture upright, as ffmpeg inserts them (autorotate): rotated, mirrored, or both."""
    a, b, _, c, d, _ = matrix
    degrees = round(math.degrees(math.atan2(b, a))) % 360
    if degrees == 90:
        return (("transpose", "cclock_flip" if c > 0 else "clock"),)
    if degrees == 270:
        return (("transpose", "clock_flip" if c < 0 else "cclock"),)
    if degrees == 180:
        return (*((("hflip", ""),) if a < 0 else ()), *((("vflip", ""),) if d < 0 else ()))
    return (("vflip", ""),) if d < 0 else ()
