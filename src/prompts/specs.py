"""Prompt files as one stream of checked specs; every problem names file, item and field.

The format is recognized by content, not by file name:

    [ {...}, ... ]            list of specs
    { ... }                   one PromptSpec, or one NVIDIA controlnet spec (`prompt`, `input_video_path`)
    { "samples": { ... } }    items by name inside one object, as NVIDIA's cosmos-predict2.5 has them
    { ... } NEWLINE { ... }   JSON lines; NVIDIA's batch file too (`visual_input`, `prompt`, `control_overrides`)
    prompt,video_path,...     CSV with a header; .xlsx
    one prompt per line       in a file that ends in .txt
    color.mp4                 of a shot: a folder with a clip, its control clips and its prompt (`shots`)
    Parquet, Arrow            one column per field; a Hugging Face dataset folder too (prompts.arrow)
"""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, SpecError, VideoError
from ..files import safe_name
from ..media.kinds import hint_for, kind_of
from ..run_folder import OUTPUTS
from ..text import is_valid_text
from . import arrow, remote, run_specs, shots
from .fields import (
    OBJECT_FIELDS,
    TEXT_FIELDS,
    VIDEO_FIELDS,
    FileProblem,
    Found,
    Reading,
    fields_of,
    looks_like_clip,
    may_be_input,
    text_of,
    unused_fields,
)
from .formats import SUFFIXES, BadItem, kind_of_value, raw_items, shown_value
from .paths import expanded, find_file

