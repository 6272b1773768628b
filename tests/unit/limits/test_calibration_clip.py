"""Calibration clips: the size asked for, different frames, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.limits.calibration_clip import calibration_clip
from src.media.geometry import Size
from src.media.hint import Hint
from src.media.render import render
from src.media.video import VideoLimits, probe

LIMITS = VideoLimits(10**9, 10**9, 1e9)


@pytest.mark.parametrize("size", [Size(320, 180), Size(360, 203), Size(2, 2)], ids=str)
def test_clip_has_the_exact_size(size: Size, tmp_path: Path) -> None:
    video = probe(calibration_clip(size, 2.0, tmp_path), LIMITS)
    assert (video.size, video.frames, video.fps) == (size, 8, 2.0)
    assert not list(tmp_path.glob(".*"))


def test_frames_are_all_different(tmp_path: Path) -> None:
    video = probe(calibration_clip(Size(320, 180), 2.0, tmp_path), LIMITS)
    rendered = render(video, Hint(320, 180, 8, (0.0,) * 8, "head", 2.0), tmp_path / "hints", with_video=False)
    assert len({frame.sha256 for frame in rendered.frames}) == 8


def test_clip_is_written_once(tmp_path: Path) -> None:
    path = calibration_clip(Size(64, 48), 2.0, tmp_path)
    before = path.stat().st_mtime_ns
    assert calibration_clip(Size(64, 48), 2.0, tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_whole_clip_has_the_frames_of_its_prompt(tmp_path: Path) -> None:
    video = probe(calibration_clip(Size(64, 48), 2.0, tmp_path, 20), LIMITS)
    assert video.frames == 20
    assert calibration_clip(Size(64, 48), 2.0, tmp_path, 2) == calibration_clip(Size(64, 48), 2.0, tmp_path)
