"""What is measured in the clips of a run, in words, for a model that sees no frames; kept over runs.

The frames are those of the hints, which the report shows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from ..cache_table import CacheTable
from ..errors import HintError, VideoError
from ..interrupts import threads
from ..media.guard import Guard
from ..media.hint import Hint, hint_key
from ..media.render import render
from ..media.video import Video
from .settings import Settings


def facts_of(clips: Sequence[tuple[Video, Hint]], settings: Settings) -> dict[str, str | VideoError]:
    """The words for each clip by its path; for one that cannot be read, its error."""
    from ..worker.facts import WORDING, in_words, measure_files  # with numpy, which other plans do without

    table = CacheTable(Path(settings.cache_dir) / "facts.sqlite", "facts", "words", "facts_cache_unusable")
    keys = {video.path: f"{WORDING} {hint_key(video, hint)}" for video, hint in clips}
    ended = Event()
    known = dict(table.find(dict.fromkeys(keys.values())))

    def one(clip: tuple[Video, Hint]) -> str | VideoError:
        video, hint = clip
        if words := known.get(keys[video.path]):
            return words
        try:
            cache = Path(settings.cache_dir)
            guard = Guard(video.path, settings.max_render_s, settings.max_pixels, ended.is_set)
            rendered = render(video, hint, cache / "hints", with_video=settings.hint_video, guard=guard)
            return in_words(measure_files([file.read_bytes() for file in rendered.frame_paths]))
        except VideoError as e:
            return e
        except HintError as e:
            return VideoError(e.message)

    with threads(settings.render_workers or os.cpu_count() or 1) as pool:
        try:
            found = dict(zip(keys, pool.map(one, clips), strict=True))
        finally:
            ended.set()  # after Ctrl-C, the clips in work are given up
    table.put((keys[path], words) for path, words in found.items() if isinstance(words, str))
    return found