MAX_NAME = 200
MAX_TEXT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """One prompt as its file has it, and where in the file it is.

    video_path: as written; video: the file that it names (paths.find_file); both None when there is none.
    source: the file. where: the item inside it, for messages. shape: list, object, lines, csv or another one.
    raw: all fields of the item as the file has them, known or not. unused: those that upsampling does not look at.
    note: what was read otherwise than it is written.
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
    found: Found = field(default_factory=Found)
    unused: tuple[str, ...] = ()
    note: str = ""


def prompt_files(pattern: str, cache: Path = OUTPUTS / ".cache") -> list[Path]:
    """The files that `prompts=` names: a file, the prompt files of a folder, or the matches of a glob, sorted; of a
    dataset folder, its Arrow files in their own order; of an address, the file in the cache.

    Raises InputError when there are none, or for a path that no plan can hold.
    """
    files = _prompt_files(pattern, cache)
    if strange := next((file for file in files if not is_valid_text(str(file))), None):
        raise InputError(f"{str(strange)!a}: its path is not valid UTF-8", hint="rename the file or its folder")
    return files


def _prompt_files(pattern: str, cache: Path) -> list[Path]:
    if address := remote.address_of(pattern):
        try:
            return [remote.fetched(address, cache)]
        except VideoError as e:
            raise InputError(f"prompts={e.message}", hint=e.hint) from None
    path = find_file(Path(), pattern)[0] if pattern[:5].casefold() == "file:" else expanded(pattern)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            if (own := arrow.dataset_files(path)) is not None:
                return own
            files = sorted(
                p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.name[0] != "." and p.is_file()
            )
            if files or (files := shots.clips_of(path)):
                return files
            if sequences := list(shots.sequences_of(path)):
                raise InputError(
                    f"prompts={pattern}: holds frames in folders ({sequences[0][1][0].parent}), and no clip of them",
                    hint="task=spec spec.prepare=true with the same prompts= makes clips of them",
                )
            raise InputError(
                f"prompts={pattern}: the folder has no prompt file",
                hint=f"expected files ending in {', '.join(SUFFIXES)}; task=spec makes specs from clips",
            )
        files = matches(pattern)
    except OSError as e:
        raise InputError(f"prompts={pattern}: cannot be read: {e.strerror}") from None
    if not files and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", pattern):
        raise InputError(
            f"prompts={pattern}: is an address of a kind that is not read",
            hint=f"download it first, or use one of {', '.join(remote.PACKAGES)}",
        )
    if not files:
        raise InputError(
            f"prompts={pattern}: there is no such file or folder, and as a pattern it matches nothing",
            hint="name a file, a folder or a glob; quote what the shell would expand: 'prompts=inputs/*.json'",
        )
    return files


def matches(pattern: str) -> list[Path]:
    """The files that a glob matches, sorted."""
    return sorted(Path(p) for p in glob.glob(str(expanded(pattern)), recursive=True) if os.path.isfile(p))


def read_specs(files: list[Path], reading: Reading | None = None) -> Iterator[PromptSpec]:
    """All specs of these files in order, one at a time.

    Raises SpecError at the end when there were problems, naming all of them.
    """
    reading = reading or Reading()
    problems: list[str] = []
    names = _Names(several=len(files) > 1)
    for file in files:
        count, nameless = 0, _Nameless()
        try:
            for where, shape, raw in raw_items(file, reading):
                count += 1
                if isinstance(raw, BadItem) and raw.place:
                    problems.append(f"{file}{raw.place}: {raw}")
                    continue
                try:
                    raw = run_specs.joined(raw, file, reading)
                except LookupError as e:
                    problems.append(f"{file}, {where}, prompt_id: {e.args[0]}")
                    continue
                if nameless.takes(where, raw, reading):
                    continue
                try:
                    yield _spec(file, where, shape, raw, reading, names, count)
                except _Problems as e:
                    problems += [f"{file}, {where}, {name}: {what}" for name, what in e.args[0]]
        except FileProblem as e:
            problems.append(f"{file}{e.where}: {e}")
            continue
        if count == 0:
            problems.append(f"{file}: has no prompts")
        problems += nameless.problems(file, reading)
    if problems:
        raise SpecError(problems)


class _Nameless:
    """The items of a file whose fields name neither a prompt nor a clip, for one line about all of them; and the columns
    that were asked for and that no item has."""

    def __init__(self) -> None:
        self.count, self.first, self.fields = 0, "", dict[str, None]()
        self.seen: set[str] = set()

    def takes(self, where: str, raw: Any, reading: Reading) -> bool:
        """Whether an item is one of them. One whose field looks misspelled is told that instead."""
        if not isinstance(raw, dict) or not raw:
            return False
        self.seen |= raw.keys()
        if reading.knows_any(raw) or next(_misspelled(raw, Found()), None):
            return False
        self.count, self.first = self.count + 1, self.first or where
        self.fields |= dict.fromkeys(raw)
        return True

    def problems(self, file: Path, reading: Reading) -> Iterator[str]:
        for option, column, role in (
            ("video", reading.video_column, "video"),
            ("prompt", reading.prompt_column, "prompt"),
        ):
            if column and self.seen and not any(reading.role_of(name) == (role, -1) for name in self.seen):
                yield f"{file}: columns.{option}={column}: no item has such a field; there are {_named(sorted(self.seen))}"
        if self.count:
            items = f"{self.count} items name" if self.count > 1 else f"{self.first} names"
            first = f" (the first: {self.first})" if self.count > 1 else ""
            yield (
                f"{file}: {items} neither a prompt nor a clip{first}; the fields there are {_named(list(self.fields))}; "
                "name them with columns.prompt=NAME and columns.video=NAME"
            )


def _named(fields: list[str]) -> str:
    more = f" and {len(fields) - 12} more" if len(fields) > 12 else ""
    return ", ".join(name if name.isprintable() else shown_value(name) for name in fields[:12]) + more


class UniqueNames:
    """Makes names unique, ignoring case: a name that is taken gets the first number that makes it free."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}

    def free(self, name: str) -> str:
        folded = _folded(name)
        if folded not in self._taken:  # most are free, and no other text is kept of them
            self._taken.add(folded)
            return name
        candidate, n = name, self._last.get(folded, 1)
        while _folded(candidate) in self._taken:
            n += 1
            candidate = f"{name}-{n}"
        self._taken.add(_folded(candidate))
        self._last[folded] = n
        return candidate


