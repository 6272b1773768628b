"""Rendered hints: the planned frames, from a cache that notices damage and never keeps what it should not."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from src.errors import HintError, VideoError
from src.media.render import render
from src.media.video import Video, probe
from tests.harness.clips import make_clip
from tests.unit.media.conftest import LIMITS, assert_complete, planned_hint


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    path = tmp_path_factory.mktemp("clips") / "it's a clip, ünïcode.mp4"
    return probe(make_clip(path, size=(96, 54), fps=24, seconds=2), LIMITS)


@pytest.mark.parametrize("rule", ["head", "ends", "uniform"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_hint_has_the_planned_frames(tmp_path: Path, video: Video, rule: str, count: int) -> None:
    hint = planned_hint(video, rule=rule, count=count)
    rendered = render(video, hint, tmp_path, with_video=True)
    assert_complete(rendered)
    sizes = {Image.open(path).size for path in rendered.frame_paths}
    assert (len(rendered.frames), sizes) == (count, {(hint.width_px, hint.height_px)})
    assert [f.time_s for f in rendered.frames] == pytest.approx(hint.times_s, abs=1 / video.fps)


def test_same_clip_gives_the_same_bytes(tmp_path: Path, video: Video) -> None:
    one, two = (render(video, planned_hint(video), tmp_path / name, with_video=False) for name in ("one", "two"))
    assert one.frames == two.frames


# Cache


def test_same_content_under_another_name_hits(tmp_path: Path, video: Video) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copyfile(video.path, tmp_path / "elsewhere" / "another name.mp4"))
    first = render(video, planned_hint(video), tmp_path / "cache", with_video=True)
    again = probe(copy, LIMITS)
    second = render(again, planned_hint(again), tmp_path / "cache", with_video=True)
    assert second.frames == first.frames
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_hit_does_not_open_the_clip(tmp_path: Path, video: Video) -> None:
    copy = replace(video, path=shutil.copyfile(video.path, str(tmp_path / "clip.mp4")))
    first = render(copy, planned_hint(copy), tmp_path / "cache", with_video=True)
    os.unlink(copy.path)
    assert render(copy, planned_hint(copy), tmp_path / "cache", with_video=True) == first


def test_another_clip_of_the_same_name_misses(tmp_path: Path, video: Video) -> None:
    other = probe(make_clip(tmp_path / Path(video.path).name, size=(96, 54), fps=12, seconds=2), LIMITS)
    first, second = (render(v, planned_hint(v), tmp_path / "cache", with_video=False) for v in (video, other))
    assert first.frames != second.frames


def test_video_is_added_when_first_wanted(tmp_path: Path, video: Video) -> None:
    without = render(video, planned_hint(video), tmp_path, with_video=False)
    assert without.video is None
    assert not list(tmp_path.rglob("*.mp4"))
    completed = render(video, planned_hint(video), tmp_path, with_video=True)
    assert completed.frames == without.frames
    assert_complete(completed)
    assert render(video, planned_hint(video), tmp_path, with_video=False) == completed
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["no frame", "short frame", "empty manifest", "torn manifest", "no video"])
def test_damaged_entry_is_rendered_again(tmp_path: Path, video: Video, damage: str) -> None:
    rendered = render(video, planned_hint(video), tmp_path, with_video=True)
    manifest = rendered.folder / "hint.json"
    match damage:  # as after a power cut, or a cleanup by hand
        case "no frame":
            rendered.frame_paths[0].unlink()
        case "short frame":
            os.truncate(rendered.frame_paths[1], 100)
        case "empty manifest":
            manifest.write_text("")
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "no video":
            (rendered.folder / "hint.mp4").unlink()
    again = render(video, planned_hint(video), tmp_path, with_video=True)
    assert again == rendered
    assert_complete(again)


# Failures


def test_broken_clip_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "broken clip.mp4", size=(320, 180), fps=24, seconds=2)
    video = probe(clip, LIMITS)
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:-1500] = os.urandom(len(data) - 1500 - start)  # the header stays, the pictures are noise
    clip.write_bytes(data)
    with pytest.raises((VideoError, HintError)) as e:
        render(video, planned_hint(video), tmp_path / "cache", with_video=True)
    assert "broken clip.mp4" in e.value.message
    assert not list((tmp_path / "cache").glob("*")) + list((tmp_path / "cache").glob(".*"))


def test_missing_clip_is_named(tmp_path: Path, video: Video) -> None:
    gone = replace(video, path=str(tmp_path / "gone.mp4"))
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        render(gone, planned_hint(gone), tmp_path / "cache", with_video=False)


def test_changed_clip_is_not_cached_as_planned(tmp_path: Path, video: Video) -> None:
    clip = Path(shutil.copyfile(video.path, tmp_path / Path(video.path).name))
    before = replace(video, path=str(clip))
    make_clip(clip, size=(96, 54), fps=12, seconds=2)
    with suppress(VideoError, HintError):
        render(before, planned_hint(video), tmp_path / "cache", with_video=False)
    right = render(video, planned_hint(video), tmp_path / "right", with_video=False)
    assert render(video, planned_hint(video), tmp_path / "cache", with_video=False).frames == right.frames


def test_error_names_missing_and_promised_frames(tmp_path: Path, video: Video) -> None:
    hint = replace(planned_hint(video), frames=8)
    with pytest.raises(HintError, match=r"has 4 frames where its header promises 8"):
        render(video, hint, tmp_path, with_video=False)
    assert not list(tmp_path.iterdir())


def test_header_promising_too_much_is_an_error(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(64, 64), fps=10, seconds=0.5)
    video = replace(probe(clip, LIMITS), frames=50, duration_s=5.0)
    with pytest.raises(HintError, match=r"a\.mp4"):
        render(video, planned_hint(video), tmp_path / "cache", with_video=False)


def test_unwritable_cache_error_names_the_clip(tmp_path: Path, video: Video) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(HintError) as e:
        render(video, planned_hint(video), tmp_path / "cache", with_video=False)
    assert Path(video.path).name in e.value.message
