"""Clips of many codecs and containers, made by moviepy's ffmpeg binary, and the frames that ffmpeg itself takes from a clip."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FFMPEG: str = imageio_ffmpeg.get_ffmpeg_exe()
Pixels = NDArray[np.uint8]


def ffmpeg(*argv: str | Path) -> bytes:
    """Run ffmpeg to its end; returns its standard output."""
    command = [FFMPEG, "-nostdin", "-y", "-v", "error", *map(str, argv)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60).stdout


def moving(size: str = "96x72", fps: str = "24", seconds: float = 1.5) -> list[str]:
    """Input arguments for a test picture in motion."""
    return ["-f", "lavfi", "-i", f"testsrc2=s={size}:r={fps}:d={seconds}"]


def copied(*options: str) -> list[str]:
    """Arguments that remux the clip UPRIGHT with input options."""
    return [*options, "-i", UPRIGHT, "-c", "copy"]


H264 = ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-threads", "1"]
H265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
VP9 = ["-c:v", "libvpx-vp9", "-cpu-used", "8"]
TONE = ["-f", "lavfi", "-i", "sine=d=6"]
UPRIGHT = "upright.mp4"
# File name: ffmpeg arguments that make the clip. Codecs, containers, frame rates, time stamps, rotations, pixel formats.
CLIPS: dict[str, list[str]] = {
    UPRIGHT: [*moving(seconds=2.5), *H264],
    "24fps.mp4": [*moving(), *H264],
    "ntsc.mp4": [*moving(fps="30000/1001"), *H264],
    "film.mkv": [*moving(fps="24000/1001"), *H264],
    "10fps.mp4": [*moving(fps="10"), *H264],
    "1fps.mp4": [*moving(fps="1", seconds=4), *H264],
    "60fps.mp4": [*moving(fps="60"), *H264],
    "7.5fps.avi": [*moving(fps="15/2"), "-c:v", "mpeg4"],
    "b-frames.mp4": [*moving(fps="30"), *H264, "-x264-params", "bframes=8:b-pyramid=strict:ref=5:b-adapt=0"],
    "open-gop.mp4": [*moving(fps="30"), *H264, "-x264-params", "open-gop=1:keyint=9:bframes=4"],
    "hevc-open-gop.mp4": [*moving(fps="30"), "-pix_fmt", "yuv420p", *H265, "log-level=none:open-gop=1:keyint=12"],
    "ten-bit.mkv": [*moving(), "-pix_fmt", "yuv420p10le", *H265, "log-level=none"],
    "vp9.webm": [*moving(fps="25"), *VP9, "-deadline", "realtime"],
    "vp9-alt-ref.webm": [*moving(fps="25"), *VP9, "-auto-alt-ref", "1", "-lag-in-frames", "16", "-b:v", "60k"],
    "vp8.webm": [*moving(), "-c:v", "libvpx", "-cpu-used", "8", "-deadline", "realtime"],
    "av1.mkv": [*moving(), "-pix_fmt", "yuv420p", "-c:v", "libsvtav1", "-preset", "12"],
    "mpeg4.avi": [*moving(fps="30"), "-c:v", "mpeg4", "-bf", "2"],
    "mjpeg.avi": [*moving(fps="15"), "-c:v", "mjpeg", "-q:v", "3"],
    "prores.mov": [*moving(fps="12"), "-c:v", "prores_ks"],
    "xvid-packed.avi": [*moving(fps="25"), "-c:v", "libxvid", "-bf", "2"],
    "vfr.mp4": [*moving(fps="30"), "-vf", "select='not(mod(n,3))+lt(n,10)'", "-fps_mode", "vfr", *H264],
    "vfr-gap.mkv": [*moving(fps="10", seconds=2), "-vf", "select='eq(n,0)+gt(n,8)'", "-fps_mode", "vfr", *H264],
    "edit-list.mp4": copied("-ss", "0.7"),
    "rotated-90.mp4": copied("-display_rotation", "90"),
    "rotated-180.mp4": copied("-display_rotation", "180"),
    "rotated-270.mp4": copied("-display_rotation", "270"),
    "rotated-90.mkv": copied("-display_rotation", "90"),
    "mirrored.mp4": copied("-display_hflip"),
    "upside-down.mp4": copied("-display_vflip"),
    "rotated-90-mirrored.mp4": copied("-display_rotation", "90", "-display_hflip"),
    "late.mp4": copied("-itsoffset", "0.9"),
    "late.mkv": copied("-itsoffset", "0.9"),
    "fragments.mp4": [*moving(), *H264, "-g", "12", "-movflags", "frag_keyframe+empty_moov"],
    "odd-size.mkv": [*moving("97x73"), "-pix_fmt", "yuv444p", "-c:v", "libx264", "-preset", "veryfast"],
    "tall.mp4": [*moving("72x256"), *H264],
    "0.4s.mp4": [*moving(fps="25", seconds=0.4), *H264],
    "0.6s.mp4": [*moving(fps="25", seconds=0.6), *H264],
    "0.8s.mp4": [*moving(fps="25", seconds=0.8), *H264],
    "full-range.mp4": [*moving(), "-pix_fmt", "yuvj420p", "-c:v", "libx264", "-preset", "veryfast"],
    "bt709.mp4": [*moving(), *H264, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"],
    "gray.mp4": [*moving(), "-pix_fmt", "gray", "-c:v", "libx264", "-preset", "veryfast"],
    "interlaced.mp4": [*moving(fps="50"), "-vf", "interlace", *H264, "-flags", "+ildct+ilme"],
    "alpha.webm": [*moving(fps="12"), *VP9, "-deadline", "realtime", "-pix_fmt", "yuva420p"],
}

TWO_PASSES = ("vp9-alt-ref.webm",)  # libvpx plans hidden frames in its second pass only
for _container, _codec in (("mp4", H264), ("mkv", H264), ("avi", ["-c:v", "mpeg4"])):
    for _seconds in (4, 24):  # two lengths with a key frame every 2 s, and so much noise that bytes grow with seconds
        _noise = ["-vf", "noise=alls=20:allf=t", *_codec, "-b:v", "400k", "-g", "24"]
        CLIPS[f"noise-{_seconds}s.{_container}"] = [*moving("96x64", "12", _seconds), *_noise]


class ClipSet:
    """The clips of CLIPS in one folder; each is made when it is first asked for. Processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            argv: list[str | Path] = [self(UPRIGHT) if word == UPRIGHT else word for word in CLIPS[name]]
            aside = path.with_name(f".{os.getpid()}-{name}")
            if name in TWO_PASSES:
                log: list[str | Path] = ["-passlogfile", aside.with_suffix("")]
                ffmpeg(*argv, "-pass", "1", *log, "-f", "null", "-")
                argv += ["-pass", "2", *log]
            ffmpeg(*argv, aside)
            aside.rename(path)
        return path


def head_frames(clip: Path, width_px: int, *, fps: str = "2", count: int = 2) -> list[Pixels]:
    """The frames of `ffmpeg -vf scale=WIDTH:-2,fps=FPS -vframes COUNT`; none for a clip that is too short for one."""
    filters = f"scale={width_px}:-2:flags=lanczos,fps={fps}"
    stream = ["-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm", "-"]
    data = ffmpeg("-threads", "1", "-i", clip, "-vf", filters, "-vframes", str(count), *stream)
    return [np.asarray(picture) for picture in _pictures(data)]


def _pictures(data: bytes) -> list[Image.Image]:
    """The pictures of a stream of binary PPM: "P6\\nWIDTH HEIGHT\\n255\\n" and the pixels of each."""
    found = []
    while data:
        magic, size, depth, rest = data.split(b"\n", 3)
        assert (magic, depth) == (b"P6", b"255")
        width, height = map(int, size.split())
        found.append(Image.frombytes("RGB", (width, height), rest[: width * height * 3]))
        data = rest[width * height * 3 :]
    return found
