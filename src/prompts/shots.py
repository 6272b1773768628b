"""Folders of shots: each holds a clip and the control clips that belong to it, and is one item.

    SHOT/color.mp4 (or colour, rgb, beauty)    the clip
    SHOT/depth.mp4, seg.mp4, edge.mp4, …       its controls, by the names below
    SHOT/prompt.txt, or color.txt              its prompt

Frames in a folder in place of a clip, as SHOT/color/0001.png, become that clip with task=spec spec.prepare=true.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..text import natural_key
from .fields import VIDEO_SUFFIXES

COLOUR = ("color", "colour", "rgb", "beauty")
# Name of a file -> control.
CONTROLS = {
    "depth": "depth", "seg": "seg", "segmentation": "seg", "edge": "edge", "edges": "edge", "canny": "edge",
    "vis": "vis", "blur": "vis", "keypoint": "keypoint", "keypoints": "keypoint", "pose": "keypoint",
    "hdmap": "hdmap", "lidar": "lidar", "wsm": "wsm",
}  # fmt: skip
FRAMES = (".png", ".exr", ".jpg", ".jpeg", ".tif", ".tiff")


def _named(folder: Path) -> dict[str, Path]:
    """The clips of a shot by their names, the colour clip as "color"; a clip counts before one of a longer suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.stem.casefold()
        if path.suffix.lower() in VIDEO_SUFFIXES and (name in COLOUR or name in CONTROLS) and path.is_file():
            found.setdefault("color" if name in COLOUR else CONTROLS[name], path)
    return found


def clip_of(folder: Path) -> Path | None:
    """The colour clip of a shot; None for a folder that is none."""
    return _named(folder).get("color")


def clips_of(folder: Path) -> list[Path]:
    """The colour clips of a folder of shots, or of one that is a shot itself with controls."""
    if clip := clip_of(folder):
        return [clip] if len(_named(folder)) > 1 else []
    shots = (path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != ".")
    return [clip for shot in shots if (clip := clip_of(shot))]


def is_clip(file: Path) -> bool:
    """Whether a file is the colour clip of a shot."""
    return file.stem.casefold() in COLOUR and file.suffix.lower() in VIDEO_SUFFIXES


def item_of(clip: Path) -> dict[str, Any]:
    """The shot of a colour clip as an item. Raises OSError, UnicodeDecodeError."""
    texts = (clip.with_name("prompt.txt"), clip.with_suffix(".txt"))
    prompt = next((text.read_text(encoding="utf-8-sig").strip() for text in texts if text.is_file()), "")
    controls = {name: path for name, path in _named(clip.parent).items() if name != "color"}
    return {
        "name": clip.parent.absolute().name,
        "prompt": prompt,
        "video_path": clip.name,
        **{name: {"input_control": str(path.absolute())} for name, path in controls.items()},
    }


def sequences_of(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """(clip to be made, its frames in order) of each folder of frames in a shot, or in the shots of a folder."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."]
    for path in (*inner, *(deeper for shot in inner for deeper in sorted(shot.iterdir()) if deeper.is_dir())):
        if path.name.casefold() in (*COLOUR, *CONTROLS):
            found = (p for p in path.iterdir() if p.suffix.lower() in FRAMES and p.name[0] != ".")
            frames = sorted(found, key=lambda p: natural_key(p.name))
            if frames:
                yield path.with_suffix(".mp4"), frames
