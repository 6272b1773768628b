"""Clips as their headers describe them, and files that are rejected."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image

from src.errors import VideoError
from src.media.frames import read_frames
from src.media.headers import mov_rotation
from src.media.video import VideoLimits, probe
from tests.harness.clips import make_clip
from tests.harness.ffmpeg import H264, TONE, ClipSet, ffmpeg, moving
from tests.unit.media.conftest import LIMITS


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail, instead of hanging, when the block takes longer."""

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Headers


@pytest.mark.parametrize(
    ("name", "encoder", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "h264", "yuv420p"),
        ("a.mov", "libx264", "h264", "yuv420p"),
        ("a.mkv", "libx264", "h264", "yuv420p"),
        ("a.mp4", "libx265", "hevc", "yuv420p"),
        ("a.mkv", "libx265", "hevc", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "vp9", "yuv420p"),
        ("a.mp4", "mpeg4", "mpeg4", "yuv420p"),
        ("a.avi", "mpeg4", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "mjpeg", "yuvj420p"),
        ("a.mkv", "mjpeg", "mjpeg", "yuvj420p"),
    ],
)
def test_header_gives_size_rate_length_and_codec(
    tmp_path: Path, name: str, encoder: str, codec: str, pix_fmt: str
) -> None:
    clip = make_clip(
        tmp_path / name, size=(96, 54), fps=25, seconds=0.6, codec=encoder, pix_fmt=pix_fmt,
        options={"x265-params": "log-level=none", "preset": "ultrafast"} if encoder == "libx265" else None,
    )  # fmt: skip
    found = probe(clip, LIMITS)
    assert (found.width_px, found.height_px, found.fps, found.frames, found.codec) == (96, 54, 25.0, 15, codec)
    assert found.duration_s == pytest.approx(0.6, abs=0.002)
    assert found.path == str(clip)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60000, 1001)])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_fractional_rates_are_exact(tmp_path: Path, rate: Fraction, container: str) -> None:
    clip = make_clip(tmp_path / f"a.{container}", size=(64, 64), fps=rate, seconds=1)
    assert probe(clip, LIMITS).fps == pytest.approx(float(rate), rel=1e-9 if container == "mp4" else 1e-6)


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("degrees", "size"), [(90, (108, 192)), (180, (192, 108)), (270, (108, 192))])
def test_size_is_the_displayed_one_when_rotated(
    tmp_path: Path, degrees: int, size: tuple[int, int], container: str
) -> None:
    upright = make_clip(tmp_path / "upright.mp4", size=(192, 108), fps=10, seconds=0.2)
    turned = tmp_path / f"turned.{container}"
    ffmpeg("-display_rotation", str(degrees), "-i", upright, "-c", "copy", turned)
    found = probe(turned, LIMITS)
    assert (found.width_px, found.height_px) == size


@pytest.mark.parametrize(("sar", "size"), [("4/3", (256, 108)), ("1/2", (192, 216)), ("1", (192, 108))])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_size_counts_square_pixels(tmp_path: Path, sar: str, size: tuple[int, int], container: str) -> None:
    clip = tmp_path / f"a.{container}"
    ffmpeg(*moving("192x108", "10", 0.2), "-vf", f"setsar={sar}", *H264, clip)
    found = probe(clip, LIMITS)
    assert (found.width_px, found.height_px) == size


def test_short_track_header_has_no_rotation(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(64, 48), fps=10, seconds=0.2)
    data = clip.read_bytes()
    at = data.index(b"tkhd") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    for kept in range(8, length - 7):
        rest = (length - kept).to_bytes(4, "big") + b"free"
        cut = kept.to_bytes(4, "big") + data[at + 4 : at + kept] + rest + data[at + kept + 8 :]
        clip.write_bytes(data[:at] + cut)
        assert mov_rotation(clip, 1) == 0


def test_damaged_header_is_a_clip_or_an_error(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(64, 48), fps=10, seconds=0.2)
    data, dice = clip.read_bytes(), random.Random(5)
    start, refused = data.index(b"moov"), 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(start, len(data))] = dice.choice((0, 1, 8, 255, dice.randrange(256)))
        clip.write_bytes(damaged)
        try:
            probe(clip, LIMITS)
        except VideoError:
            refused += 1
    assert refused


def test_rotation_swaps_sides_after_squaring_pixels(tmp_path: Path) -> None:
    flat, turned = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    ffmpeg(*moving("192x108", "10", 0.2), "-vf", "setsar=4/3", *H264, flat)
    ffmpeg("-display_rotation", "90", "-i", flat, "-c", "copy", turned)
    found = probe(turned, LIMITS)
    assert (found.width_px, found.height_px) == (108, 256)


