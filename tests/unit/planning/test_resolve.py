"""Configs and prompt files become plans: every clip that a user might bring, and what items have in common."""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import InputError, SpecError
from src.planning.resolve import resolve
from tests.conftest import Configure
from tests.harness.clips import make_clip
from tests.harness.pixtral import prompt_tokens
from tests.unit.planning.conftest import ConfigFor, only_item, over

# Clips that cannot be used


def truncated(folder: Path, clips: Path) -> Path:
    whole = (clips / "wide.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder / "cut.mp4"


def zero_bytes(folder: Path, clips: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def random_bytes(folder: Path, clips: Path) -> Path:
    (folder / "noise.mp4").write_bytes(bytes(n * 7919 % 251 for n in range(5000)))
    return folder / "noise.mp4"


def playlist(folder: Path, clips: Path) -> Path:
    (folder / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1\n{clips / 'wide.mp4'}\n#EXT-X-ENDLIST\n")
    return folder / "list.mp4"


def fifo(folder: Path, clips: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def loop(folder: Path, clips: Path) -> Path:
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    return folder / "loop.mp4"


BAD_CLIPS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "missing": (lambda folder, clips: folder / "nowhere.mp4", "there is no such file"),
    "below a file": (lambda folder, clips: clips / "wide.mp4" / "x.mp4", "cannot be read"),
    "name too long": (lambda folder, clips: folder / ("x" * 300), "cannot be read"),
    "folder": (lambda folder, clips: clips, "is not a regular file"),
    "device": (lambda folder, clips: Path("/dev/zero"), "is not a regular file"),
    "fifo": (fifo, "is not a regular file"),
    "link to itself": (loop, "cannot be read"),
    "zero bytes": (zero_bytes, "is empty"),
    "cut short": (truncated, "not a readable video"),
    "noise": (random_bytes, "not a readable video"),
    "text that names other files": (lambda folder, clips: clips / "text.mp4", "is a list of clips"),
    "playlist": (playlist, "is a playlist"),
    "sound only": (lambda folder, clips: clips / "sound.m4a", "has no video stream, only audio"),
}


@pytest.fixture(params=BAD_CLIPS.values(), ids=list(BAD_CLIPS))
def bad_clip(request: pytest.FixtureRequest, tmp_path: Path, clips: Path) -> tuple[Path, str]:
    """A clip that cannot be used, and its problem."""
    make, problem = request.param
    return make(tmp_path, clips), problem


def test_bad_clip_is_named_in_the_problem(config_for: ConfigFor, bad_clip: tuple[Path, str]) -> None:
    clip, problem = bad_clip
    item = only_item(resolve(config_for(over(clip))))
    assert item.problem.startswith(f"{clip}: {problem}")
    assert (item.fits, item.batch, item.video, item.hint) == (False, None, None, None)
    assert item.prompt == "A red car"


def test_bad_clip_can_be_left_out(config_for: ConfigFor, bad_clip: tuple[Path, str]) -> None:
    clip, problem = bad_clip
    item = only_item(resolve(config_for(over(clip), "video.on_bad_video=text_only")))
    assert problem in item.problem
    assert (item.fits, item.batch, item.hint, item.tokens.image) == (True, 0, None, 0)


def test_bad_clip_without_prompt_is_never_served(config_for: ConfigFor, bad_clip: tuple[Path, str]) -> None:
    clip, problem = bad_clip
    item = only_item(resolve(config_for(over(clip, ""), "video.on_bad_video=text_only")))
    assert problem in item.problem
    assert not item.fits


def test_bad_clips_do_not_affect_other_items(config_for: ConfigFor, clips: Path, tmp_path: Path) -> None:
    bad = [make(tmp_path, clips) for make, _ in BAD_CLIPS.values()]
    items = [{"prompt": "x", "video_path": str(clip)} for clip in (clips / "wide.mp4", *bad, clips / "hd.mp4")]
    plan = resolve(config_for(items))
    assert [item.fits for item in plan.items] == [True, *[False] * len(bad), True]


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("video.max_bytes=1000", "is larger than video.max_bytes=1000"),
        ("video.max_pixels=57599", "320x180 is larger than video.max_pixels=57599"),
        ("video.max_duration_s=0.9", "is longer than video.max_duration_s"),
    ],
)
def test_clip_beyond_limit_is_rejected_by_name(config_for: ConfigFor, clips: Path, limit: str, problem: str) -> None:
    item = only_item(resolve(config_for(over(clips / "wide.mp4"), limit)))
    assert problem in item.problem
    assert not item.fits


@pytest.mark.parametrize("limit", ["video.max_pixels=57600", "video.max_duration_s=1", "video.max_duration_s=inf"])
def test_clip_at_a_limit_is_served(config_for: ConfigFor, clips: Path, limit: str) -> None:
    assert only_item(resolve(config_for(over(clips / "wide.mp4"), limit))).fits


def patched(clip: Path, old: bytes, new: bytes) -> Path:
    data = clip.read_bytes()
    assert old in data
    assert len(old) == len(new)
    clip.write_bytes(data.replace(old, new))
    return clip


@pytest.fixture
def ten_fps(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "a.mp4", size=(64, 48), fps=10, seconds=1)


def test_clip_with_latin_1_tag_is_used(config_for: ConfigFor, ten_fps: Path) -> None:
    assert only_item(resolve(config_for(over(patched(ten_fps, b"VideoHandler", b"Vid\xe9oHandler"[:12]))))).fits


def test_clip_of_unknown_codec_is_named(config_for: ConfigFor, ten_fps: Path) -> None:
    item = only_item(resolve(config_for(over(patched(ten_fps, b"avc1", b"zzzz")))))
    assert item.problem.startswith(str(ten_fps))


def test_clip_with_absurd_frame_rate_is_named(config_for: ConfigFor, ten_fps: Path) -> None:
    data = bytearray(ten_fps.read_bytes())
    at = data.index(b"stts") + 16  # ISO 14496-12: type, version and flags, entries, count, then the duration of a frame
    data[at : at + 4] = struct.pack(">I", 2**31 - 1)
    ten_fps.write_bytes(data)
    item = only_item(resolve(config_for(over(ten_fps))))
    assert item.problem.startswith(str(ten_fps))


# Probing


def test_each_clip_is_probed_once(config_for: ConfigFor, clips: Path, tmp_path: Path) -> None:
    """In all plans together."""
    seen: list[tuple[str, int, int | None]] = []
    paths = [clips / "wide.mp4", clips / "hd.mp4", clips / "wide.mp4", clips / "." / "wide.mp4"]
    items = [{"name": str(n), "prompt": "x", "video_path": str(path)} for n, path in enumerate(paths)]
    config = config_for([*items, {"prompt": "no clip"}])
    config.cache_dir = str(tmp_path / "cache")
    first = resolve(config, step=lambda *step: seen.append(step))
    assert seen == [("clips probed", 1, 2), ("clips probed", 2, 2)]
    assert resolve(config, step=lambda *step: seen.append(step)) == first
    assert len(seen) == 2


def test_plan_describes_the_clip(config_for: ConfigFor, clips: Path) -> None:
    video = only_item(resolve(config_for(over(clips / "portrait.mp4")))).video
    assert video
    assert (video.width_px, video.height_px, video.fps, video.frames, video.duration_s) == (180, 320, 12.0, 12, 1.0)
    assert video.path == str(clips / "portrait.mp4")


def test_short_clip_has_fewer_frames(config_for: ConfigFor, clips: Path) -> None:
    for rule in ("head", "ends", "uniform"):
        item = only_item(resolve(config_for(over(clips / "short.mp4"), f"frames.rule={rule}", "frames.count=4")))
        assert item.hint
        assert item.hint.frames == len(item.hint.times_s) == 1
        assert item.tokens.prompt == prompt_tokens(160, 90, 1, item.tokens.text)


# Items


def test_identical_items_share_their_id(config_for: ConfigFor, clips: Path, tmp_path: Path) -> None:
    copy = shutil.copy(clips / "wide.mp4", tmp_path / "copy.mp4")
    items = [
        {"name": "a", "prompt": "x", "video_path": str(clips / "wide.mp4")},
        {"name": "b", "prompt": "x", "video_path": str(copy)},
        {"name": "c", "prompt": "y", "video_path": str(copy)},
        {"name": "d", "prompt": "x"},
        {"name": "e", "prompt": "x"},
    ]
    plan = resolve(config_for(items))
    a, b, c, d, e = (item.id for item in plan.items)
    assert a == b
    assert d == e
    assert len({a, c, d}) == 3
    assert sorted(i for batch in plan.batches for i in batch) == sorted({a, c, d})


def test_missing_clip_differs_from_no_clip(config_for: ConfigFor, tmp_path: Path) -> None:
    items = [{"name": "plain", "prompt": "x"}, {"name": "bad", "prompt": "x", "video_path": "nowhere.mp4"}]
    plain, bad = resolve(config_for(items, "video.on_bad_video=text_only")).items
    assert plain.id != bad.id


def test_items_keep_their_order_over_files(configure: Configure, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"name": "{name}{n}", "prompt": "x"}}\n' for n in range(3)))
    config = configure()
    config.prompts = str(tmp_path)
    assert [item.name for item in resolve(config).items] == [f"{f}{n}" for f in "abc" for n in range(3)]


