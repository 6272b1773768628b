"""Clips: what is read from their headers, which frames are taken, and what is refused."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from src.errors import HintError, VideoError
from src.media import frames, geometry, sampling
from src.media.frames import read_frames
from src.media.hint import Hint
from src.media.render import render
from src.media.video import Video, VideoLimits, probe
from tests.harness.clips import make_clip

FFMPEG: str = imageio_ffmpeg.get_ffmpeg_exe()
LIMITS = VideoLimits(max_bytes=10**9, max_pixels=8192 * 8192, max_duration_s=86_400.0)
Pixels = NDArray[np.uint8]


def ffmpeg(*argv: str | Path) -> None:
    subprocess.run(
        [FFMPEG, "-nostdin", "-y", "-v", "error", *map(str, argv)], check=True, stdout=subprocess.DEVNULL, timeout=60
    )


def moving(size: str = "192x144", fps: str = "24", seconds: float = 2.0) -> list[str]:
    """Input arguments for a moving test picture."""
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={fps}:d={seconds}"]


H264 = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast"]
H265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
TONE = ["-f", "lavfi", "-i", "sine=d=6"]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fail, instead of hanging, when the block takes longer."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# ------------------------------------------------------------------------------------------------------------ probing


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
def test_probe_reads_size_rate_frames_duration_and_codec(
    tmp_path: Path, name: str, encoder: str, codec: str, pix_fmt: str
) -> None:
    clip = make_clip(
        tmp_path / name, size=(192, 108), fps=25, seconds=1.2, codec=encoder, pix_fmt=pix_fmt,
        options={"x265-params": "log-level=none", "preset": "ultrafast"} if encoder == "libx265" else None,
    )  # fmt: skip
    found = probe(clip, LIMITS)
    assert (found.width_px, found.height_px, found.fps, found.frames, found.codec) == (192, 108, 25.0, 30, codec)
    assert found.duration_s == pytest.approx(1.2, abs=0.002)
    assert found.path == str(clip)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60000, 1001)])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_fractional_frame_rates_are_as_exact_as_the_container(tmp_path: Path, rate: Fraction, container: str) -> None:
    clip = make_clip(tmp_path / f"a.{container}", size=(64, 64), fps=rate, seconds=2)
    assert probe(clip, LIMITS).fps == pytest.approx(float(rate), rel=1e-9 if container == "mp4" else 1e-6)


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("degrees", "size"), [(90, (108, 192)), (180, (192, 108)), (270, (108, 192))])
def test_size_is_the_displayed_one_after_rotation(
    tmp_path: Path, degrees: int, size: tuple[int, int], container: str
) -> None:
    upright = make_clip(tmp_path / "upright.mp4", size=(192, 108), fps=10, seconds=0.5)
    turned = tmp_path / f"turned.{container}"
    ffmpeg("-display_rotation", str(degrees), "-i", upright, "-c", "copy", turned)
    found = probe(turned, LIMITS)
    assert (found.width_px, found.height_px) == size


@pytest.mark.parametrize(("sar", "size"), [("4/3", (256, 108)), ("1/2", (192, 216)), ("1", (192, 108))])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_size_is_the_displayed_one_for_pixels_that_are_not_square(
    tmp_path: Path, sar: str, size: tuple[int, int], container: str
) -> None:
    clip = tmp_path / f"a.{container}"
    ffmpeg(*moving("192x108", "10", 0.5), "-vf", f"setsar={sar}", *H264, clip)
    found = probe(clip, LIMITS)
    assert (found.width_px, found.height_px) == size


def test_rotation_swaps_the_displayed_size_of_pixels_that_are_not_square(tmp_path: Path) -> None:
    flat, turned = tmp_path / "flat.mp4", tmp_path / "turned.mp4"
    ffmpeg(*moving("192x108", "10", 0.5), "-vf", "setsar=4/3", *H264, flat)
    ffmpeg("-display_rotation", "90", "-i", flat, "-c", "copy", turned)
    found = probe(turned, LIMITS)
    assert (found.width_px, found.height_px) == (108, 256)


def test_identity_is_the_content_and_not_the_name(tmp_path: Path) -> None:
    one = make_clip(tmp_path / "one.mp4", size=(64, 64), fps=10, seconds=0.5)
    same = tmp_path / "same.mp4"
    same.write_bytes(one.read_bytes())
    other = make_clip(tmp_path / "other.mp4", size=(64, 64), fps=10, seconds=0.6)
    assert probe(one, LIMITS).sha256 == probe(same, LIMITS).sha256
    assert probe(one, LIMITS).sha256 != probe(other, LIMITS).sha256


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "quote'\".mp4",
        "ünïcode 雨.mp4",
        "new\nline.mp4",
        "100%03d.mp4",
        "-y.mp4",
        "file:a.mp4",
        "a#b?c.mp4",
    ],
)
def test_any_file_name_can_be_probed_and_read(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "plain.mp4", size=(64, 64), fps=10, seconds=1).rename(tmp_path / name)
    found = probe(clip, LIMITS)
    assert len(read_frames(clip, "head", 2, 2.0, found.duration_s)) == 2


def test_sound_longer_than_the_picture_is_no_damage(tmp_path: Path) -> None:
    for name, encoder in (("a.mp4", H264), ("a.mkv", H264), ("a.webm", ["-c:v", "libvpx", "-c:a", "libopus"])):
        clip = tmp_path / name
        ffmpeg(*moving(seconds=2), *TONE, *encoder, clip)
        found = probe(clip, LIMITS)
        assert (name, found.duration_s, found.frames) == (name, pytest.approx(2.0, abs=0.05), 48)


def test_a_recording_without_a_duration_in_its_header_is_measured(tmp_path: Path) -> None:
    clip = tmp_path / "live.mkv"  # as browsers and screen recorders write them
    ffmpeg(*moving(seconds=2), *H264, "-live", "1", clip)
    found = probe(clip, LIMITS)
    assert found.duration_s == pytest.approx(2.0, abs=0.05)
    assert found.frames == 48


@pytest.mark.parametrize(
    "container",
    [
        "matroska",
        pytest.param("avi", marks=pytest.mark.xfail(strict=True, reason="its length is guessed, not counted")),
    ],
)
def test_a_clip_that_was_written_to_a_pipe_is_not_cut_short(tmp_path: Path, container: str) -> None:
    """Its writer could not go back to fill in the lengths."""
    clip = tmp_path / f"piped.{'mkv' if container == 'matroska' else container}"
    argv = [FFMPEG, "-nostdin", "-v", "error", *moving(seconds=2), "-c:v", "mpeg4", "-f", container, "-"]
    clip.write_bytes(subprocess.run(argv, check=True, stdout=subprocess.PIPE, timeout=60).stdout)
    found = probe(clip, LIMITS)
    assert (found.frames, found.duration_s) == (48, pytest.approx(2.0, abs=0.05))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_time_stamps_that_start_late_do_not_lengthen_a_clip(tmp_path: Path, container: str) -> None:
    clip = tmp_path / f"late.{container}"
    ffmpeg(*moving(seconds=2), *H264, "-output_ts_offset", "100", clip)
    assert probe(clip, LIMITS).duration_s == pytest.approx(2.0, abs=0.1)


def test_fragmented_mp4_is_read_like_any_other(tmp_path: Path) -> None:
    clip = tmp_path / "fragments.mp4"
    ffmpeg(*moving(seconds=2), *H264, "-g", "12", "-movflags", "frag_keyframe+empty_moov", clip)
    found = probe(clip, LIMITS)
    assert (found.frames, found.duration_s) == (48, pytest.approx(2.0, abs=0.01))


def test_tags_that_are_not_utf_8_do_not_matter(tmp_path: Path) -> None:
    clip = tmp_path / "a.mkv"
    ffmpeg(*moving(seconds=0.5), *H264, "-metadata", "title=K#se", clip)
    clip.write_bytes(clip.read_bytes().replace(b"K#se", b"K\xe4se"))  # Latin-1, as old tools write it
    assert probe(clip, LIMITS).frames == 12


# ------------------------------------------------------------------------------------------------------------ refused


def _missing(at: Path) -> Path:
    return at / "missing.mp4"


def _folder(at: Path) -> Path:
    (at / "folder.mp4").mkdir()
    return at / "folder.mp4"


def _fifo(at: Path) -> Path:
    os.mkfifo(at / "fifo.mp4")
    return at / "fifo.mp4"


def _dangling(at: Path) -> Path:
    (at / "link.mp4").symlink_to(at / "nowhere.mp4")
    return at / "link.mp4"


def _empty(at: Path) -> Path:
    (at / "empty.mp4").write_bytes(b"")
    return at / "empty.mp4"


def _text(at: Path) -> Path:
    (at / "text.mp4").write_text("this is no video\n" * 100)
    return at / "text.mp4"


def _ffconcat(at: Path) -> Path:
    make_clip(at / "other.mp4", size=(64, 64), fps=10, seconds=1)
    (at / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    return at / "list.mp4"


def _hls(at: Path) -> Path:
    make_clip(at / "other.ts", size=(64, 64), fps=10, seconds=1)
    (at / "playlist.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    return at / "playlist.mp4"


def _still(at: Path) -> Path:
    Image.new("RGB", (64, 64)).save(at / "still.png")
    return (at / "still.png").rename(at / "still.mp4")


def _sound(at: Path) -> Path:
    ffmpeg(*TONE, "-t", "1", at / "sound.mp4")
    return at / "sound.mp4"


def _sound_with_cover(at: Path) -> Path:
    cover = ["-map", "0", "-map", "1", "-c:v", "png", "-disposition:v:0", "attached_pic", "-frames:v", "1"]
    ffmpeg(*TONE, *moving("64x64", "1", 1), *cover, "-t", "1", at / "cover.m4a")
    return at / "cover.m4a"


def _no_frames(at: Path) -> Path:
    """A video track of no samples: `stsz` of a one-frame clip set to zero, with all that counts on it."""
    make_clip(at / "none.mp4", size=(64, 64), fps=10, seconds=0.1)
    data = bytearray((at / "none.mp4").read_bytes())
    for box, counts_at in ((b"stsz", 12), (b"stts", 8), (b"stsc", 8), (b"stco", 8)):
        start = data.index(box)
        data[start + counts_at : start + counts_at + 4] = bytes(4)
    (at / "none.mp4").write_bytes(data)
    return at / "none.mp4"


def _cut_mp4(at: Path) -> Path:
    make_clip(at / "whole.mp4", size=(192, 108), fps=24, seconds=2)
    ffmpeg("-i", at / "whole.mp4", "-c", "copy", "-movflags", "faststart", at / "cut.mp4")
    os.truncate(at / "cut.mp4", (at / "cut.mp4").stat().st_size // 2)
    return at / "cut.mp4"


def _cut_mp4_without_index(at: Path) -> Path:
    make_clip(at / "cut.mp4", size=(192, 108), fps=24, seconds=2)
    os.truncate(at / "cut.mp4", (at / "cut.mp4").stat().st_size // 2)
    return at / "cut.mp4"


def _cut_mkv(at: Path) -> Path:
    ffmpeg(*moving(seconds=6), *H264, "-g", "24", at / "cut.mkv")
    os.truncate(at / "cut.mkv", (at / "cut.mkv").stat().st_size // 2)
    return at / "cut.mkv"


def _cut_avi(at: Path) -> Path:
    ffmpeg(*moving(seconds=6), "-c:v", "mpeg4", "-g", "24", at / "cut.avi")
    os.truncate(at / "cut.avi", (at / "cut.avi").stat().st_size // 2)
    return at / "cut.avi"


def _unknown_codec(at: Path) -> Path:
    clip = make_clip(at / "unknown.mp4", size=(64, 64), fps=10, seconds=0.5)
    clip.write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    return clip


def _no_rate(at: Path) -> Path:
    """One frame that lasts 2**31 ticks: a rate so near to zero that arithmetic may take it for zero."""
    make_clip(at / "slow.mp4", size=(64, 64), fps=10, seconds=0.1)
    data = bytearray((at / "slow.mp4").read_bytes())
    for box, value_at, value in ((b"stts", 16, 2**31 - 1), (b"mdhd", 16, 1), (b"mdhd", 20, 2**31 - 1)):
        start = data.index(box)
        data[start + value_at : start + value_at + 4] = value.to_bytes(4, "big")
    (at / "slow.mp4").write_bytes(data)
    return at / "slow.mp4"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_missing, "no such file"),
        (_folder, "not a regular file"),
        (_fifo, "not a regular file"),
        (_dangling, "no such file"),
        (_empty, "is empty"),
        (_text, "no video that can be opened"),
        (_ffconcat, "no video that can be opened"),
        (_hls, "no video that can be opened"),
        (_still, "no video that can be opened"),
        (_sound, "no video stream"),
        (_sound_with_cover, "no video stream"),
        (_no_frames, ""),
        (_cut_mp4, "cut short"),
        (_cut_mp4_without_index, "no video that can be opened"),
        (_cut_mkv, "cut short"),
        (_cut_avi, "cut short"),
        (_unknown_codec, ""),
        (_no_rate, ""),
    ],
)
def test_what_is_no_whole_video_is_refused_with_its_name_and_the_reason(tmp_path: Path, make: Any, says: str) -> None:
    path: Path = make(tmp_path)
    with at_most(20), pytest.raises(VideoError) as e:
        probe(path, LIMITS)
    assert str(path) in e.value.message
    assert says in e.value.message


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        (replace(LIMITS, max_bytes=1000), "video.max_bytes"),
        (replace(LIMITS, max_pixels=192 * 108 - 1), "video.max_pixels"),
        (replace(LIMITS, max_duration_s=0.99), "video.max_duration_s"),
    ],
)
def test_each_limit_refuses_what_is_above_it_and_names_its_setting(
    tmp_path: Path, limits: VideoLimits, key: str
) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(192, 108), fps=10, seconds=1)
    with pytest.raises(VideoError) as e:
        probe(clip, limits)
    assert key in str(e.value)
    assert str(clip) in str(e.value)


def test_each_limit_lets_through_what_is_exactly_at_it(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(192, 108), fps=10, seconds=1)
    assert probe(clip, VideoLimits(clip.stat().st_size, 192 * 108, 1.0)).frames == 10


def test_a_playlist_makes_nobody_read_the_files_that_it_names(tmp_path: Path) -> None:
    pipe = tmp_path / "never.ts"
    os.mkfifo(pipe)  # opening it would hang
    for text in (f"ffconcat version 1.0\nfile {pipe.name}\n", f"#EXTM3U\n#EXTINF:1,\n{pipe.name}\n#EXT-X-ENDLIST\n"):
        playlist = tmp_path / "playlist.mp4"
        playlist.write_text(text)
        with at_most(10), pytest.raises(VideoError):
            probe(playlist, LIMITS)


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "webm"])
def test_a_damaged_clip_gives_frames_or_a_video_error_and_nothing_else(tmp_path: Path, container: str) -> None:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(container, "libx264")
    sound = make_clip(tmp_path / f"sound.{container}", size=(64, 64), fps=10, seconds=1, codec=codec).read_bytes()
    dice = random.Random(container)
    for _ in range(150):
        data, span = bytearray(sound), dice.choice([600, len(sound)])
        for _ in range(dice.randrange(1, 12)):
            data[dice.randrange(span) - span if container == "mp4" else dice.randrange(span)] = dice.randrange(256)
        clip = tmp_path / f"damaged.{container}"
        clip.write_bytes(data)
        try:
            found = probe(clip, LIMITS)
            for rule in ("head", "ends", "uniform"):
                times = _planned(found, rule, 2)
                read_frames(clip, rule, len(times), 2.0, found.duration_s)
        except VideoError as e:
            assert str(clip) in e.message  # noqa: PT017  # either way is right; the message must name the file


# ---------------------------------------------------------------------------------------------------- head, as ffmpeg


def _planned(found: Video, rule: str, count: int, fps: float = 2.0) -> tuple[float, ...]:
    return sampling.frame_times(rule, count, fps, fps=found.fps, frames=found.frames, duration_s=found.duration_s)


def _ffmpeg_frames(clip: Path, scale: str, folder: Path, *, fps: str = "2", count: int = 2) -> list[Pixels]:
    """The frames of the old command; it exits with 0 and without a file for clips that are too short."""
    folder.mkdir()
    filters = ["-vf", f"scale={scale}:flags=lanczos,fps={fps}", "-vframes", str(count), "-pix_fmt", "rgb24"]
    ffmpeg("-i", clip, *filters, folder / "out_%d.png")
    return [np.asarray(Image.open(folder / f"out_{n}.png")) for n in range(1, len(list(folder.iterdir())) + 1)]


def _hint_frames(clip: Path, cache: Path, width_px: int = 320) -> list[Pixels]:
    found = probe(clip, LIMITS)
    size, times = geometry.at_width(found.size, width_px), _planned(found, "head", 2)
    hint = Hint(size.width_px, size.height_px, len(times), times, "head", 2.0)
    return [np.asarray(Image.open(path)) for path in render(found, hint, cache, with_video=False).frame_paths]


UPRIGHT = "a clip to remux"


def _copy(*options: str) -> list[str]:
    """Arguments that remux UPRIGHT with input options."""
    return [*options, "-i", UPRIGHT, "-c", "copy"]


# Name -> ffmpeg arguments that make the clip.
ODD: dict[str, list[str]] = {
    UPRIGHT: [*moving(seconds=2.5), *H264, "-f", "mp4"],
    "24fps.mp4": [*moving(), *H264],
    "ntsc.mp4": [*moving(fps="30000/1001"), *H264],
    "film.mkv": [*moving(fps="24000/1001"), *H264],
    "10fps.mp4": [*moving(fps="10"), *H264],
    "1fps.mp4": [*moving(fps="1", seconds=4), *H264],
    "60fps.mp4": [*moving(fps="60"), *H264],
    "7.5fps.avi": [*moving(fps="15/2"), "-c:v", "mpeg4"],
    "b-frames.mp4": [*moving(fps="30"), *H264, "-x264-params", "bframes=8:b-pyramid=strict:ref=5:b-adapt=0"],
    "open-gop.mp4": [*moving(fps="30"), *H264, "-x264-params", "open-gop=1:keyint=12:bframes=4"],
    "hevc-open-gop.mp4": [*moving(fps="30"), "-pix_fmt", "yuv420p", *H265, "log-level=none:open-gop=1:keyint=15"],
    "ten-bit.mkv": [*moving(), "-pix_fmt", "yuv420p10le", *H265, "log-level=none"],
    "vp9.webm": [*moving(fps="25"), "-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"],
    "vp9-alt-ref.webm": [*moving(fps="25"), "-c:v", "libvpx-vp9", "-cpu-used", "8", "-auto-alt-ref", "1"],
    "vp8.webm": [*moving(), "-c:v", "libvpx", "-cpu-used", "8"],
    "av1.mkv": [*moving("256x144"), "-pix_fmt", "yuv420p", "-c:v", "libsvtav1", "-preset", "12"],
    "mpeg4.avi": [*moving(fps="30"), "-c:v", "mpeg4", "-bf", "2"],
    "mjpeg.avi": [*moving(fps="15"), "-c:v", "mjpeg", "-q:v", "3"],
    "prores.mov": [*moving(), "-c:v", "prores_ks"],
    "xvid-packed.avi": [*moving(fps="25"), "-c:v", "libxvid", "-bf", "2"],
    "vfr.mp4": [*moving(fps="30"), "-vf", "select='not(mod(n,3))+lt(n,10)'", "-fps_mode", "vfr", *H264],
    "vfr-gap.mkv": [*moving(fps="10"), "-vf", "select='eq(n,0)+gt(n,8)'", "-fps_mode", "vfr", *H264],
    "edit-list.mp4": _copy("-ss", "0.7"),
    "rotated-90.mp4": _copy("-display_rotation", "90"),
    "rotated-180.mp4": _copy("-display_rotation", "180"),
    "rotated-270.mp4": _copy("-display_rotation", "270"),
    "rotated-90.mkv": _copy("-display_rotation", "90"),
    "mirrored.mp4": _copy("-display_hflip"),
    "upside-down.mp4": _copy("-display_vflip"),
    "rotated-90-mirrored.mp4": _copy("-display_rotation", "90", "-display_hflip"),
    "late.mp4": _copy("-itsoffset", "0.9"),
    "late.mkv": _copy("-itsoffset", "0.9"),
    "fragments.mp4": [*moving(), *H264, "-g", "12", "-movflags", "frag_keyframe+empty_moov"],
    "odd-size.mkv": [*moving("321x241"), "-pix_fmt", "yuv444p", "-c:v", "libx264"],
    "tall.mp4": [*moving("180x640"), *H264],
    "0.4s.mp4": [*moving(fps="25", seconds=0.4), *H264],
    "0.6s.mp4": [*moving(fps="25", seconds=0.6), *H264],
    "0.8s.mp4": [*moving(fps="25", seconds=0.8), *H264],
    "full-range.mp4": [*moving(), "-pix_fmt", "yuvj420p", "-c:v", "libx264"],
    "bt709.mp4": [*moving(), *H264, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"],
    "grey.mp4": [*moving(), "-pix_fmt", "gray", "-c:v", "libx264"],
    "interlaced.mp4": [*moving(fps="50"), "-vf", "interlace", *H264, "-flags", "+ildct+ilme"],
    "alpha.webm": [*moving(), "-c:v", "libvpx-vp9", "-cpu-used", "8", "-pix_fmt", "yuva420p"],
}


Odd = Callable[[str], Path]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """Makes a clip of ODD, once."""
    folder = tmp_path_factory.mktemp("odd")

    def clip(name: str) -> Path:
        path = folder / name
        if not path.exists():
            ffmpeg(*(clip(UPRIGHT) if a == UPRIGHT else a for a in ODD[name]), path)
        return path

    return clip


@pytest.mark.parametrize("name", ODD)
def test_head_gives_the_very_pixels_of_the_ffmpeg_command(tmp_path: Path, odd: Odd, name: str) -> None:
    clip = odd(name)
    want = _ffmpeg_frames(clip, "320:-2", tmp_path / "want")
    assert want, "the command gives nothing to compare with"
    got = _hint_frames(clip, tmp_path / "cache")
    assert [frame.shape for frame in got] == [frame.shape for frame in want]
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("fps", [1.0, 2.5, 24.0])
def test_head_follows_ffmpeg_for_every_count_and_rate(tmp_path: Path, odd: Odd, count: int, fps: float) -> None:
    clip = odd(UPRIGHT)
    want = _ffmpeg_frames(clip, "320:-2", tmp_path / "want", fps=str(fps), count=count)
    found = probe(clip, LIMITS)
    times = _planned(found, "head", count, fps)
    rendered = render(found, Hint(320, 240, len(times), times, "head", fps), tmp_path / "cache", with_video=False)
    got = [np.asarray(Image.open(path)) for path in rendered.frame_paths]
    assert len(got) == len(want)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_head_gives_the_last_frame_where_ffmpeg_gives_none(tmp_path: Path, frames: int) -> None:
    clip = make_clip(tmp_path / "short.mp4", size=(320, 180), fps=25, seconds=frames / 25)
    assert _ffmpeg_frames(clip, "320:-2", tmp_path / "want") == []
    found = probe(clip, LIMITS)
    [(time_s, frame)] = read_frames(clip, "head", 1, 2.0, found.duration_s)
    assert time_s == pytest.approx((frames - 1) / 25, abs=1e-6)
    assert np.array_equal(_rgb(frame), _all_frames(clip)[-1][1])


def test_head_starts_with_the_first_picture_when_the_sound_starts_earlier(tmp_path: Path, odd: Odd) -> None:
    clip = tmp_path / "late.mp4"
    ffmpeg("-itsoffset", "1.3", "-i", odd(UPRIGHT), *TONE, "-map", "0", "-map", "1", "-c:v", "copy", clip)
    want, got = _ffmpeg_frames(clip, "320:-2", tmp_path / "want"), _hint_frames(clip, tmp_path / "cache")
    assert np.array_equal(got[0], want[0])
    assert len(got) == 2
    assert not np.array_equal(got[0], got[1])  # ffmpeg's muxer repeats the first one here


@pytest.mark.parametrize("rule", ["head", "ends", "uniform"])
@pytest.mark.parametrize("name", ["24fps.mp4", "ntsc.mp4", "mpeg4.avi", "vp9.webm", "0.8s.mp4", "edit-list.mp4"])
def test_frames_are_as_many_and_from_where_the_header_let_plan(odd: Odd, name: str, rule: str) -> None:
    clip = odd(name)
    found = probe(clip, LIMITS)
    for count in (1, 2, 5):
        planned = _planned(found, rule, count)
        taken = [t for t, _ in read_frames(clip, rule, len(planned), 2.0, found.duration_s)]
        assert taken == sorted(taken)
        assert taken == pytest.approx(planned, abs=1.01 / found.fps)


# ------------------------------------------------------------------------------------------------- ends and uniform


def _rgb(frame: VideoFrame) -> Pixels:
    pixels: Any = frame.to_ndarray(format="rgb24")
    return np.asarray(pixels, dtype=np.uint8)


def _all_frames(clip: Path) -> list[tuple[Fraction, Pixels]]:
    """Every frame of a clip with its time, decoded from first to last with nothing left out."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        origin = Fraction(container.start_time or 0, 1_000_000)
        frames = [((f.pts or 0) * (f.time_base or 0) - origin, _rgb(f)) for f in container.decode(stream)]
    return sorted(frames, key=lambda pair: pair[0])