def test_hash_depends_on_content_not_name(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.mp4", size=(64, 64), fps=10, seconds=0.5)
    same = tmp_path / "same.mp4"
    same.write_bytes(one.read_bytes())
    other = make_clip(tmp_path / "other.mp4", size=(64, 64), fps=10, seconds=0.6)
    assert probe(one, LIMITS).sha256 == probe(same, LIMITS).sha256
    assert probe(one, LIMITS).sha256 != probe(other, LIMITS).sha256


@pytest.mark.parametrize(
    "name",
    [
        *["with space.mp4", "quote'\".mp4", "ünïcode 雨.mp4", "new\nline.mp4"],
        *["100%03d.mp4", "-y.mp4", "file:a.mp4", "a#b?c.mp4"],
    ],
)
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "plain.mp4", size=(64, 64), fps=10, seconds=1).rename(tmp_path / name)
    found = probe(clip, LIMITS)
    assert len(read_frames(clip, "head", 2, 2.0, found.duration_s)) == 2


def test_longer_sound_does_not_lengthen_a_clip(tmp_path: Path) -> None:
    for name, encoder in (("a.mp4", H264), ("a.mkv", H264), ("a.webm", ["-c:v", "libvpx", "-c:a", "libopus"])):
        clip = tmp_path / name
        ffmpeg(*moving(seconds=1), *TONE, "-t", "3", *encoder, clip)
        found = probe(clip, LIMITS)
        assert (name, found.duration_s, found.frames) == (name, pytest.approx(1.0, abs=0.05), 24)


def test_recording_without_duration_is_measured(tmp_path: Path) -> None:
    clip = tmp_path / "live.mkv"  # as browsers and screen recorders write them
    ffmpeg(*moving(seconds=1), *H264, "-live", "1", clip)
    found = probe(clip, LIMITS)
    assert (found.frames, found.duration_s) == (24, pytest.approx(1.0, abs=0.05))


@pytest.mark.parametrize(
    "container",
    [
        "matroska",
        pytest.param("avi", marks=pytest.mark.xfail(strict=True, reason="the length is estimated, not counted")),
    ],
)
def test_piped_clip_is_not_truncated(tmp_path: Path, container: str) -> None:
    """Its writer could not go back to fill in the lengths."""
    clip = tmp_path / f"piped.{'mkv' if container == 'matroska' else container}"
    clip.write_bytes(ffmpeg(*moving(seconds=2), "-c:v", "mpeg4", "-f", container, "-"))
    found = probe(clip, LIMITS)
    assert (found.frames, found.duration_s) == (48, pytest.approx(2.0, abs=0.05))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_late_time_stamps_do_not_lengthen_clips(tmp_path: Path, container: str) -> None:
    clip = tmp_path / f"late.{container}"
    ffmpeg(*moving(seconds=1), *H264, "-output_ts_offset", "100", clip)
    assert probe(clip, LIMITS).duration_s == pytest.approx(1.0, abs=0.1)


def test_fragmented_mp4_has_its_whole_length(clip_set: ClipSet) -> None:
    found = probe(clip_set("fragments.mp4"), LIMITS)
    assert (found.frames, found.duration_s) == (36, pytest.approx(1.5, abs=0.01))


def test_tags_may_be_latin_1(tmp_path: Path) -> None:
    clip = tmp_path / "a.mkv"
    ffmpeg(*moving(seconds=0.5), *H264, "-metadata", "title=K#se", clip)
    clip.write_bytes(clip.read_bytes().replace(b"K#se", b"K\xe4se"))  # Latin-1, as old tools write it
    assert probe(clip, LIMITS).frames == 12


# Rejected files


def missing(at: Path) -> Path:
    return at / "missing.mp4"


def folder(at: Path) -> Path:
    (at / "folder.mp4").mkdir()
    return at / "folder.mp4"


def fifo(at: Path) -> Path:
    os.mkfifo(at / "fifo.mp4")
    return at / "fifo.mp4"


def dangling(at: Path) -> Path:
    (at / "link.mp4").symlink_to(at / "nowhere.mp4")
    return at / "link.mp4"


def empty(at: Path) -> Path:
    (at / "empty.mp4").write_bytes(b"")
    return at / "empty.mp4"


def text(at: Path) -> Path:
    (at / "text.mp4").write_text("a line of text\n" * 100)
    return at / "text.mp4"


