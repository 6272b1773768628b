"""Frames of a clip: `head` as ffmpeg takes them, `ends` and `uniform` as a full decode has them, with little effort."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from src.errors import VideoError
from src.media import frames, geometry
from src.media.frames import read_frames
from src.media.hint import Hint
from src.media.render import render
from src.media.video import Video, probe
from tests.harness.clips import make_clip
from tests.harness.ffmpeg import CLIPS, TONE, UPRIGHT, ClipSet, Pixels, ffmpeg, head_frames
from tests.unit.media.conftest import LIMITS, planned_times

WIDTH_PX = 64


def rendered_head(clip: Path, cache: Path, *, count: int = 2, fps: float = 2.0) -> list[Pixels]:
    """The frames that a hint of rule `head` has, scaled as `head_frames` scales them."""
    video = probe(clip, LIMITS)
    size, times = geometry.at_width(video.size, WIDTH_PX), planned_times(video, "head", count, fps)
    hint = Hint(size.width_px, size.height_px, len(times), times, "head", fps)
    return [np.asarray(Image.open(path)) for path in render(video, hint, cache, with_video=False).frame_paths]


def rgb(frame: VideoFrame) -> Pixels:
    pixels: Any = frame.to_ndarray(format="rgb24")
    return np.asarray(pixels, dtype=np.uint8)


def decoded_frames(clip: Path) -> list[tuple[Fraction, Pixels]]:
    """Every frame of a clip with its time, decoded from first to last."""
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        origin = Fraction(container.start_time or 0, 1_000_000)
        found = [((f.pts or 0) * (f.time_base or 0) - origin, rgb(f)) for f in container.decode(stream)]
    return sorted(found, key=lambda pair: pair[0])


# Rule head


@pytest.mark.parametrize("name", [name for name in CLIPS if not name.startswith(("noise", "alpha"))])
def test_head_has_exactly_the_pixels_of_ffmpeg(tmp_path: Path, clip_set: ClipSet, name: str) -> None:
    clip = clip_set(name)
    expected = head_frames(clip, WIDTH_PX)
    assert expected, "ffmpeg takes no frame to compare with"
    found = rendered_head(clip, tmp_path)
    assert [frame.shape for frame in found] == [frame.shape for frame in expected]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("fps", [1.0, 2.5, 24.0])
def test_head_follows_ffmpeg_for_counts_and_rates(tmp_path: Path, clip_set: ClipSet, count: int, fps: float) -> None:
    clip = clip_set(UPRIGHT)
    expected = head_frames(clip, WIDTH_PX, fps=str(fps), count=count)
    found = rendered_head(clip, tmp_path, count=count, fps=fps)
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_head_of_short_clip_is_last_frame(tmp_path: Path, count: int) -> None:
    clip = make_clip(tmp_path / "short.mp4", size=(96, 72), fps=25, seconds=count / 25)
    assert head_frames(clip, WIDTH_PX) == []
    [(time_s, frame)] = read_frames(clip, "head", 1, 2.0, probe(clip, LIMITS).duration_s)
    assert time_s == pytest.approx((count - 1) / 25, abs=1e-6)
    assert np.array_equal(rgb(frame), decoded_frames(clip)[-1][1])


def test_head_ignores_sound_before_the_picture(tmp_path: Path, clip_set: ClipSet) -> None:
    clip = tmp_path / "late.mp4"
    ffmpeg("-itsoffset", "1.3", "-i", clip_set(UPRIGHT), *TONE, "-map", "0", "-map", "1", "-c:v", "copy", clip)
    expected, found = head_frames(clip, WIDTH_PX), rendered_head(clip, tmp_path)
    assert np.array_equal(found[0], expected[0])
    assert len(found) == 2
    assert not np.array_equal(found[0], found[1])  # ffmpeg's muxer repeats the first one here


# Rules ends and uniform


def shown_at(found: list[tuple[Fraction, Pixels]], time_s: Fraction) -> list[Pixels]:
    """What a player shows at a time; both neighbors when the time is within a millisecond of a change."""
    slack = Fraction(1, 1000)
    around = {
        max((i for i, (t, _) in enumerate(found) if t <= at), default=0) for at in (time_s - slack, time_s + slack)
    }
    return [found[i][1] for i in around]


SEEKING = [
    "24fps.mp4", "ntsc.mp4", "open-gop.mp4", "b-frames.mp4", "hevc-open-gop.mp4", "ten-bit.mkv", "vp9-alt-ref.webm",
    "mpeg4.avi", "mjpeg.avi", "vfr.mp4", "vfr-gap.mkv", "edit-list.mp4", "late.mkv", "fragments.mp4", "0.4s.mp4", "av1.mkv",
]  # fmt: skip
COUNTS = (1, 2, 3, 5, 8)


@pytest.mark.parametrize("name", SEEKING)
def test_ends_frames_are_evenly_spaced(clip_set: ClipSet, name: str) -> None:
    """From the first frame to the last one, as a full decode has them."""
    clip = clip_set(name)
    video, all_frames = probe(clip, LIMITS), decoded_frames(clip)
    first, last = all_frames[0][0], all_frames[-1][0]
    for count in {min(n, len(all_frames)) for n in COUNTS}:
        found = read_frames(clip, "ends", count, 2.0, video.duration_s)
        times = [first + (last - first) * Fraction(k, max(count - 1, 1)) for k in range(count)]
        assert_frames_at(found, all_frames, times)


@pytest.mark.parametrize("name", SEEKING)
def test_uniform_frames_are_middles_of_equal_parts(clip_set: ClipSet, name: str) -> None:
    clip = clip_set(name)
    video, all_frames = probe(clip, LIMITS), decoded_frames(clip)
    for count in {min(n, len(all_frames)) for n in COUNTS}:
        found = read_frames(clip, "uniform", count, 2.0, video.duration_s)
        middles = [Fraction(video.duration_s) * Fraction(2 * k + 1, 2 * count) for k in range(count)]
        times = [all_frames[0][0] + middle for middle in middles]
        assert_frames_at(found, all_frames, times)


def assert_frames_at(found: Any, all_frames: list[tuple[Fraction, Pixels]], times: list[Fraction]) -> None:
    for k, ((_, frame), time_s) in enumerate(zip(found, times, strict=True)):
        assert any(np.array_equal(rgb(frame), want) for want in shown_at(all_frames, time_s)), f"{k} of {len(times)}"


@pytest.mark.parametrize("rule", ["head", "ends", "uniform"])
@pytest.mark.parametrize("name", ["24fps.mp4", "ntsc.mp4", "mpeg4.avi", "vp9.webm", "0.8s.mp4", "edit-list.mp4"])
def test_frames_have_the_planned_times(clip_set: ClipSet, name: str, rule: str) -> None:
    clip = clip_set(name)
    video = probe(clip, LIMITS)
    for count in (1, 2, 5):
        planned = planned_times(video, rule, count)
        times = [t for t, _ in read_frames(clip, rule, len(planned), 2.0, video.duration_s)]
        assert times == sorted(times)
        assert times == pytest.approx(planned, abs=1.01 / video.fps)


# Effort


class CountingFile:
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


def effort(clip: Path, rule: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(bytes read, packets from which frames were selected) for 2 frames."""
    opened: list[CountingFile] = []
    packets = 0
    decode = frames._decode

    def counting_open(path: Path) -> Any:
        opened.append(CountingFile(path))
        return av.open(opened[-1])

    def counting_decode(codec: Any, given: Sequence[Any], wanted: set[int]) -> Any:
        nonlocal packets
        packets += len(given)
        return decode(codec, given, wanted)

    video = probe(clip, LIMITS)
    with monkeypatch.context() as patched:
        patched.setattr(frames, "open_video", counting_open)
        patched.setattr(frames, "_decode", counting_decode)
        assert len(read_frames(clip, rule, 2, 2.0, video.duration_s)) == 2
    return sum(f.bytes for f in opened), packets


