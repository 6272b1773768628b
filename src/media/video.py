"""Clips as their headers describe them."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import VideoError
from ..files import file_sha256
from . import kinds
from .colour import HDR, has_alpha
from .geometry import Size
from .guard import Guard
from .headers import matroska_length, mov_rotation, riff_length

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers that hold one real video each. Playlists (HLS, concat) are refused: they make the demuxer read other files.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,gif,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
_READABLE = "mp4, mov, mkv, webm, avi, 3gp, ts, mpg, gif, or a picture"
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


@dataclass(frozen=True, slots=True)
class Video:
    """A clip as its header describes it; width and height as displayed (after rotation and sample aspect ratio).

    transfer: PQ or HLG, where it is of high dynamic range. note: what is shown of it otherwise than the file has it.
    """

    path: str
    sha256: str
    width_px: int
    height_px: int
    fps: float
    frames: int
    duration_s: float
    codec: str
    transfer: str = ""
    note: str = ""

    def __hash__(self) -> int:  # asked for several times an item
        return hash(self.sha256)

    @property
    def size(self) -> Size:
        return Size(self.width_px, self.height_px)


@dataclass(frozen=True, slots=True)
class VideoLimits:
    """What is rejected unread."""

    max_bytes: int
    max_pixels: int
    max_duration_s: float
    max_render_s: float = float("inf")  # for the time that reading it takes, not its own


def probe(path: Path, limits: VideoLimits, is_stopped: Callable[[], bool] = lambda: False) -> Video:
    """Read the header of a clip. is_stopped: whether the program was asked to end, which raises HintError.

    Raises VideoError naming the file and what is wrong with it.
    """
    bytes_on_disk = _check_file(path, limits)
    guard = Guard(str(path), limits.max_render_s, limits.max_pixels, is_stopped)
    with open_video(path) as container:
        stream = video_stream(container, path)
        if stream.codec_context is None:
            raise VideoError(f"{path}: unknown codec", hint="encode it again, for example as H.264")
        width, height = stream.width, stream.height
        if not width or not height:
            hint = "the file is damaged: encode it again"
            if container.format.name == "webp_pipe":
                hint = "FFmpeg reads no animated WebP: make a GIF or an MP4 of it"
            raise VideoError(f"{path}: the video stream has no picture size", hint=hint)
        fps = _frame_rate(stream)
        if fps is None:
            raise VideoError(
                f"{path}: the header has no valid frame rate", hint="encode it again with a constant frame rate"
            )
        _check_complete(container, stream, path, bytes_on_disk)
        frames, duration_s = _length(container, stream, fps, guard)
        if frames <= 0:
            raise VideoError(f"{path}: the video has no frames", hint="the file is empty or damaged: encode it again")
        sar = stream.sample_aspect_ratio or Fraction(1)
        display = (round(width * sar), height) if sar >= 1 else (width, round(height / sar))
        if _rotation(container, stream, path, guard) % 180 == 90:
            display = display[::-1]
        codec, transfer = stream.codec_context.name, HDR.get(stream.codec_context.color_trc, "")
        note = "; ".join(_notes(container, stream, transfer))
    if display[0] * display[1] > limits.max_pixels:
        raise VideoError(
            f"{path}: {display[0]}x{display[1]} is larger than video.max_pixels={limits.max_pixels}",
            hint="scale it down, or raise video.max_pixels",
        )
    if duration_s > limits.max_duration_s:
        raise VideoError(
            f"{path}: {duration_s:.0f} s is longer than video.max_duration_s={limits.max_duration_s:.0f}",
            hint="cut it, or raise video.max_duration_s",
        )
    return Video(
        str(path), content_hash(path, guard), *display, float(fps), frames, round(duration_s, 6), codec, transfer, note
    )


def _notes(container: InputContainer, stream: VideoStream, transfer: str) -> Iterator[str]:
    """What is shown otherwise than the file has it."""
    if container.format.name.endswith("_pipe"):
        yield "a picture, used as one frame"
    if transfer:
        yield f"HDR ({transfer}) tone-mapped to BT.709"
    if has_alpha(stream.codec_context.format) or has_hidden_alpha(stream):
        yield "black where it is transparent"
    if (streams := container.streams.video)[0] is not stream:
        number = [s.index for s in streams].index(stream.index) + 1
        yield f"video stream {number} of {len(streams)} ({stream.width}x{stream.height}), the default or largest one"


def _check_file(path: Path, limits: VideoLimits) -> int:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        message, hint = _why_missing(path)
        raise VideoError(message, hint=hint) from None
    except OSError as e:
        raise VideoError(f"{path}: cannot be read: {e.strerror}") from e
    if not stat.S_ISREG(info.st_mode):
        raise VideoError(f"{path}: is not a regular file", hint="name a video file, not a folder, pipe or device")
    if info.st_size == 0:
        raise VideoError(f"{path}: is empty", hint="copy or encode it again")
    if info.st_size > limits.max_bytes:
        raise VideoError(
            f"{path}: {info.st_size / 1e9:.1f} GB is larger than video.max_bytes={limits.max_bytes}",
            hint="cut it, or raise video.max_bytes",
        )
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: cannot be read: permission denied")
    if kind := kinds.kind_of(_head(path)):
        raise VideoError(f"{path}: is {kind}", hint=kinds.hint_for(kind))
    return info.st_size


def _why_missing(path: Path) -> tuple[str, str]:
    """Message and hint for a path that leads nowhere: what it is, or what is there instead."""
    text = str(path)
    if address := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", text):
        return f"{address[1]}://{address[2]}: is an address (URL), not a file", "download the clip, and name the file"
    if re.search(r"[A-Za-z]:\\|\\", text):
        return f"{path}: is a path of Windows, with backslashes", "write it with /, as this machine has it"
    if path.is_symlink():
        return f"{path}: is a link to {os.readlink(path)}, which is not there", "copy the file itself"
    try:
        others = {name.casefold(): name for name in os.listdir(path.parent)}
    except OSError:
        folder = next((p for p in path.parents if p.is_dir()), path.parent)
        return f"{path}: there is no such file, nor its folder; {folder} is there", _RELATIVE
    near = difflib.get_close_matches(path.name.casefold(), others, n=1, cutoff=0.8)
    return f"{path}: there is no such file", f"did you mean {others[near[0]]}?" if near else _RELATIVE


_RELATIVE = "paths are relative to the file that names them; video.root= names another folder to look in"


def _head(path: Path) -> bytes:
    with open(path, "rb") as f:
        return f.read(512)


_KEPT_HASHES = 65_536
_hashes: dict[tuple[Path, int, int], str] = {}


def content_hash(path: Path, guard: Guard | None = None) -> str:
    """SHA-256 of a file; read once per process, unless its size or modification time has changed."""
    info = os.stat(path)
    key = (path, info.st_size, info.st_mtime_ns)
    if (known := _hashes.get(key)) is None:
        if len(_hashes) >= _KEPT_HASHES:
            _hashes.clear()
        known = _hashes[key] = file_sha256(path, (guard or Guard(str(path))).check)
    return known


def open_video(path: Path) -> InputContainer:
    """Open a clip with nothing but files and real video containers allowed; raises VideoError."""
    import av

    av.logging.set_level(av.logging.PANIC)
    try:
        picture = kinds.picture_format(_head(path)) or None
        return av.open(str(path), format=picture, options=_OPEN_OPTIONS, timeout=60.0, metadata_errors="replace")
    except FileNotFoundError:
        raise VideoError(f"{path}: there is no such file") from None
    except av.error.FFmpegError as e:
        raise VideoError(
            f"{path}: not a readable video ({e.strerror})",
            hint=f"it is damaged, truncated, or not one of {_READABLE}",
        ) from e


def has_hidden_alpha(stream: VideoStream) -> bool:
    """Whether a VP8 or VP9 stream has transparency beside its pictures, as WebM marks it."""
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9")


def video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The stream of moving pictures that ffmpeg takes: the largest one, the one marked as default before all of up to
    5 megapixels more (fftools/ffmpeg_mux_init.c, map_auto_video). The cover image of a sound file is not one."""
    import av

    kind = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & kind.attached_pic]

    def score(stream: VideoStream) -> int:
        pixels = stream.width * stream.height if stream.codec_context else 0  # without one, a stream has no size
        return pixels + 5_000_000 * bool(stream.disposition & kind.default)

    found = max(streams, key=score, default=None)
    if found is None:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"{path}: has no video stream, only {kinds}", hint="name a file with moving pictures")
    return found


