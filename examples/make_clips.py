"""Make the short synthetic clips that `prompts.json` refers to.

The scenes are drawn frame by frame (see `scenes.py`) and encoded by moviepy. Sizes,
frame rates, codecs and containers differ on purpose. What is random is seeded: the same
encoder makes the same files again. They go into the `clips` folder beside this file.
Needs moviepy.

    python examples/make_clips.py                  # all clips
    python examples/make_clips.py dusk_drive.mp4   # only those named
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import scenes
from moviepy import VideoClip
from numpy.typing import NDArray

CLIPS_DIR = Path(__file__).resolve().parent / "clips"


class Clip(NamedTuple):
    """One file to make: its scene, length, frame rate and encoder settings."""

    file: str
    scene: scenes.Scene
    frames: int
    fps: str
    codec: str
    quality: str


CLIPS = (
    Clip("robot_arm.mp4", scenes.robot_arm, 72, "24", "libx264", "-crf 25"),
    Clip("snowy_street.mp4", scenes.snowy_street, 90, "30", "libx264", "-crf 30"),
    Clip("sunset_sail.mp4", scenes.sunset_sail, 30, "25", "libx264", "-crf 27"),
    Clip("tractor_field.mp4", scenes.tractor_field, 40, "10", "libx264", "-crf 26"),
    Clip("rolling_ball.webm", scenes.rolling_ball, 75, "25", "libvpx-vp9", "-crf 28 -b:v 0"),
    Clip("dusk_drive.mp4", scenes.dusk_drive, 90, "30000/1001", "mpeg4", "-q:v 6 -g 60 -trellis 2"),
    Clip("rainy_crossing.mkv", scenes.rainy_crossing, 75, "25", "libx265", "-crf 32"),
)


def make(clip: Clip) -> Path:
    draw = clip.scene()
    over, under = [int(n) for n in f"{clip.fps}/1".split("/")[:2]]
    fps = over / under

    def picture(t: float) -> NDArray[Any]:
        return draw(t).pixels()

    path = CLIPS_DIR / clip.file
    video = VideoClip(picture, duration=(clip.frames + 0.01) / fps)
    extra = f"-r {clip.fps} -vf format=yuv420p -fflags +bitexact {clip.quality}"
    if path.suffix == ".mp4":
        extra += " -movflags +faststart"
    video.write_videofile(
        str(path),
        fps=fps,
        codec=clip.codec,
        audio=False,
        preset="slow",
        ffmpeg_params=extra.split(),
        logger=None,
    )
    return path


def main() -> None:
    CLIPS_DIR.mkdir(exist_ok=True)
    for clip in CLIPS:
        if not sys.argv[1:] or clip.file in sys.argv[1:]:
            path = make(clip)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
