"""Hints: the small frames (and video) that the model sees, rendered once and cached by content.

A cache entry is a folder named by what it was made from: the clip's hash, the size, the sampling rule. It is written
aside and renamed, so it is whole or not there. Home of PyAV, together with media.video.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HintError, HostError
from ..planning.plan import Hint
from .frames import read_frames
from .video import Video, content_hash

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

RENDERER = "1"  # part of every cache key; raised when the pixels of a hint change
HINT_CRF = 18  # as the old ffmpeg command
HINT_VIDEO = "hint.mp4"


@dataclass(frozen=True, slots=True)
class Frame:
    """One rendered frame: a PNG file and what is in it."""

    file: str
    sha256: str
    bytes: int
    time_s: float


@dataclass(frozen=True, slots=True)
class RenderedHint:
    """A cache entry: its folder, its frames in order, and the hint video if one was asked for."""

    folder: Path
    frames: tuple[Frame, ...]
    video: str | None

    @property
    def frame_paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / f.file for f in self.frames)

    @property
    def video_path(self) -> Path | None:
        return self.folder / self.video if self.video else None


def hint_key(video: Video, hint: Hint) -> str:
    """Name of the cache entry: a hash of all that the pixels depend on; what the clip is called is not part of it."""
    made_of = (RENDERER, video.sha256, hint.width_px, hint.height_px, hint.rule, hint.frames, hint.fps)
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]


def hint_name(video: Video, hint: Hint) -> str:
    """Name of a hint for people: the clip's file name, and the start of its key."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(video.path).stem)[:40]
    return f"{stem}-{hint_key(video, hint)[:12]}"


def render(video: Video, hint: Hint, cache: Path, *, with_video: bool) -> RenderedHint:
    """The hint of a clip, from the cache or rendered now.

    Raises VideoError when the clip cannot be decoded, HintError when it decodes to something else than planned.
    """
    folder = cache / hint_key(video, hint)
    try:
        entry = _load(folder) or _render(video, hint, folder, with_video=with_video)
        return entry if entry.video or not with_video else _complete(entry, video, hint)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):  # no clip is to blame
            raise HostError(f"{folder}: {e.strerror}", hint="make room for the hints, or set cache_dir") from e
        raise HintError(f"{video.path}: the hint cannot be written to {folder}: {e.strerror or e}") from e


def _take(video: Video, hint: Hint) -> list[tuple[float, VideoFrame]]:
    """The planned frames of the planned file, or an error."""
    path = Path(video.path)
    taken = read_frames(path, hint.rule, hint.frames, hint.fps, video.duration_s)
    if len(taken) != hint.frames:
        raise HintError(
            f"{video.path}: gives {len(taken)} frames where its header promises {hint.frames}",
            hint="the file is damaged or of variable frame rate: encode it again, or ask for fewer frames",
        )
    if content_hash(path) != video.sha256:
        raise HintError(f"{video.path}: is not the file that was planned any more", hint="start the run anew")
    return taken


