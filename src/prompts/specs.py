"""Prompt files as one stream of checked specs; every problem names file, item and field.

The format is recognized by content, not by file name:

    [ {...}, ... ]            list of specs
    { ... }                   one PromptSpec, or one NVIDIA controlnet spec (`prompt`, `input_video_path`)
    { ... } NEWLINE { ... }   JSON lines; NVIDIA's batch file too (`visual_input`, `prompt`, `control_overrides`)
    prompt,video_path,...     CSV with a header
    Parquet, Arrow            one column per field; a Hugging Face dataset folder too (prompts.arrow)
"""

from __future__ import annotations

import difflib
import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, SpecError
from ..files import safe_name
from . import arrow
from .formats import (
    OBJECT_FIELDS,
    SUFFIXES,
    TEXT_FIELDS,
    VIDEO_FIELDS,
    BadItem,
    FileProblem,
    kind_of_value,
    raw_items,
    shown_value,
)

MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """One prompt as its file has it, and where in the file it is.

    video_path: as written; video: made absolute against the file's folder; both None when there is none.
    source: the file. where: the item inside it, for messages. shape: list, object, lines or csv.
    raw: all fields of the item as the file has them, known or not.
    """

    name: str
    slug: str
    prompt: str
    video_path: str | None
    video: Path | None
    source: Path
    where: str
    shape: str
    raw: dict[str, Any]


def prompt_files(pattern: str) -> list[Path]:
    """The files that `prompts=` names: a file, the prompt files of a folder, or the matches of a glob, sorted; of a
    dataset folder, its Arrow files in their own order.

    Raises InputError when there are none.
    """
    path = expanded(pattern)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            if (own := arrow.dataset_files(path)) is not None:
                return own
            files = sorted(
                p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()
            )
            if not files:
                raise InputError(
                    f"prompts={pattern}: the folder has no prompt file",
                    hint=f"expected files ending in {', '.join(SUFFIXES)}; task=spec makes specs from clips",
                )
            return files
        files = matches(pattern)
    except OSError as e:
        raise InputError(f"prompts={pattern}: cannot be read: {e.strerror}") from None
    if not files:
        raise InputError(
            f"prompts={pattern}: there is no such file or folder, and as a pattern it matches nothing",
            hint="name a file, a folder or a glob; quote what the shell would expand: 'prompts=inputs/*.json'",
        )
    return files


def matches(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted."""
    return sorted(Path(p) for p in glob.glob(str(expanded(pattern)), recursive=True) if os.path.isfile(p))


def expanded(path: str) -> Path:
    """A path with ~ expanded where it names a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_specs(files: list[Path]) -> Iterator[PromptSpec]:
    """All specs of these files in order, one at a time.

    Raises SpecError at the end when there were problems, naming all of them.
    """
    problems: list[str] = []
    seen: dict[str, str] = {}
    slugs = UniqueNames()
    defaults = UniqueNames()
    for file in files:
        count = 0
        try:
            for where, shape, raw in raw_items(file):
                count += 1
                at = f"{file}, {where}"
                found = [f"{at}, {field}: {what}" for field, what in problems_of(raw)]
                if found:
                    problems += found
                    continue
                name = raw.get("name") or defaults.free(_default_name(file, shape, raw, count))
                spec = _spec(file, where, shape, raw, name)
                if spec.name in seen:
                    problems.append(f"{at}, name: {shown_value(spec.name)} is also the name of {seen[spec.name]}")
                    continue
                seen[spec.name] = at
                # Names that differ only in case would share a file on a case-insensitive file system.
                yield replace(spec, slug=slugs.free(spec.slug))
        except FileProblem as e:
            problems.append(f"{file}{e.where}: {e}")
            continue
        if count == 0:
            problems.append(f"{file}: has no prompts")
    if problems:
        raise SpecError(problems)


class UniqueNames:
    """Makes names unique, ignoring case: a name that is taken gets the first number that makes it free."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}

    def free(self, name: str) -> str:
        candidate, n = name, self._last.get(name.casefold(), 1)
        while candidate.casefold() in self._taken:
            n += 1
            candidate = f"{name}-{n}"
        self._taken.add(candidate.casefold())
        if n > 1:
            self._last[name.casefold()] = n
        return candidate


def problems_of(raw: Any) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of one raw item."""
    if isinstance(raw, BadItem):
        yield "the whole item", str(raw)
        return
    if not isinstance(raw, dict):
        yield "the whole item", f"is {kind_of_value(raw)}, not an object with prompt and video_path"
        return
    for field in (*TEXT_FIELDS, *VIDEO_FIELDS):
        value = raw.get(field)
        if value is not None and not isinstance(value, str):
            yield field, f"is {kind_of_value(value)}, not text"
        elif value and "\0" in value and field in VIDEO_FIELDS:
            yield field, "contains a NUL character"
    for field, value in raw.items():
        if not _encodable(field if isinstance(value, int | float | None) else f"{field}{_text(value)}"):
            yield (
                field if field.isprintable() else shown_value(field),
                "contains half of a surrogate pair, which is not valid text",
            )
    for field in OBJECT_FIELDS:
        value = raw.get(field)
        if value is not None and not isinstance(value, dict) and not isinstance(value, str):
            yield field, f"is {kind_of_value(value)}, not an object"
    if isinstance(raw.get("name"), str) and len(raw["name"]) > MAX_NAME:
        yield "name", f"is {len(raw['name'])} characters long, more than {MAX_NAME}"
    named = {field: raw[field] for field in VIDEO_FIELDS if isinstance(raw.get(field), str) and raw[field]}
    if len(set(named.values())) > 1:
        yield " and ".join(named), "name different videos"
    yield from _check_typos(raw)
    prompt = raw.get("prompt")
    if not named and (prompt is None or (isinstance(prompt, str) and not prompt.strip())):
        yield "prompt", "is empty, and there is no video_path either"


def _check_typos(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Unknown fields whose names look like a missing known one: otherwise the prompt would be ignored."""
    for field in ("prompt", "video_path"):
        if field in raw or (field == "video_path" and any(other in raw for other in VIDEO_FIELDS)):
            continue
        similar = {
            name.strip().casefold(): name for name in raw if name not in (*TEXT_FIELDS, *VIDEO_FIELDS, *OBJECT_FIELDS)
        }
        for found in difflib.get_close_matches(field, similar, n=1, cutoff=0.86):
            yield similar[found], f"unknown field; did you mean {field}?"


def _spec(file: Path, where: str, shape: str, raw: dict[str, Any], name: str) -> PromptSpec:
    video_path = next((raw[field] for field in VIDEO_FIELDS if raw.get(field)), None)
    video = absolute_video(file, video_path) if video_path else None
    return PromptSpec(
        name=name,
        slug=safe_name(name),
        prompt=raw.get("prompt") or "",
        video_path=video_path,
        video=video,
        source=file,
        where=where,
        shape=shape,
        raw=raw,
    )


@lru_cache(maxsize=4096)  # many items share a clip, and resolving a path is slow
def absolute_video(file: Path, video_path: str) -> Path:
    """The video path of an item, made absolute: it is relative to the file that names it."""
    return Path(os.path.abspath(file.parent / expanded(video_path)))


def _default_name(file: Path, shape: str, raw: dict[str, Any], count: int) -> str:
    """A name for an item without one: the file's for a single spec, else the video's with its number."""
    if shape == "object":
        return file.stem
    video = next((raw[field] for field in VIDEO_FIELDS if raw.get(field)), None)
    return f"{Path(video).stem if video else file.stem}-{count:04d}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
