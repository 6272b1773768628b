"""Hints: the frames and the video that are made from a clip, and the cache that keeps them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from src.errors import HintError, VideoError
from src.media import frames, geometry, sampling
from src.media import render as rendering
from src.media.hint import Hint, RenderedHint, hint_key
from src.media.render import render
from src.media.video import Video, VideoLimits, probe
from src.models import pixtral
from tests.harness.clips import make_clip

ROOT = Path(__file__).resolve().parents[3]
LIMITS = VideoLimits(max_bytes=10**9, max_pixels=8192 * 8192, max_duration_s=86_400.0)


def planned(video: Video, *, rule: str = "head", count: int = 2, fps: float = 2.0, width_px: int = 160) -> Hint:
    times = sampling.frame_times(rule, count, fps, fps=video.fps, frames=video.frames, duration_s=video.duration_s)
    size = geometry.fixed_width(video.size, width_px)
    return Hint(size.width_px, size.height_px, len(times), times, rule, fps)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    path = tmp_path_factory.mktemp("clips") / "it's a clip, ünïcode.mp4"
    return probe(make_clip(path, size=(320, 180), fps=24, seconds=2), LIMITS)


def assert_whole(hint: RenderedHint) -> None:
    """Every file of an entry is there and is what its manifest says."""
    for frame, path in zip(hint.frames, hint.frame_paths, strict=True):
        data = path.read_bytes()
        assert (frame.bytes, frame.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        Image.open(path).load()
    if hint.video_path:
        with av.open(str(hint.video_path)) as container:
            assert len(list(container.decode(video=0))) == len(hint.frames)


# ----------------------------------------------------------------------------------------------------------- contents


@pytest.mark.parametrize("rule", ["head", "ends", "uniform"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_hint_has_the_planned_frames_of_the_planned_size(tmp_path: Path, video: Video, rule: str, count: int) -> None:
    hint = planned(video, rule=rule, count=count)
    made = render(video, hint, tmp_path, with_video=True)
    assert_whole(made)
    sizes = {Image.open(path).size for path in made.frame_paths}
    assert (len(made.frames), sizes) == (count, {(hint.width_px, hint.height_px)})
    assert [f.time_s for f in made.frames] == pytest.approx(hint.times_s, abs=1 / video.fps)


@pytest.mark.parametrize("width_px", [16, 32, 130, 320])
def test_the_size_on_disk_is_the_one_that_tokens_were_planned_for(tmp_path: Path, video: Video, width_px: int) -> None:
    hint = planned(video, width_px=width_px)
    made = render(video, hint, tmp_path, with_video=False)
    for path in made.frame_paths:
        with Image.open(path) as picture:
            assert pixtral.image_tokens(*picture.size) == pixtral.image_tokens(hint.width_px, hint.height_px)
            assert (picture.mode, picture.format) == ("RGB", "PNG")


@pytest.mark.parametrize("fps", [2.0, 0.5, 29.97])
def test_the_hint_video_is_h264_of_the_planned_size_rate_and_frames(tmp_path: Path, video: Video, fps: float) -> None:
    hint = planned(video, rule="ends", count=3, fps=fps)
    made = render(video, hint, tmp_path, with_video=True)
    assert made.video_path
    with av.open(str(made.video_path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", hint.width_px, hint.height_px)
        assert stream.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-3)
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(stream)]
    assert len(frames) == 3
    for frame, path in zip(frames, made.frame_paths, strict=True):
        difference = np.abs(frame - np.asarray(Image.open(path)).astype(int))
        assert difference.mean() < 6  # the same picture, after a lossy codec


def test_a_hint_of_odd_size_has_exact_frames_and_an_even_video(tmp_path: Path, video: Video) -> None:
    hint = replace(planned(video), width_px=161, height_px=91)
    made = render(video, hint, tmp_path, with_video=True)
    assert {Image.open(path).size for path in made.frame_paths} == {(161, 91)}
    assert made.video_path
    with av.open(str(made.video_path)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (160, 90)


@pytest.mark.parametrize("size", [(2, 2), (16, 2), (2, 64), (1024, 16)])
def test_the_smallest_and_flattest_sizes_can_be_rendered(tmp_path: Path, video: Video, size: tuple[int, int]) -> None:
    hint = replace(planned(video), width_px=size[0], height_px=size[1])
    assert_whole(render(video, hint, tmp_path, with_video=True))


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path, video: Video) -> None:
    one, two = (render(video, planned(video), tmp_path / name, with_video=False) for name in ("one", "two"))
    assert one.frames == two.frames


# -------------------------------------------------------------------------------------------------------------- cache


def test_the_same_content_under_another_name_and_folder_is_a_hit(tmp_path: Path, video: Video) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "another name.mp4"
    shutil.copyfile(video.path, copy)
    first = render(video, planned(video), tmp_path / "cache", with_video=True)
    again = probe(copy, LIMITS)
    copy.unlink()  # a hit does not open the clip
    second = render(again, planned(again), tmp_path / "cache", with_video=True)
    assert second.frames == first.frames
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_hit_does_not_open_the_clip(tmp_path: Path, video: Video) -> None:
    copy = replace(video, path=shutil.copyfile(video.path, str(tmp_path / "clip.mp4")))
    first = render(copy, planned(copy), tmp_path / "cache", with_video=True)
    os.unlink(copy.path)
    assert render(copy, planned(copy), tmp_path / "cache", with_video=True) == first


def test_another_clip_of_the_same_name_is_no_hit(tmp_path: Path, video: Video) -> None:
    other = probe(make_clip(tmp_path / Path(video.path).name, size=(320, 180), fps=12, seconds=2), LIMITS)
    first, second = (render(v, planned(v), tmp_path / "cache", with_video=False) for v in (video, other))
    assert first.frames != second.frames


def test_everything_that_changes_the_pixels_has_an_entry_of_its_own(video: Video) -> None:
    hint = planned(video)
    others = [
        replace(hint, width_px=2), replace(hint, height_px=2), replace(hint, frames=1), replace(hint, rule="ends"),
        replace(hint, fps=1.0),
    ]  # fmt: skip
    keys = [hint_key(video, h) for h in (hint, *others)] + [hint_key(replace(video, sha256="0" * 64), hint)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd.mp4", "a/b.mp4", ".hidden.mp4", "new\nline.mp4", "x" * 250 + ".mp4", "雨.mp4", "a b'\".mp4"],
)
def test_an_entry_is_a_plain_folder_name_whatever_the_clip_is_called(video: Video, name: str) -> None:
    key = hint_key(replace(video, path=f"/clips/{name}"), planned(video))
    assert key.isascii()
    assert "/" not in key
    assert not key.startswith(".")
    assert len(key) < 100
    assert key.isprintable()


def test_an_entry_without_the_video_serves_who_wants_none_and_is_completed_for_who_wants_it(
    tmp_path: Path, video: Video
) -> None:
    without = render(video, planned(video), tmp_path, with_video=False)
    assert without.video is None
    assert not list(tmp_path.rglob("*.mp4"))
    completed = render(video, planned(video), tmp_path, with_video=True)
    assert completed.frames == without.frames
    assert_whole(completed)
    assert render(video, planned(video), tmp_path, with_video=False) == completed
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["no frame", "short frame", "empty manifest", "torn manifest", "no video"])
def test_an_entry_that_lost_something_is_made_again(tmp_path: Path, video: Video, damage: str) -> None:
    made = render(video, planned(video), tmp_path, with_video=True)
    manifest = made.folder / "hint.json"
    match damage:  # what a power cut or a tidy person leaves behind
        case "no frame":
            made.frame_paths[0].unlink()
        case "short frame":
            os.truncate(made.frame_paths[1], 100)
        case "empty manifest":
            manifest.write_text("")
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:40])
        case "no video":
            (made.folder / "hint.mp4").unlink()
    again = render(video, planned(video), tmp_path, with_video=True)
    assert again == made
    assert_whole(again)


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_broken_clip_raises_and_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "broken clip.mp4", size=(320, 180), fps=24, seconds=2)
    video = probe(clip, LIMITS)
    data = bytearray(clip.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:-1500] = os.urandom(len(data) - 1500 - start)  # the header stays, the pictures are noise
    clip.write_bytes(data)
    with pytest.raises((VideoError, HintError)) as e:
        render(video, planned(video), tmp_path / "cache", with_video=True)
    assert "broken clip.mp4" in e.value.message
    assert not list((tmp_path / "cache").glob("*")) + list((tmp_path / "cache").glob(".*"))


def test_a_clip_that_is_gone_raises_and_names_the_file(tmp_path: Path, video: Video) -> None:
    gone = replace(video, path=str(tmp_path / "gone.mp4"))
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        render(gone, planned(gone), tmp_path / "cache", with_video=False)


def test_a_clip_that_changed_after_it_was_planned_is_not_kept_under_its_old_content(
    tmp_path: Path, video: Video
) -> None:
    clip = Path(shutil.copyfile(video.path, tmp_path / Path(video.path).name))
    before = replace(video, path=str(clip))
    make_clip(clip, size=(320, 180), fps=12, seconds=2)
    with suppress(VideoError, HintError):
        render(before, planned(video), tmp_path / "cache", with_video=False)
    true = render(video, planned(video), tmp_path / "true", with_video=False)
    assert render(video, planned(video), tmp_path / "cache", with_video=False).frames == true.frames


def test_fewer_frames_than_the_header_promised_raise_and_say_both_numbers(tmp_path: Path, video: Video) -> None:
    hint = replace(planned(video), frames=8)
    with pytest.raises(HintError, match=r"gives 4 frames where its header promises 8"):
        render(video, hint, tmp_path, with_video=False)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_raises_and_names_the_clip(tmp_path: Path, video: Video) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(HintError) as e:
        render(video, planned(video), tmp_path / "cache", with_video=False)
    assert Path(video.path).name in e.value.message


# ---------------------------------------------------------------------------------------------- several, and the killed

_RENDER = """
import json, sys
from pathlib import Path
from src.media.render import render
from src.media.hint import Hint
from src.media.video import Video
video, hint, cache = Video(**json.loads(sys.argv[1])), json.loads(sys.argv[2]), Path(sys.argv[3])
import av, PIL.Image  # what render would load later
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[4])):
    hint["fps"] = 2.0 + n  # an entry of its own
    render(video, Hint(**hint), cache, with_video=True)
