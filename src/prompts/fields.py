"""Which fields of an item hold its name, its prompt and its clip, under the names that other tools give them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

# Field names per role, the first one that is there counts. Case, blanks, hyphens and underscores make no difference.
_NAMES = {
    "name": ("name", "custom_id"),
    "prompt": (
        *("prompt", "text", "caption", "video_prompt", "prompt_en", "input_prompt", "text_prompt", "user_prompt"),
        *("positive_prompt", "prompt_text", "original_prompt", "short_prompt", "short_caption", "video_caption"),
        *("caption_en", "text_en", "video_description", "description"),
        *("sentence", "instruction", "prompts", "captions"),
    ),
    "prompt_file": (
        *("prompt_path", "prompt_file", "text_path", "text_file", "caption_path", "caption_file", "prompt_txt"),
    ),
    "video": (
        *("video_path", "input_video_path", "visual_input", "vision_path", "input_video", "input_path", "video"),
        *("video_file", "video_filename", "video_file_name", "video_file_path", "video_name", "video_url", "videos"),
        *("source_video", "source_video_path", "src_video", "src_video_path", "original_video", "clip", "clip_path"),
        *("clip_name", "clip_file", "vid", "vid_path", "mp4", "media", "media_path", "media_file", "file"),
        *("file_path", "file_name", "path", "image_path", "input_image", "input_image_path", "first_frame", "image"),
    ),
}
# Names that are often something else: taken for a clip only where the value ends like one.
_WEAK = {"file", "filepath", "filename", "path", "image", "media", "vid", "mp4"}
# NVIDIA's own names beside ours: two of them that name different clips contradict each other.
VIDEO_FIELDS = ("video_path", "input_video_path", "visual_input")
TEXT_FIELDS = ("name", "prompt", "upsampled_prompt", "upsampled_at")
OBJECT_FIELDS = ("metadata", "upsampling_params", "control_overrides")
# Clips that no one takes for the input: of controls, masks and results.
_OTHER_CLIPS = re.compile(r"mask|control|depth|edge|canny|seg|blur|output|result|save|preprocessed|generated")
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".3gp", ".3g2"),
    *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".gif"),
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class FileProblem(Exception):
    """The rest of a file cannot be read."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where


@lru_cache(maxsize=4096)
def _plain(field: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", field)).casefold()


_RANKS = {_plain(name): (role, n) for role, names in _NAMES.items() for n, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class Reading:
    """How prompt files are read, beyond what they say themselves.

    video_column, prompt_column: the field that holds it, "": by its name. roots: folders in which clips are looked for
    after the file's own; checkouts: the same, for paths that name a folder. tree: what prompts= names.
    """

    video_column: str = ""
    prompt_column: str = ""
    roots: tuple[str, ...] = ()
    checkouts: tuple[str, ...] = ()
    tree: str = ""

    def role_of(self, field: str) -> tuple[str, int] | None:
        """Role of a field (name, prompt, prompt_file or video) and its rank among those of that role."""
        return _role_of(field, self.video_column, self.prompt_column)

    def knows_any(self, fields: Iterable[str]) -> bool:
        return any((role := self.role_of(field)) and role[0] != "name" for field in fields)


@lru_cache(maxsize=4096)
def _role_of(field: str, video_column: str, prompt_column: str) -> tuple[str, int] | None:
    plain = _plain(field)
    if not plain:
        return None
    for role, column in (("video", video_column), ("prompt", prompt_column)):
        if column and plain == _plain(column):
            return role, -1
    role_and_rank = _RANKS.get(plain)
    chosen = {"video": video_column, "prompt": prompt_column, "prompt_file": prompt_column}
    return None if role_and_rank and chosen.get(role_and_rank[0]) else role_and_rank


@dataclass(frozen=True, slots=True)
class Found:
    """The fields that an item's name, prompt, prompt file and clip are in; None where it has none. A file is not read
    where there is a prompt."""

    name: str | None = None
    prompt: str | None = None
    prompt_file: str | None = None
    video: str | None = None


def fields_of(raw: Mapping[str, Any], reading: Reading) -> Found:
    """Of each role the first field with a value, else the first one that is there."""
    best: dict[str, tuple[tuple[bool, int, bool], str]] = {}
    for field, value in raw.items():
        role = reading.role_of(field)
        if role is None:
            continue
        text = text_of(value)
        if text is None and value is not None and role[1] >= 0 and field not in (*TEXT_FIELDS, *VIDEO_FIELDS):
            continue  # of a dataset: pixels, a list of turns
        if role[0] == "video" and role[1] >= 0 and _plain(field) in _WEAK and not looks_like_clip(text or ""):
            continue
        order = (not (text or "").strip(), role[1], field not in _NAMES[role[0]])
        if role[0] not in best or order < best[role[0]][0]:
            best[role[0]] = (order, field)
    if "prompt" in best and not best["prompt"][0][0]:
        best.pop("prompt_file", None)
    return Found(**{role: field for role, (_, field) in best.items()})


def text_of(value: Any) -> str | None:
    """A value as text: a string, the only string of a list, the path of a dataset's file; None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("path")
    return value if isinstance(value, str) else None


def looks_like_clip(text: str) -> bool:
    return PurePath(text.strip().casefold()).suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)


def unused_fields(raw: Mapping[str, Any], found: Found) -> Iterator[str]:
    """The fields of an item that upsampling does not look at."""
    known = (found.name, found.prompt, found.prompt_file, found.video, *TEXT_FIELDS[2:], *OBJECT_FIELDS, "is_upsampled")
    clip = raw[found.video] if found.video else None
    return (name for name, value in raw.items() if name not in known and not (name in VIDEO_FIELDS and value == clip))


def other_fields(raw: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """What is kept of an item beside `name`, `prompt` and `video_path`: not what they hold under another name, but for
    NVIDIA's own names of the clip."""
    taken = {"name", "prompt", "video_path", found.name, found.prompt, found.prompt_file, found.video} - {
        *VIDEO_FIELDS[1:]
    }
    return {name: value for name, value in raw.items() if name not in taken}


def may_be_input(field: str) -> bool:
    """Whether a clip in this field may be meant as the input."""
    return not _OTHER_CLIPS.search(_plain(field))
