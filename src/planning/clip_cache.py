"""What was read from clips, kept over runs, so that a second plan reads none that has not changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from ..cache_table import CacheTable
from ..errors import VideoError
from ..media.video import Video, VideoLimits
from ..text import is_valid_text
from ..worker.records import InvalidRecord, from_line, to_line

PROBE = 2  # part of every key; incremented when a header is read in another way
SETTLED_S = 2.0  # a file that changed just now may change again without another modification time


class ClipCache:
    """Clips by path, size and modification time, and by the limits that they were checked against."""

    def __init__(self, cache_dir: Path, limits: VideoLimits) -> None:
        self._table = CacheTable(cache_dir / "clips.sqlite", "clips", "video", "clip_cache_unusable")
        self._limits = limits

    def find(self, paths: Iterable[Path]) -> dict[Path, Video]:
        """The clips that are known and have not changed."""
        keys = {key: path for path in paths if (key := self.key(path))}
        found = {}
        for key, line in self._table.find(keys):
            try:
                found[keys[key]] = from_line(Video, line)
            except InvalidRecord as e:
                self._table.warn(e)
        return found

    def put(self, probed: Iterable[tuple[str | None, Video | VideoError]]) -> None:
        """Keep what was read of clips, each with its key from before that, where they have not changed since, nor just before."""
        settled = time.time() - SETTLED_S
        clips = ((key, video) for key, video in probed if key and isinstance(video, Video))
        self._table.put((key, to_line(v)) for key, v in clips if key == self.key(Path(v.path), before=settled))

    def key(self, path: Path, before: float = float("inf")) -> str | None:
        """What a clip is known by, as it is now; None for one that cannot be kept."""
        try:
            info = os.stat(path)
        except OSError:
            return None
        if not is_valid_text(str(path)):
            return None
        limits = f"{self._limits.max_bytes} {self._limits.max_pixels} {self._limits.max_duration_s}"
        return f"{PROBE} {limits} {info.st_size} {info.st_mtime_ns} {path}" if info.st_mtime < before else None