def ffconcat(at: Path) -> Path:
    make_clip(at / "other.mp4", size=(64, 64), fps=10, seconds=0.5)
    (at / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    return at / "list.mp4"


def hls(at: Path) -> Path:
    make_clip(at / "other.ts", size=(64, 64), fps=10, seconds=0.5)
    (at / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    return at / "playlist.mp4"


def still(at: Path) -> Path:
    Image.new("RGB", (64, 64)).save(at / "still.png")
    return (at / "still.png").rename(at / "still.mp4")


def sound(at: Path) -> Path:
    ffmpeg(*TONE, "-t", "1", at / "sound.mp4")
    return at / "sound.mp4"


def sound_with_cover(at: Path) -> Path:
    cover = ["-map", "0", "-map", "1", "-c:v", "png", "-disposition:v:0", "attached_pic", "-frames:v", "1"]
    ffmpeg(*TONE, *moving("64x64", "1", 1), *cover, "-t", "1", at / "cover.m4a")
    return at / "cover.m4a"


def no_frames(at: Path) -> Path:
    """A video track without samples: `stsz` of a one-frame clip set to zero, with the tables that depend on it."""
    make_clip(at / "none.mp4", size=(64, 64), fps=10, seconds=0.1)
    data = bytearray((at / "none.mp4").read_bytes())
    for box, counts_at in ((b"stsz", 12), (b"stts", 8), (b"stsc", 8), (b"stco", 8)):
        start = data.index(box)
        data[start + counts_at : start + counts_at + 4] = bytes(4)
    (at / "none.mp4").write_bytes(data)
    return at / "none.mp4"


def truncated_mp4(at: Path) -> Path:
    make_clip(at / "whole.mp4", size=(96, 54), fps=24, seconds=1)
    ffmpeg("-i", at / "whole.mp4", "-c", "copy", "-movflags", "faststart", at / "cut.mp4")
    os.truncate(at / "cut.mp4", (at / "cut.mp4").stat().st_size // 2)
    return at / "cut.mp4"


def truncated_mp4_without_index(at: Path) -> Path:
    make_clip(at / "cut.mp4", size=(96, 54), fps=24, seconds=1)
    os.truncate(at / "cut.mp4", (at / "cut.mp4").stat().st_size // 2)
    return at / "cut.mp4"


def truncated_mkv(at: Path) -> Path:
    ffmpeg(*moving(seconds=3), *H264, "-g", "24", at / "cut.mkv")
    os.truncate(at / "cut.mkv", (at / "cut.mkv").stat().st_size // 2)
    return at / "cut.mkv"


def truncated_avi(at: Path) -> Path:
    ffmpeg(*moving(seconds=3), "-c:v", "mpeg4", "-g", "24", at / "cut.avi")
    os.truncate(at / "cut.avi", (at / "cut.avi").stat().st_size // 2)
    return at / "cut.avi"


def unknown_codec(at: Path) -> Path:
    clip = make_clip(at / "unknown.mp4", size=(64, 64), fps=10, seconds=0.5)
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    return clip


def no_rate(at: Path) -> Path:
    """One frame that lasts 2**31 ticks: a rate so close to zero that rounding makes it zero."""
    make_clip(at / "slow.mp4", size=(64, 64), fps=10, seconds=0.1)
    data = bytearray((at / "slow.mp4").read_bytes())
    for box, value_at, value in ((b"stts", 16, 2**31 - 1), (b"mdhd", 16, 1), (b"mdhd", 20, 2**31 - 1)):
        start = data.index(box)
        data[start + value_at : start + value_at + 4] = value.to_bytes(4, "big")
    (at / "slow.mp4").write_bytes(data)
    return at / "slow.mp4"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "no such file"),
        (folder, "not a regular file"),
        (fifo, "not a regular file"),
        (dangling, "a link to"),
        (empty, "is empty"),
        (text, "not a readable video"),
        (ffconcat, "names other files"),
        (hls, "names other files"),
        (sound, "no video stream"),
        (sound_with_cover, "no video stream"),
        (no_frames, ""),
        (truncated_mp4, "truncated"),
        (truncated_mp4_without_index, "not a readable video"),
        (truncated_mkv, "truncated"),
        (truncated_avi, "truncated"),
        (unknown_codec, ""),
        (no_rate, ""),
    ],
)
def test_unusable_file_is_rejected_by_name(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    path = make(tmp_path)
    with at_most(20), pytest.raises(VideoError) as e:
        probe(path, LIMITS)
    assert str(path) in e.value.message
    assert reason in e.value.message


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        (replace(LIMITS, max_bytes=1000), "video.max_bytes"),
        (replace(LIMITS, max_pixels=96 * 54 - 1), "video.max_pixels"),
        (replace(LIMITS, max_duration_s=0.49), "video.max_duration_s"),
    ],
)
def test_limit_rejects_by_its_setting(tmp_path: Path, limits: VideoLimits, key: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(96, 54), fps=10, seconds=0.5)
    with pytest.raises(VideoError) as e:
        probe(clip, limits)
    assert key in str(e.value)
    assert str(clip) in str(e.value)


def test_limits_are_inclusive(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(96, 54), fps=10, seconds=0.5)
    assert probe(clip, VideoLimits(clip.stat().st_size, 96 * 54, 0.5)).frames == 5


def test_playlist_does_not_open_its_entries(tmp_path: Path) -> None:
    pipe = tmp_path / "never.ts"
    os.mkfifo(pipe)  # opening it would hang
    for text in (f"ffconcat version 1.0\nfile {pipe.name}\n", f"#EXTM3U\n#EXTINF:1,\n{pipe.name}\n#EXT-X-ENDLIST\n"):
        playlist = tmp_path / "playlist.mp4"
        playlist.write_text(text)
        with at_most(10), pytest.raises(VideoError):
            probe(playlist, LIMITS)