def _shown_at(frames: list[tuple[Fraction, Pixels]], time_s: Fraction) -> list[Pixels]:
    """What a player shows at a time; both neighbours when the time is within a millisecond of a change."""
    slack = Fraction(1, 1000)
    around = {
        max((i for i, (t, _) in enumerate(frames) if t <= at), default=0) for at in (time_s - slack, time_s + slack)
    }
    return [frames[i][1] for i in around]


FAR = [
    "24fps.mp4", "ntsc.mp4", "open-gop.mp4", "b-frames.mp4", "hevc-open-gop.mp4", "ten-bit.mkv", "vp9-alt-ref.webm",
    "mpeg4.avi", "mjpeg.avi", "vfr.mp4", "vfr-gap.mkv", "edit-list.mp4", "late.mkv", "fragments.mp4", "0.4s.mp4", "av1.mkv",
]  # fmt: skip


@pytest.mark.parametrize("name", FAR)
def test_ends_equals_a_full_decode_at_even_times_from_the_first_frame_to_the_last(
    tmp_path: Path, odd: Odd, name: str
) -> None:
    clip = odd(name)
    found, frames = probe(clip, LIMITS), _all_frames(clip)
    first, last = frames[0][0], frames[-1][0]
    for count in range(1, min(8, len(frames)) + 1):
        taken = read_frames(clip, "ends", count, 2.0, found.duration_s)
        assert len(taken) == count
        for k, (_, frame) in enumerate(taken):
            at = first + (last - first) * Fraction(k, max(count - 1, 1))
            assert any(np.array_equal(_rgb(frame), want) for want in _shown_at(frames, at)), f"frame {k} of {count}"


