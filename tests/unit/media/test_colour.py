"""What a standard screen shows of HDR and of transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.media import colour
from src.media.hint import Hint, hint_times
from src.media.render import render
from src.media.video import Video, VideoLimits, probe
from tests.harness.clips import make_clip
from tests.harness.ffmpeg import H265, ffmpeg

LIMITS = VideoLimits(10**9, 10**8, 1e5)


def grey(signal: float) -> np.ndarray:
    return np.full((1, 1, 3), round(signal * 65535), dtype=np.uint16)


# Signals of the same light: PQ by SMPTE ST 2084, HLG by BT.2100 on a screen of 1,000 nits.
@pytest.mark.parametrize(("transfer", "white", "grey_18"), [("PQ", 0.5807, 0.4078), ("HLG", 0.75, 0.4362)])
def test_reference_white_is_nearly_white(transfer: str, white: float, grey_18: float) -> None:
    assert 205 <= colour.to_bt709(grey(white), transfer)[0, 0, 0] <= 245
    shown = 255 * 0.18 ** (1 / 2.4)  # below the knee light is as it was
    assert colour.to_bt709(grey(grey_18), transfer)[0, 0, 0] == pytest.approx(shown, abs=6)


@pytest.mark.parametrize("transfer", ["PQ", "HLG"])
def test_brighter_is_never_darker(transfer: str) -> None:
    ramp = np.linspace(0, 65535, 500).astype(np.uint16)[None, :, None].repeat(3, axis=2)
    shown = colour.to_bt709(ramp, transfer)[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all() and shown[0] == 0 and shown[-1] == 255


def first_frame(clip: Path, cache: Path) -> tuple[Video, Image.Image]:
    video = probe(clip, LIMITS)
    times = hint_times(video, "head", 1, 2.0)
    hint = Hint(video.width_px, video.height_px, len(times), times, "head", 2.0)
    return video, Image.open(render(video, hint, cache, with_video=False).frame_paths[0]).convert("RGB")


def test_hdr_clip_is_noted_and_tone_mapped(tmp_path: Path) -> None:
    tags = "log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
    source = ["-f", "lavfi", "-i", "color=c=gray:s=64x64:r=5:d=0.4", "-pix_fmt", "yuv420p10le"]
    ffmpeg(*source, *H265, tags, tmp_path / "hdr.mp4")
    video, frame = first_frame(tmp_path / "hdr.mp4", tmp_path / "cache")
    assert (video.transfer, video.note) == ("HLG", "HDR (HLG) tone-mapped to BT.709")
    plain = make_clip(tmp_path / "plain.mp4", size=(64, 64), fps=5, seconds=0.4)
    assert probe(plain, LIMITS).note == ""
    assert frame.getpixel((30, 30)) != (128, 128, 128)


@pytest.mark.parametrize(
    ("name", "options"),
    [("cut.mov", ["-c:v", "qtrle", "-pix_fmt", "argb"]), ("cut.webm", ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"])],
)
def test_colour_behind_transparency_is_not_shown(tmp_path: Path, name: str, options: list[str]) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=c=green@0.0:s=64x64:r=5:d=0.4,format=rgba", *options, tmp_path / name)
    video, frame = first_frame(tmp_path / name, tmp_path / "cache")
    assert video.note == "black where it is transparent"
    assert max(frame.getpixel((30, 30))) < 8  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_picture_is_one_frame(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (64, 48), (200, 30, 60)).save(tmp_path / f"frame_%d.{suffix}")
    video, frame = first_frame(tmp_path / f"frame_%d.{suffix}", tmp_path / "cache")
    assert (video.frames, video.note) == (1, "a picture, used as one frame")
    assert frame.getpixel((30, 30)) == pytest.approx((200, 30, 60), abs=12)


def test_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 32), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 32, 32))
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    video, frame = first_frame(tmp_path / "turned.jpg", tmp_path / "cache")
    assert (video.width_px, video.height_px) == (32, 64)
    assert frame.getpixel((16, 8))[0] > 200 > 50 > frame.getpixel((16, 56))[0]  # type: ignore[index]


def test_default_stream_is_taken_before_a_preview(tmp_path: Path) -> None:
    small, large = (["-f", "lavfi", "-i", f"testsrc2=s={size}:r=10:d=0.5"] for size in ("32x18", "160x90"))
    marks = ["-disposition:v:0", "0", "-disposition:v:1", "default"]
    coder = ["-c:v", "libx264", "-pix_fmt", "yuv420p"]
    ffmpeg(*small, *large, "-map", "0", "-map", "1", *coder, *marks, tmp_path / "two.mkv")
    video = probe(tmp_path / "two.mkv", LIMITS)
    assert (video.width_px, video.height_px) == (160, 90)
    assert video.note.startswith("video stream 2 of 2 (160x90)")


@pytest.mark.parametrize("name", ["live.ts", "live.mp4"])
def test_transport_stream_is_read_by_any_name(tmp_path: Path, name: str) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:r=10:d=1", "-c:v", "mpeg2video", "-f", "mpegts", tmp_path / name)
    video, _ = first_frame(tmp_path / name, tmp_path / "cache")
    assert (video.frames, video.fps) == (10, 10)
