"""Hints (two frames and the hint video) against the ffmpeg command that they replace, clip by clip."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Row, median_s, shown
from src.media import geometry, sampling
from src.media.hint import Hint
from src.media.render import render
from src.media.video import VideoLimits, probe
from src.models.pixtral import MAX_SIDE_PX

SIZES = ("1280x720", "1920x1080")
SECONDS = (5, 20, 60)
COPIES = 6  # clips of one kind, so that two workers have work
LIMITS = VideoLimits(10**11, 10**9, 10**6)


def rows() -> list[Row]:
    import imageio_ffmpeg

    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    table, shortest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            for seconds in SECONDS:
                clips = _clips(ffmpeg, Path(folder), size, seconds)
                theirs = median_s(lambda clip=clips[0]: _command(ffmpeg, clip), runs=3)  # type: ignore[misc]
                ours = min(_ours(clips, Path(folder) / "cache") for _ in range(3))
                table.append(
                    Row(
                        f"hint of {size}, {seconds} s, two workers",
                        "the ffmpeg command",
                        ours / theirs,
                        "≤ 0.30",
                        ours / theirs <= 0.30,
                        f"{shown(ours)} / {shown(theirs)} a clip",
                    )
                )
                if seconds == SECONDS[0]:
                    shortest = ours
            table.append(
                Row(
                    f"hint of {size}, {SECONDS[-1]} s",
                    f"the same, {SECONDS[0]} s",
                    ours / shortest,
                    "about 1 (flat)",
                    ours / shortest <= 1.3,
                    f"{shown(ours)} / {shown(shortest)}",
                )
            )
    return table


def _clips(ffmpeg: str, folder: Path, size: str, seconds: int) -> list[Path]:
    first = folder / f"{size}-{seconds}-0.mp4"
    source = f"testsrc2=s={size}:r=24:d={seconds}"
    make = [
        ffmpeg,
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        source,
        "-pix_fmt",
        "yuv420p",
        "-preset",
        "veryfast",
        str(first),
    ]
    subprocess.run(make, check=True)
    copies = [first]
    for n in range(1, COPIES):
        copies.append(folder / f"{size}-{seconds}-{n}.mp4")
        shutil.copyfile(first, copies[-1])
        with open(copies[-1], "ab") as f:  # a free box with a number in it: another file, the same pictures
            f.write(b"\0\0\0\x0cfree" + n.to_bytes(4, "big"))
    return copies


def _command(ffmpeg: str, clip: Path) -> None:
    out = clip.with_suffix(".hint.mp4")
    filters = "scale=320:-2:flags=lanczos,fps=2"
    subprocess.run(
        [ffmpeg, "-v", "error", "-y", "-i", str(clip), "-vf", filters, "-vframes", "2", "-an", "-crf", "18", str(out)],
        check=True,
    )


def _ours(clips: list[Path], cache: Path) -> float:
    """Seconds a clip, over all clips on two workers, with nothing in the cache; probing included."""
    shutil.rmtree(cache, ignore_errors=True)
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda clip: _one(clip, cache), clips))
    return (time.perf_counter() - started) / len(clips)


def _one(clip: Path, cache: Path) -> None:
    video = probe(clip, LIMITS)
    size = geometry.fixed_width(video.size, 320, geometry.visible(video.size, MAX_SIDE_PX))
    times = sampling.frame_times("head", 2, 2.0, fps=video.fps, frames=video.frames, duration_s=video.duration_s)
    render(video, Hint(size.width_px, size.height_px, 2, times, "head", 2.0), cache, with_video=True)