def _render(video: Video, hint: Hint, folder: Path, *, with_video: bool) -> RenderedHint:
    taken = _take(video, hint)
    aside = folder.with_name(f".{folder.name}.part-{secrets.token_hex(4)}")
    aside.mkdir(parents=True)
    try:
        small = [
            (t, _filtered(frame, upright(_display_matrix(frame)), hint.width_px, hint.height_px, "rgb24"))
            for t, frame in taken
        ]
        frames = tuple(_write_png(aside, n, t, picture) for n, (t, picture) in enumerate(small, start=1))
        made = RenderedHint(folder, frames, HINT_VIDEO if with_video else None)
        if with_video:
            _write_video(aside / HINT_VIDEO, [picture for _, picture in small], hint)
        _write_manifest(aside, made)
        return _move_in(aside, made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _complete(entry: RenderedHint, video: Video, hint: Hint) -> RenderedHint:
    """Add the video to an entry that an earlier run made without it; its frames stay where others may be reading them."""
    aside = entry.folder / f".{HINT_VIDEO}.part-{secrets.token_hex(4)}.mp4"
    try:
        small = [
            _filtered(frame, upright(_display_matrix(frame)), hint.width_px, hint.height_px, "rgb24")
            for _, frame in _take(video, hint)
        ]
        _write_video(aside, small, hint)
        os.replace(aside, entry.folder / HINT_VIDEO)
    finally:
        aside.unlink(missing_ok=True)
    completed = replace(entry, video=HINT_VIDEO)
    _write_manifest(entry.folder, completed)
    return completed


def _write_manifest(folder: Path, entry: RenderedHint) -> None:
    video_bytes = (folder / entry.video).stat().st_size if entry.video else 0
    manifest = {"frames": [asdict(f) for f in entry.frames], "video": entry.video, "video_bytes": video_bytes}
    # Not flushed to disk, which would take longer than the frames: an entry that a crash tears is seen and made again.
    aside = folder / f".hint.json.part-{secrets.token_hex(4)}"
    aside.write_text(json.dumps(manifest))
    os.replace(aside, folder / "hint.json")


def _move_in(aside: Path, made: RenderedHint) -> RenderedHint:
    """Rename a finished entry to its place, unless somebody was faster; a damaged one there gives way."""
    while True:
        try:
            os.replace(aside, made.folder)
            return made
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if other := _load(made.folder):
            return other
        damaged = made.folder.with_name(f".{made.folder.name}.bad-{secrets.token_hex(4)}")
        with suppress(FileNotFoundError):  # somebody else may be clearing it away too
            os.replace(made.folder, damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _load(folder: Path) -> RenderedHint | None:
    """The entry in a folder; None when it is not there, or not whole."""
    try:
        manifest = json.loads((folder / "hint.json").read_text())
        entry = RenderedHint(folder, tuple(Frame(**f) for f in manifest["frames"]), manifest["video"])
        sizes = [(path, frame.bytes) for path, frame in zip(entry.frame_paths, entry.frames, strict=True)]
        if entry.video_path:
            sizes.append((entry.video_path, manifest["video_bytes"]))
        return entry if all(path.stat().st_size == size for path, size in sizes) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_png(folder: Path, number: int, time_s: float, rgb: VideoFrame) -> Frame:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgb.to_ndarray()).save(buffer, "PNG", compress_level=4)
    data = buffer.getvalue()
    file = f"frame_{number}.png"
    (folder / file).write_bytes(data)
    return Frame(file, hashlib.sha256(data).hexdigest(), len(data), round(time_s, 6))


def _write_video(path: Path, frames: list[VideoFrame], hint: Hint) -> None:
    """The frames that the model sees, as H.264; made from them, since scaling the clip twice takes longer."""
    import av

    rate = Fraction(hint.fps).limit_denominator(1000)
    width, height = max(2, hint.width_px // 2 * 2), max(2, hint.height_px // 2 * 2)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": str(HINT_CRF)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for n, frame in enumerate(frames):
            picture = _filtered(frame, (), width, height, "yuv420p")  # upright already
            picture.pts, picture.time_base = n, 1 / rate
            picture.pict_type = av.video.frame.PictureType.NONE
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def _filtered(
    frame: VideoFrame, filters: Sequence[tuple[str, str]], width: int, height: int, pixels: str
) -> VideoFrame:
    """A frame through `filters`, then scaled by ffmpeg's own `scale=W:H:flags=lanczos` and in another pixel format."""
    import av

    graph = av.filter.Graph()
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


def _display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    """The first two rows of the display matrix, (a, b, u, c, d, v); the identity where a frame has none."""
    from av.sidedata.sidedata import Type

    held: Any = frame.side_data
    return struct.unpack("<6i", bytes(held[Type.DISPLAYMATRIX])[:24]) if Type.DISPLAYMATRIX in held else _IDENTITY


def upright(matrix: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """The filters that turn a picture upright, as ffmpeg inserts them (autorotate): turned or mirrored, or both."""
    a, b, _, c, d, _ = matrix
    degrees = round(math.degrees(math.atan2(b, a))) % 360
    if degrees == 90:
        return (("transpose", "cclock_flip" if c > 0 else "clock"),)
    if degrees == 270:
        return (("transpose", "clock_flip" if c < 0 else "cclock"),)
    if degrees == 180:
        return (*((("hflip", ""),) if a < 0 else ()), *((("vflip", ""),) if d < 0 else ()))
    return (("vflip", ""),) if d < 0 else ()