@pytest.mark.parametrize(
    ("container", "rule"), [*((c, r) for c in ("mp4", "mkv") for r in ("head", "ends", "uniform")), ("avi", "head")]
)
def test_effort_does_not_grow_with_length(
    clip_set: ClipSet, monkeypatch: pytest.MonkeyPatch, container: str, rule: str
) -> None:
    """It depends on the distance of key frames."""
    short, long = clip_set(f"noise-4s.{container}"), clip_set(f"noise-24s.{container}")
    assert long.stat().st_size > max(1_000_000, 4.5 * short.stat().st_size)
    short_bytes, short_packets = effort(short, rule, monkeypatch)
    long_bytes, long_packets = effort(long, rule, monkeypatch)
    assert long_bytes < 2 * short_bytes + 100_000
    assert long_packets <= short_packets + 24  # a key frame more or less


SEEKABLE = [
    "24fps.mp4", "ntsc.mp4", "open-gop.mp4", "b-frames.mp4", "hevc-open-gop.mp4", "ten-bit.mkv", "vp9-alt-ref.webm",
    "vp8.webm", "av1.mkv", "vfr.mp4", "vfr-gap.mkv", "rotated-90.mp4", "late.mkv", "late.mp4", "full-range.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", SEEKABLE)
def test_common_clips_are_never_decoded_completely(
    clip_set: ClipSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError("every frame would be decoded")

    clip = clip_set(name)
    video = probe(clip, LIMITS)
    monkeypatch.setattr(frames, "_in_order", refuse)
    for rule in ("head", "ends", "uniform"):
        for count in (1, 2, 5):
            planned = planned_times(video, rule, count)
            assert len(read_frames(clip, rule, len(planned), 2.0, video.duration_s)) == len(planned)


def test_alt_ref_clip_has_hidden_frames(clip_set: ClipSet) -> None:
    """The clip has the frames that it is there for: VP9 packs a hidden frame and a shown one into a superframe."""
    with av.open(str(clip_set("vp9-alt-ref.webm"))) as container:
        last_bytes = [bytes(packet)[-1] for packet in container.demux(video=0) if packet.size]
    assert any(byte & 0b1110_0000 == 0b1100_0000 for byte in last_bytes)  # marker of a superframe index


# Damage


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "webm"])
def test_damaged_clip_raises_only_video_errors(tmp_path: Path, container: str) -> None:
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(container, "libx264")
    whole = make_clip(tmp_path / f"whole.{container}", size=(64, 64), fps=10, seconds=0.6, codec=codec).read_bytes()
    rnd = random.Random(container)
    for _ in range(25):
        data, span = bytearray(whole), rnd.choice([600, len(whole)])
        for _ in range(rnd.randrange(1, 12)):
            data[rnd.randrange(span) - span if container == "mp4" else rnd.randrange(span)] = rnd.randrange(256)
        clip = tmp_path / f"damaged.{container}"
        clip.write_bytes(data)
        try:
            read_all_rules(clip, probe(clip, LIMITS))
        except VideoError as e:
            assert str(clip) in e.message  # noqa: PT017 - frames are right too; a message must name the file


def read_all_rules(clip: Path, video: Video) -> None:
    for rule in ("head", "ends", "uniform"):
        read_frames(clip, rule, len(planned_times(video, rule, 2)), 2.0, video.duration_s)