print("done", flush=True)
"""


def _renderer(video: Video, hint: Hint, cache: Path, entries: int = 1) -> subprocess.Popen[str]:
    fields = [json.dumps({name: getattr(value, name) for name in value.__slots__}) for value in (video, hint)]
    return subprocess.Popen(
        [sys.executable, "-c", _RENDER, *fields, cache, str(entries)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def test_killed_while_rendering_no_entry_is_ever_partial(tmp_path: Path, video: Video) -> None:
    dice, cache, hint = random.Random(5), tmp_path / "cache", planned(video, width_px=320, count=3)
    entries = 12
    for _ in range(10):
        process = _renderer(video, hint, cache, entries)
        _go(process)
        time.sleep(dice.uniform(0.005, 0.3))  # the moment is the point
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished = {path.name for path in cache.glob("[!.]*")} if cache.exists() else set()
        for n in range(entries):
            entry = replace(hint, fps=2.0 + n)
            if hint_key(video, entry) in finished:
                gone = replace(video, path=str(tmp_path / Path(video.path).name))  # only the cache can answer
                assert_whole(render(gone, entry, cache, with_video=True))
    process = _renderer(video, hint, cache, entries)
    _go(process)
    assert process.communicate()[0] == "done\n"


def test_killed_while_completing_an_entry_with_its_video_the_entry_is_never_partial(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = planned(video)
    made = render(video, hint, tmp_path, with_video=False)

    class Killed(BaseException):
        pass

    rename, unlink = os.replace, os.unlink
    for survive in range(6):  # die at every step that changes a folder of the cache, one after another
        left = survive

        def step(left_over: int = 0) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", lambda *a, **k: (step(), rename(*a, **k)))
            patched.setattr(os, "unlink", lambda *a, **k: (step(), unlink(*a, **k)))
            with suppress(Killed):
                render(video, hint, tmp_path, with_video=True)
        assert_whole(render(video, hint, tmp_path, with_video=False))
    assert made.frames == render(video, hint, tmp_path, with_video=True).frames


def test_two_processes_that_render_the_same_at_once_leave_one_whole_entry(tmp_path: Path, video: Video) -> None:
    hint = planned(video)
    both = [_renderer(video, hint, tmp_path / "cache") for _ in range(2)]
    for process in both:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in both] == ["done\n", "done\n"]
    [entry] = (tmp_path / "cache").iterdir()
    assert entry.name == hint_key(video, hint)
    assert_whole(render(video, hint, tmp_path / "cache", with_video=True))


def test_threads_that_render_the_same_at_once_all_get_the_one_entry(tmp_path: Path, video: Video) -> None:
    hint = planned(video)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: render(video, hint, tmp_path, with_video=True), range(8)))
    assert len({m.folder for m in made}) == 1
    assert len({m.frames for m in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [hint_key(video, hint)]
    assert_whole(made[0])


def test_who_wants_the_video_gets_it_also_when_overtaken_by_one_who_wants_none(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint, read_frames = planned(video), frames.read_frames

    def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(rendering, "read_frames", read_frames)
        render(video, hint, tmp_path, with_video=False)  # somebody else, in the meantime
        return read_frames(*given)

    monkeypatch.setattr(rendering, "read_frames", overtaken)
    made = render(video, hint, tmp_path, with_video=True)
    assert made.video_path
    assert_whole(made)


def test_threads_that_complete_the_same_entry_at_once_all_get_it(tmp_path: Path, video: Video) -> None:
    for n in range(4):
        hint = planned(video, fps=2.0 + n)
        render(video, hint, tmp_path, with_video=False)
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _, h=hint: render(video, h, tmp_path, with_video=True), range(8)))  # type: ignore[misc]
        assert len({m.frames for m in made}) == 1
        assert_whole(made[0])
