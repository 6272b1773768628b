"""The small frames (and video) that the model sees, rendered once and cached by content.

A cache entry is a folder named by a hash of its inputs: the clip's content, the size, the sampling rule. It is written aside
and renamed, so it is complete or absent.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import log
from ..errors import HintError, HostError
from ..files import aside_of, file_sha256
from ..worker.records import InvalidRecord, from_file, to_line
from ..worker.values import FileName
from .encode import shown, write_png, write_video
from .frames import read_frames
from .guard import Guard
from .hint import HINT_VIDEO, Frame, Hint, RenderedHint, hint_key
from .video import Video, content_hash

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True, slots=True)
class Manifest:
    """hint.json of a cache entry. video_bytes: its size, 0 for none."""

    frames: tuple[Frame, ...]
    video: FileName | None
    video_bytes: int = 0
    note: str = ""


def render(video: Video, hint: Hint, cache: Path, *, with_video: bool, guard: Guard | None = None) -> RenderedHint:
    """The hint of a clip, from the cache or rendered now.

    Raises VideoError when the clip cannot be decoded within what `guard` allows, HintError when it does not decode as planned.
    """
    guard = guard or Guard(video.path)
    folder = cache / hint_key(video, hint)
    try:
        entry = _load(folder) or _render(video, hint, folder, guard, with_video=with_video)
        return entry if entry.video or not with_video else _complete(entry, video, hint, guard)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):  # not the clip's fault
            raise HostError(f"{folder}: {e.strerror}", hint="free some space for the hints, or set cache_dir") from e
        raise HintError(f"{video.path}: the hint cannot be written to {folder}: {e.strerror or e}") from e


def _read(video: Video, hint: Hint, guard: Guard) -> list[tuple[float, VideoFrame]]:
    """The planned frames of the planned file, or an error."""
    path = Path(video.path)
    taken = read_frames(path, hint.rule, hint.frames, hint.fps, video.duration_s, guard)
    if len(taken) != hint.frames:
        raise HintError(
            f"{video.path}: has {len(taken)} frames where its header promises {hint.frames}",
            hint="the file is damaged or of variable frame rate: encode it again, or ask for fewer frames",
        )
    if content_hash(path, guard) != video.sha256:
        raise HintError(f"{video.path}: the file has changed since it was planned", hint="start a new run")
    return taken


def _render(video: Video, hint: Hint, folder: Path, guard: Guard, *, with_video: bool) -> RenderedHint:
    taken = _read(video, hint, guard)
    aside = aside_of(folder)
    aside.mkdir(parents=True)
    try:
        sizes = list(dict.fromkeys(f"{frame.width}x{frame.height}" for _, frame in taken))
        note = (
            f"the clip changes its size, {' to '.join(sizes)}: each frame is scaled to the hint's" if sizes[1:] else ""
        )
        if note:
            log.get().warning("size_changes_within_clip", clip=video.path, sizes=sizes)
        small = [(t, shown(frame, hint.width_px, hint.height_px, video.transfer)) for t, frame in taken]
        frames = tuple(write_png(aside, n, t, picture) for n, (t, picture) in enumerate(small, start=1))
        made = RenderedHint(folder, frames, HINT_VIDEO if with_video else None, note)
        if with_video:
            write_video(aside / HINT_VIDEO, [picture for _, picture in small], hint)
        _write_manifest(aside, made)
        return _move_in(aside, made)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _complete(entry: RenderedHint, video: Video, hint: Hint, guard: Guard) -> RenderedHint:
    """Add the video to an entry that an earlier run made without it; its frames stay where others may be reading them."""
    aside = entry.folder / f".{HINT_VIDEO}.part-{secrets.token_hex(4)}.mp4"
    try:
        small = [shown(frame, hint.width_px, hint.height_px, video.transfer) for _, frame in _read(video, hint, guard)]
        write_video(aside, small, hint)
        os.replace(aside, entry.folder / HINT_VIDEO)
    finally:
        aside.unlink(missing_ok=True)
    completed = replace(entry, video=HINT_VIDEO)
    _write_manifest(entry.folder, completed)
    return completed


def _write_manifest(folder: Path, entry: RenderedHint) -> None:
    video_bytes = (folder / entry.video).stat().st_size if entry.video else 0
    manifest = Manifest(entry.frames, entry.video, video_bytes, entry.note)
    # Not flushed to disk, which would take longer than the frames: an entry torn by a crash is detected and rendered again.
    aside = aside_of(folder / "hint.json")
    aside.write_text(to_line(manifest))
    os.replace(aside, folder / "hint.json")


def _move_in(aside: Path, made: RenderedHint) -> RenderedHint:
    """Rename a finished entry to its place, unless another process was faster; a damaged one there is replaced."""
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
        with suppress(FileNotFoundError):  # another process may be removing it too
            os.replace(made.folder, damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _load(folder: Path) -> RenderedHint | None:
    """The entry in a folder; None when it is absent, incomplete or damaged."""
    try:
        manifest = from_file(Manifest, folder / "hint.json")
        entry = RenderedHint(folder, manifest.frames, manifest.video, manifest.note)
        if entry.video_path and entry.video_path.stat().st_size != manifest.video_bytes:
            return None
        whole = (file_sha256(path) == frame.sha256 for path, frame in zip(entry.frame_paths, entry.frames, strict=True))
        return entry if entry.frames and all(whole) else None
    except (FileNotFoundError, InvalidRecord):
        return None