def _frame_rate(stream: VideoStream) -> Fraction | None:
    try:
        fps = stream.average_rate or stream.guessed_rate
    except ZeroDivisionError:  # PyAV makes a fraction of 0/0
        return None
    return fps if fps and 0.01 <= fps <= 10_000 else None


def _length(container: InputContainer, stream: VideoStream, fps: Fraction, guard: Guard) -> tuple[int, float]:
    """Displayed frames, and duration in seconds, from the header; counted in the packets where it has neither."""
    import av

    tb = stream.time_base or Fraction(1, 1000)
    duration_s = float(stream.duration * tb) if stream.duration else 0.0
    if not duration_s:
        # Matroska counts its durations from zero, also where the first frame comes later.
        late_s = max(container.start_time or 0, 0) / 1e6 if "matroska" in container.format.name else 0.0
        whole_s = _tagged_duration_s(stream) or (container.duration or 0) / 1e6
        duration_s = max(whole_s - late_s, 0.0)
    try:
        first = next((p for p in container.demux(stream) if p.size), None)
        if first is None:
            return 0, duration_s
        if not duration_s:  # a recording that was never finished: count its packets
            times = [p.pts * tb for p in guard.over(container.demux(stream)) if p.pts is not None]
            return len(times) + 1, float(max(times, default=Fraction(0)) + 1 / fps)
    except av.error.FFmpegError:
        return 0, duration_s
    displayed = max(1, round(duration_s * fps))  # an edit list may display less than the file has
    return min(stream.frames or displayed, displayed), duration_s


def _tagged_duration_s(stream: VideoStream) -> float:
    """Duration of this stream alone, from the tag that Matroska files have for it ("00:00:02.000000000"); 0 without."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _check_complete(container: InputContainer, stream: VideoStream, path: Path, bytes_on_disk: int) -> None:
    """Reject a truncated file, by its own index or its outermost length field."""
    if "mp4" in container.format.name:
        expected = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    else:
        with open(path, "rb") as f:
            expected = riff_length(f.read(12)) or matroska_length(f)
    if expected > bytes_on_disk:
        raise VideoError(
            f"{path}: the file is truncated ({bytes_on_disk} of {expected} bytes)",
            hint="copy it again, or encode it again",
        )


def _rotation(container: InputContainer, stream: VideoStream, path: Path, guard: Guard) -> int:
    """Degrees by which the picture is turned for display.

    In MP4 it is in the track header; PyAV has it on decoded frames only, so for Matroska, where it is rare, and for a
    picture, one key frame is decoded.
    """
    import av

    if "mp4" in container.format.name:
        return mov_rotation(path, stream.id)
    if "matroska" not in container.format.name and not container.format.name.endswith("_pipe"):
        return 0
    try:
        container.seek(0)
        return next((frame.rotation for frame in guard.frames(container.decode(stream))), 0)
    except av.error.FFmpegError:
        return 0  # whether it can be decoded is found out when its frames are read
