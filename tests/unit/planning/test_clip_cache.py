"""The clip cache: a clip that has not changed is not read again, one that has is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from src.errors import VideoError
from src.media.video import VideoLimits, probe
from src.planning.clip_cache import ClipCache

LIMITS = VideoLimits(10**9, 10**8, 600)
LONG_AGO = (1e9, 1e9)


@pytest.fixture
def clip(clips: Path, tmp_path: Path) -> Path:
    path = tmp_path / "a 'quoted' clip.mp4"
    shutil.copy(clips / "wide.mp4", path)
    os.utime(path, LONG_AGO)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> ClipCache:
    return ClipCache(tmp_path / "cache", LIMITS)


def test_unchanged_clip_is_known(clip: Path, cache: ClipCache) -> None:
    video = probe(clip, LIMITS)
    cache.put([(cache.key(clip), video), (None, VideoError("cannot be read"))])
    assert cache.find([clip, clip.with_name("gone.mp4")]) == {clip: video}


@pytest.mark.parametrize("change", ["size", "time"])
def test_changed_clip_is_unknown(clip: Path, cache: ClipCache, change: str) -> None:
    cache.put([(cache.key(clip), probe(clip, LIMITS))])
    if change == "size":
        clip.write_bytes(clip.read_bytes() + b"\0")
        os.utime(clip, LONG_AGO)
    else:
        os.utime(clip, (1e9, 1e9 + 1))
    assert cache.find([clip]) == {}


def test_limits_are_part_of_what_is_known(clip: Path, tmp_path: Path, cache: ClipCache) -> None:
    cache.put([(cache.key(clip), probe(clip, LIMITS))])
    assert ClipCache(tmp_path / "cache", VideoLimits(10**9, 100, 600)).find([clip]) == {}


def test_clip_that_just_changed_is_not_kept(clip: Path, cache: ClipCache) -> None:
    os.utime(clip)
    cache.put([(cache.key(clip), probe(clip, LIMITS))])
    assert cache.find([clip]) == {}


def test_clip_replaced_while_others_are_read_is_not_kept(clip: Path, clips: Path, cache: ClipCache) -> None:
    """By a file that is older than both, as rsync and cp -p leave them."""
    key, video = cache.key(clip), probe(clip, LIMITS)
    shutil.copy(clips / "hd.mp4", clip)
    os.utime(clip, (1e9 - 5, 1e9 - 5))
    cache.put([(key, video)])
    assert cache.find([clip]) == {}


def test_clip_under_an_undecodable_name_is_read_each_time(clip: Path, cache: ClipCache) -> None:
    strange = clip.with_name(os.fsdecode(b"caf\xe9.mp4"))
    clip.rename(strange)
    cache.put([(cache.key(strange), probe(strange, LIMITS))])
    assert cache.find([strange]) == {}
