"""A hint: the frames that are rendered from a clip, its cache key, its file names."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..worker.values import FileName
from . import sampling
from .geometry import Size
from .video import Video

RENDERER = "1"  # part of every cache key; incremented when the pixels of a hint change
HINT_VIDEO = "hint.mp4"
CLIP = "clip"  # the rule by which the hint's video is sent, not its frames


@dataclass(frozen=True, slots=True)
class Hint:
    """What is rendered from a clip: `frames` pictures of this size, taken by `rule` at these times."""

    width_px: int
    height_px: int
    frames: int
    times_s: tuple[float, ...]
    rule: str
    fps: float

    def __hash__(self) -> int:  # asked for several times an item
        return hash((self.width_px, self.height_px, self.frames))

    @property
    def size(self) -> Size:
        return Size(self.width_px, self.height_px)

    @property
    def clip_fps(self) -> float | None:
        """Frames per second of a clip that is sent as a whole; None for frames."""
        return self.fps if self.rule == CLIP else None


def hint_times(video: Video, rule: str, count: int, fps: float) -> tuple[float, ...]:
    """Times in seconds of the frames that a rule takes from a clip, to the microsecond."""
    times = sampling.frame_times(rule, count, fps, fps=video.fps, frames=video.frames, duration_s=video.duration_s)
    return tuple(round(time_s, 6) for time_s in times)


@dataclass(frozen=True, slots=True)
class Frame:
    """One rendered frame: a PNG file and what is in it."""

    file: FileName
    sha256: FileName
    bytes: int
    time_s: float


@dataclass(frozen=True, slots=True)
class RenderedHint:
    """A cache entry: its folder, its frames in order, and the hint video if one was asked for. note: what is odd about the
    frames of the clip."""

    folder: Path
    frames: tuple[Frame, ...]
    video: str | None
    note: str = ""

    @property
    def frame_paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / f.file for f in self.frames)

    @property
    def video_path(self) -> Path | None:
        return self.folder / self.video if self.video else None


def pixels_of(video: Video, hint: Hint) -> tuple[str | int | float, ...]:
    """All that the pixels of a hint depend on; the clip's name is not part of it."""
    treated = (video.note,) if video.note else ()
    return (video.sha256, hint.width_px, hint.height_px, hint.rule, hint.frames, hint.fps, *treated)


@lru_cache(maxsize=65_536)  # many items share a hint
def hint_key(video: Video, hint: Hint) -> str:
    """Name of the cache entry: a hash of all that the pixels depend on."""
    made_of = (RENDERER, *pixels_of(video, hint))
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:24]


@lru_cache(maxsize=65_536)
def hint_name(video: Video, hint: Hint) -> str:
    """Name of a hint for people: the clip's file name, and the start of its key."""
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in Path(video.path).stem)[:40]
    return f"{stem}-{hint_key(video, hint)[:12]}"