def _folded(name: str) -> str:
    folded = name.casefold()
    return name if folded == name else folded


class _Names:
    """The names of all items, and their slugs. several: the items come from several files."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._at: dict[str, str] = {}  # of a million items, few bytes each
        self._slugs, self._defaults = UniqueNames(), UniqueNames()

    def default(self, name: str) -> str:
        return self._defaults.free(name)

    def take(self, name: str, raw: dict[str, Any], file: Path, where: str) -> tuple[str, str]:
        """The name of an item and its slug. Raises _Problems for a name that another one has."""
        if name in self._at and isinstance(raw.get("timestamp"), str):  # of PromptSpecs of one day
            name = f"{name}_{raw['timestamp']}"
        if other := self._at.get(name):
            place = other if self._several else f"{file}, {other}"
            raise _Problems([("name", f"{shown_value(name)} is also the name of {place}")])
        self._at[name] = f"{file}, {where}" if self._several else where
        # Names that differ only in case would share a file on a case-insensitive file system.
        return name, self._slugs.free(safe_name(name))


def problems_of(raw: Any, found: Found | None = None) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of one raw item."""
    if isinstance(raw, BadItem):
        yield "the whole item", str(raw)
        return
    if not isinstance(raw, dict):
        yield "the whole item", f"is {kind_of_value(raw)}, not an object with prompt and video_path"
        return
    found = found or fields_of(raw, Reading())
    for name, value in raw.items():
        if not (name in TEXT_FIELDS and isinstance(value, str) and value.isascii()):  # as most are
            yield from _problems_of_field(name, value, found)
    if isinstance(raw.get("name"), str) and len(raw["name"]) > MAX_NAME:
        yield "name", f"is {len(raw['name'])} characters long, more than {MAX_NAME}"
    named = {name: raw[name] for name in VIDEO_FIELDS if isinstance(raw.get(name), str) and raw[name]}
    if len(set(named.values())) > 1:
        yield " and ".join(named), "name different videos"
    misspelled = list(_misspelled(raw, found))
    yield from misspelled
    texts = [raw.get(name) for name in (found.prompt, found.prompt_file, found.video) if name]
    if not misspelled and not any(_is_given(text) for text in texts):
        others = [name for name in raw if name not in (*TEXT_FIELDS, *VIDEO_FIELDS, found.prompt, found.video)]
        has = f"; the item has {_named(others)}" if others else ""
        yield found.prompt or "prompt", f"is empty, and there is no {found.video or 'video_path'} either{has}"


def _problems_of_field(name: str, value: Any, found: Found) -> Iterator[tuple[str, str]]:
    is_clip = name in VIDEO_FIELDS or name in (found.video, found.prompt_file)
    if name in TEXT_FIELDS or name == found.prompt or is_clip:
        text = text_of(value)
        is_text = isinstance(value, str) if name in (*TEXT_FIELDS, *VIDEO_FIELDS) else text is not None
        if value is not None and not is_text:
            yield name, f"is {kind_of_value(value)}, not text"
        elif is_clip and text and "\0" in text:
            yield name, "contains a NUL character"
        elif is_clip and text and remote.holds_secret(remote.address_of(text)):
            yield (
                name,
                "is an address with a password or a signature, which would be written down; leave it out, and log in",
            )
    elif name in OBJECT_FIELDS and not isinstance(value, dict | str | None):
        yield name, f"is {kind_of_value(value)}, not an object"
    if not is_valid_text(name if isinstance(value, int | float | None) else f"{name}{_text(value)}"):
        shown = name if name.isprintable() else shown_value(name)
        yield shown, "contains half of a surrogate pair, which is not valid text"