@pytest.mark.parametrize("name", FAR)
def test_uniform_equals_a_full_decode_at_the_middles_of_equal_parts(tmp_path: Path, odd: Odd, name: str) -> None:
    clip = odd(name)
    found, frames = probe(clip, LIMITS), _all_frames(clip)
    for count in range(1, min(8, len(frames)) + 1):
        taken = read_frames(clip, "uniform", count, 2.0, found.duration_s)
        assert len(taken) == count
        for k, (_, frame) in enumerate(taken):
            at = Fraction(found.duration_s) * Fraction(2 * k + 1, 2 * count)
            assert any(np.array_equal(_rgb(frame), want) for want in _shown_at(frames, at)), f"frame {k} of {count}"


# ---------------------------------------------------------------------------------------------- no more than is needed


class _Counted:
    """A file that counts the bytes read from it."""

    def __init__(self, path: Path) -> None:
        self.file, self.bytes = open(path, "rb"), 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        return data

    def seek(self, at: int, whence: int = 0) -> int:
        return self.file.seek(at, whence)

    def tell(self) -> int:
        return self.file.tell()


def _effort(clip: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(bytes read, packets from which frames were picked) for taking 2 frames."""
    opened: list[_Counted] = []
    packets = 0
    decode = frames._decode

    def counting_open(path: Path) -> Any:
        opened.append(_Counted(path))
        return av.open(opened[-1])

    def counting_decode(codec: Any, given: Sequence[Any], wanted: set[int]) -> Any:
        nonlocal packets
        packets += len(given)
        return decode(codec, given, wanted)

    found = probe(clip, LIMITS)
    with monkeypatch.context() as patched:
        patched.setattr(frames, "open_video", counting_open)
        patched.setattr(frames, "_decode", counting_decode)
        assert len(read_frames(clip, rule, 2, 2.0, found.duration_s)) == 2
    return sum(f.bytes for f in opened), packets


QUICK = [
    "24fps.mp4", "ntsc.mp4", "open-gop.mp4", "b-frames.mp4", "hevc-open-gop.mp4", "ten-bit.mkv", "vp9-alt-ref.webm",
    "vp8.webm", "av1.mkv", "vfr.mp4", "vfr-gap.mkv", "rotated-90.mp4", "late.mkv", "late.mp4", "full-range.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_a_clip_of_a_usual_kind_is_never_decoded_from_start_to_end(
    odd: Odd, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def slowly(*given: Any) -> Any:
        raise AssertionError("every frame would be decoded")

    clip = odd(name)
    found = probe(clip, LIMITS)
    monkeypatch.setattr(frames, "_in_order", slowly)
    for rule in ("head", "ends", "uniform"):
        for count in (1, 2, 3, 5):
            planned = _planned(found, rule, count)
            assert len(read_frames(clip, rule, len(planned), 2.0, found.duration_s)) == len(planned)


@pytest.mark.parametrize(
    ("container", "rule"), [*((c, r) for c in ("mp4", "mkv") for r in ("head", "ends", "uniform")), ("avi", "head")]
)
def test_effort_depends_on_the_distance_of_key_frames_and_not_on_the_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, rule: str
) -> None:
    encoder = ["-c:v", "mpeg4"] if container == "avi" else H264
    for name, seconds in (("short", 5.0), ("long", 60.0)):
        noisy = ["-vf", "noise=alls=20:allf=t", *encoder, "-b:v", "400k", "-g", "24"]
        ffmpeg(*moving("96x64", "12", seconds), *noisy, tmp_path / f"{name}.{container}")
    short, long = (_effort(tmp_path / f"{name}.{container}", rule, monkeypatch) for name in ("short", "long"))
    assert long[0] < 2 * short[0] + 100_000  # the file is 12 times as large, 3 MB
    assert long[1] <= short[1] + 24  # a key frame more or less


def test_a_hint_error_is_raised_where_the_picture_ends_before_the_planned_frames(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(64, 64), fps=10, seconds=0.5)
    found = replace(probe(clip, LIMITS), frames=50, duration_s=5.0)  # a header that promises ten times as much
    hint = Hint(64, 64, 2, _planned(found, "head", 2), "head", 2.0)
    with pytest.raises(HintError, match=r"a\.mp4"):
        render(found, hint, tmp_path / "cache", with_video=False)


@pytest.mark.parametrize("name", ["24fps.mp4", "rotated-90.mp4"])
def test_hint_video_shows_what_the_frames_show(tmp_path: Path, odd: Odd, name: str) -> None:
    found = probe(odd(name), LIMITS)
    size = geometry.fixed_width(found.size, 320)
    hint = Hint(size.width_px, size.height_px, 2, _planned(found, "head", 2), "head", 2.0)
    rendered = render(found, hint, tmp_path, with_video=True)
    assert rendered.video_path
    for path, (_, shown) in zip(rendered.frame_paths, _all_frames(rendered.video_path), strict=True):
        difference = np.abs(np.asarray(Image.open(path)).astype(int) - shown.astype(int))
        assert difference.mean() < 12  # H.264 at crf 18, chroma at half the size