def test_only_the_cache_folder_is_written(
    config_for: ConfigFor, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = config_for([*over(clips / "wide.mp4"), *over(clips / "text.mp4")], "upsample=best_fit")
    config.cache_dir = "cache"
    before = {path.relative_to(clips) for path in clips.rglob("*")}
    resolve(config)
    assert {path.relative_to(clips) for path in clips.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "prompts.json"]
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"clips.sqlite", "tokenizer"}


def test_prompts_are_checked_before_clips(config_for: ConfigFor, clips: Path) -> None:
    seen: list[str] = []
    with pytest.raises(SpecError):
        resolve(
            config_for([*over(clips / "wide.mp4"), {"prompt": 5}]), step=lambda stage, done, total: seen.append(stage)
        )
    assert seen == []


def test_numbers_in_a_plan_are_finite(config_for: ConfigFor, clips: Path) -> None:
    for name in ("wide", "hd", "portrait", "square", "short", "other"):
        item = only_item(resolve(config_for(over(clips / f"{name}.mp4"))))
        assert item.video
        assert item.hint
        assert all(math.isfinite(x) for x in (*item.hint.times_s, item.video.fps, item.video.duration_s))


# Tokenizer


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe\x00", b'{"config": {}, "vocab": []}'], ids=len)
def test_invalid_tokenizer_is_an_input_error(config_for: ConfigFor, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.json").write_bytes(content)
    config = config_for([{"prompt": "x"}])
    config.model.tokenizer = str(tmp_path / "own.json")
    with pytest.raises(InputError, match=r"own\.json"):
        resolve(config)


def test_tokenizer_in_working_directory_is_found(
    config_for: ConfigFor, tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for([{"prompt": "x"}])
    shutil.copy(small, tmp_path / "own.json")
    monkeypatch.chdir(tmp_path)
    config.model.tokenizer = "own.json"
    assert resolve(config).items