def _misspelled(raw: dict[str, Any], found: Found) -> Iterator[tuple[str, str]]:
    """Unknown fields whose names look like a missing known one: otherwise the prompt would be ignored."""
    for wanted, there in (("prompt", found.prompt or found.prompt_file), ("video_path", found.video)):
        if there:
            continue
        similar = {
            name.strip().casefold(): name for name in raw if name not in (*TEXT_FIELDS, *VIDEO_FIELDS, *OBJECT_FIELDS)
        }
        for near in difflib.get_close_matches(wanted, similar, n=1, cutoff=0.86):
            yield similar[near], f"unknown field; did you mean {wanted}?"


class _Problems(Exception):
    """(field, what is wrong with it) of an item that cannot be used."""


def _spec(file: Path, where: str, shape: str, raw: Any, reading: Reading, names: _Names, number: int) -> PromptSpec:
    """One checked item. number: its place in the file. Raises _Problems."""
    found = fields_of(raw, reading) if isinstance(raw, dict) else Found()
    if wrong := list(problems_of(raw, found)):
        raise _Problems(wrong)
    prompt = text_of(raw[found.prompt]) or "" if found.prompt else ""
    if found.prompt_file and not prompt.strip():
        prompt = _text_of_file(file, raw, found.prompt_file, reading)
    video_path = (text_of(raw[found.video]) or None) if found.video else None
    video, note = find_file(_folder(file), video_path, reading.roots, reading.checkouts) if video_path else (None, "")
    unused = tuple(unused_fields(raw, found))
    if not reading.video_column:
        _refuse_ignored_clip(file, raw, unused, video, reading)
    name = text_of(raw[found.name]) or "" if found.name else ""
    name = name or names.default(_default_name(shape, file, video_path, number))
    name, slug = names.take(name, raw, file, where)
    return PromptSpec(name, slug, prompt, video_path, video, file, where, shape, raw, found, unused, note)


def _text_of_file(file: Path, raw: dict[str, Any], name: str, reading: Reading) -> str:
    written = text_of(raw[name]) or ""
    path, _ = find_file(file.parent, written, reading.roots, reading.checkouts)
    try:
        with open(path, "rb") as f:
            data = f.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise _Problems([(name, f"{path} is larger than {MAX_TEXT_BYTES} bytes, too long for a prompt")])
        if kind := kind_of(data):
            raise _Problems([(name, f"{path} is {kind}; {hint_for(kind)}")])
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as e:
        raise _Problems([(name, f"{path} is not UTF-8 (byte {e.start}: {e.reason}); save it as UTF-8")]) from None
    except OSError as e:
        raise _Problems([(name, f"{path} cannot be read: {e.strerror}")]) from None


def _refuse_ignored_clip(
    file: Path, raw: dict[str, Any], unused: tuple[str, ...], video: Path | None, reading: Reading
) -> None:
    """Raises _Problems where a field that is not read names a clip that is there, and another one than is used."""
    for name in unused:
        text = text_of(raw[name])
        if not text or not looks_like_clip(text) or not may_be_input(name):
            continue
        path, _ = find_file(file.parent, text, reading.roots, reading.checkouts)
        if os.path.isfile(path) and path != video:
            used = f"; the clip that is used is {video}" if video else ""
            raise _Problems(
                [(name, f"names the clip {path}, and is not read{used}; columns.video=NAME says which field is")]
            )


@lru_cache(maxsize=64)  # a new Path each time is hashed again by `find_file`
def _folder(file: Path) -> Path:
    return file.parent


def _default_name(shape: str, file: Path, video_path: str | None, number: int) -> str:
    """A name for an item without one: the file's for a single spec, else the video's with its number."""
    if shape == "object":
        return file.stem
    return f"{Path(video_path).stem if video_path else file.stem}-{number:04d}"


def _is_given(value: Any) -> bool:
    """Whether a field has a text in it, or what is wrong in place of one."""
    text = text_of(value)
    return bool(text.strip()) if text is not None else value is not None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
