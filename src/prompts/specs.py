"""Prompt files in, as one stream of checked specs; every problem is named by file, item and field.

The format is recognised by content, not by name:

    [ {...}, ... ]            list of specs
    { ... }                   one PromptSpec, or one NVIDIA controlnet spec (`prompt`, `input_video_path`)
    { ... } NEWLINE { ... }   JSON lines; NVIDIA's batch file too (`visual_input`, `prompt`, `control_overrides`)
    prompt,video_path,...     CSV with a header
    Parquet, Arrow            a column for each field; a Hugging Face dataset folder too (src.datasets)
"""

from __future__ import annotations

import csv
import difflib
import glob
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, SpecError
from ..files import safe_name
from . import arrow

# Other names that tools use for the video: NVIDIA's controlnet spec and its batch file.
VIDEO_FIELDS = ("video_path", "input_video_path", "visual_input")
TEXT_FIELDS = ("name", "prompt", "upsampled_prompt", "upsampled_at")
OBJECT_FIELDS = ("metadata", "upsampling_params", "control_overrides")
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".arrow")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
MAX_NAME = 200
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """One prompt as its file has it, plus where it stands.

    video_path: as written; video: made absolute against the file's folder; "" and None when there is none.
    source: file that it came from. where: the item inside it, for messages. shape: list, object, lines or csv.
    raw: all fields of the item, ours and others, as the file has them.
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
                    hint=f"it wants files ending in {', '.join(SUFFIXES)}; of clips, task=spec makes specs",
                )
            return files
        files = matches(pattern)
    except OSError as e:
        raise InputError(f"prompts={pattern}: cannot be looked up: {e.strerror}") from None
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
    """A path with ~ expanded where it names a user, and taken as it stands where it does not."""
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
    slugs = FreeNames()
    defaults = FreeNames()
    for file in files:
        count = 0
        try:
            for where, shape, raw in _items(file):
                count += 1
                at = f"{file}, {where}"
                found = [f"{at}, {field}: {what}" for field, what in problems_of(raw)]
                if found:
                    problems += found
                    continue
                name = raw.get("name") or defaults.free(_default_name(file, shape, raw, count))
                spec = _spec(file, where, shape, raw, name)
                if spec.name in seen:
                    problems.append(f"{at}, name: {_shown(spec.name)} is also the name of {seen[spec.name]}")
                    continue
                seen[spec.name] = at
                # Names that differ in case only would share a file on a system that ignores case.
                yield replace(spec, slug=slugs.free(spec.slug))
        except _FileProblem as e:
            problems.append(f"{file}{e.where}: {e}")
            continue
        if count == 0:
            problems.append(f"{file}: holds no prompts")
    if problems:
        raise SpecError(problems)


class _FileProblem(Exception):
    """The rest of a file cannot be read."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where


class FreeNames:
    """Gives each name once; one that is taken, in any case, gets the first number that makes it free."""

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


class _BadItem(str):
    """What is wrong with an item that cannot be taken; the items after it still can."""


def _items(file: Path) -> Iterator[tuple[str, str, Any]]:
    """(where, shape, raw item) of one file, streamed."""
    try:
        if kind := arrow.kind_of(file):
            rows = arrow.read_rows(file, kind, (*TEXT_FIELDS, *VIDEO_FIELDS), ("prompt", *VIDEO_FIELDS))
            yield from ((f"row {number}", kind, raw) for number, raw in enumerate(rows, start=1))
            return
        with open(file, encoding="utf-8-sig", newline="") as f:
            head = f.read(_CHUNK)
            first = head.lstrip()[:1]
            if not first:
                raise _FileProblem("is empty")
            f.seek(0)
            if first == "[":
                yield from _json_list(f)
            elif first == "{":
                yield from _json_objects(f, one_a_line=file.suffix.lower() in (".jsonl", ".ndjson"))
            else:
                yield from _csv_rows(f)
    except arrow.Unreadable as e:
        raise _FileProblem(str(e)) from None
    except UnicodeDecodeError as e:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            raise _FileProblem(
                "is a clip, not a list of prompts; task=spec prompts=… then=true makes specs of clips"
            ) from None
        raise _FileProblem(f"is not UTF-8 (byte {e.start} of a block: {e.reason}); save it as UTF-8") from None
    except OSError as e:
        raise _FileProblem(f"cannot be read: {e.strerror}") from None


class _Decoder:
    """JSON, strict about what cannot be written again, and yet able to go on after it.

    `decode` gives the value at the start of a text, where it ends, and what is wrong with it ("" when nothing is).
    Raises json.JSONDecodeError where the text is not JSON, or ends too early.
    """

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._json = json.JSONDecoder(
            parse_constant=self._no_constant,
            parse_float=self._finite,
            parse_int=self._not_too_long,
            object_pairs_hook=self._each_key_once,
        )

    def decode(self, text: str) -> tuple[Any, int, str]:
        self._wrong.clear()
        try:
            value, end = self._json.raw_decode(text)
        except RecursionError:
            raise _FileProblem("is nested too deeply") from None
        return value, end, "; ".join(self._wrong)

    def _no_constant(self, word: str) -> None:
        self._wrong.append(f"holds {word}, which is no JSON number")

    def _finite(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._wrong.append(f"holds the number {digits[:20]}, which is too large")
        return value

    def _not_too_long(self, digits: str) -> int:
        if len(digits) > 1000:
            self._wrong.append(f"holds a number of {len(digits)} digits")
            return 0
        return int(digits)

    def _each_key_once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self._wrong.append(f"has the field {_shown(twice)} twice")
        return found


def _json_list(f: io.TextIOBase) -> Iterator[tuple[str, str, Any]]:
    text = f.read(_CHUNK)
    items = _ListStream(f, text[text.index("[") + 1 :])
    for number, raw in enumerate(items, start=1):
        yield f"item {number}", "list", raw


class _ListStream:
    """Items of a JSON array, decoded one at a time from a text stream."""

    def __init__(self, f: io.TextIOBase, buffer: str) -> None:
        self.f, self.buffer, self.number = f, buffer, 0
        self.decoder = _Decoder()

    def __iter__(self) -> Iterator[Any]:
        while self._next_char() != "]":
            yield self._value()
            if self._next_char() == ",":
                self.buffer = self.buffer.lstrip()[1:]
                if self._next_char() == "]":
                    raise _FileProblem("is not JSON: a comma before the closing ]", f", after item {self.number}")
            elif self._next_char() != "]":
                raise _FileProblem(
                    f"is not JSON: a comma or ] is missing before {_shown(self.buffer.lstrip()[:40])}",
                    f", after item {self.number}",
                )
        rest = (self.buffer.lstrip()[1:] + self.f.read(_CHUNK)).strip()
        if rest:
            raise _FileProblem(f"is not JSON: text after the closing ]: {_shown(rest[:40])}")

    def _next_char(self) -> str:
        while not self.buffer.lstrip():
            more = self.f.read(_CHUNK)
            if not more:
                raise _FileProblem("is not JSON: it ends inside the list", f", after item {self.number}")
            self.buffer = more
        return self.buffer.lstrip()[0]

    def _value(self) -> Any:
        self.buffer = self.buffer.lstrip()
        self.number += 1
        while True:
            try:
                value, end, wrong = self.decoder.decode(self.buffer)
            except _FileProblem as e:
                raise _FileProblem(str(e), f", item {self.number}") from None
            except json.JSONDecodeError as e:
                more = self.f.read(max(_CHUNK, len(self.buffer)))
                if not more:
                    raise _FileProblem(
                        f"is not JSON: {e.msg} near {_shown(self.buffer[e.pos : e.pos + 40])}", f", item {self.number}"
                    ) from None
                self.buffer += more
                continue
            self.buffer = self.buffer[end:]
            return _BadItem(wrong) if wrong else value


def _json_objects(f: io.TextIOBase, *, one_a_line: bool) -> Iterator[tuple[str, str, Any]]:
    """One object over the whole file, or one object a line."""
    first = f.readline()
    raw = _loads(first)
    if not one_a_line or isinstance(raw, _BadItem):
        more = next((line for line in f if line.strip()), "")
        if not more or (isinstance(raw, _BadItem) and isinstance(_loads(more), _BadItem)):
            f.seek(0)
            whole = _loads(f.read())
            # Where neither is JSON, the lines say it better than the whole, if the second one starts an object too.
            if not isinstance(whole, _BadItem):
                yield "the object", "object", whole
                return
            if not more.lstrip().startswith("{"):
                raise _FileProblem(whole)
    f.seek(0)
    for number, line in enumerate(iter(f.readline, ""), start=1):
        if line.strip():
            yield f"line {number}", "lines", _loads(line)


def _loads(text: str) -> Any:
    """The JSON value of a text, or a _BadItem that says what is wrong with it."""
    text = text.removeprefix("\ufeff").strip()
    try:
        value, end, wrong = _Decoder().decode(text)
    except json.JSONDecodeError as e:
        return _BadItem(
            f"is not JSON: {e.msg} near {_shown(text[e.pos : e.pos + 40])} (line {e.lineno}, column {e.colno})"
        )
    except _FileProblem as e:
        return _BadItem(str(e))
    if text[end:].strip():
        return _BadItem(f"is not JSON: text after its end: {_shown(text[end:].strip()[:40])}")
    return _BadItem(wrong) if wrong else value


def _csv_rows(f: io.TextIOBase) -> Iterator[tuple[str, str, Any]]:
    csv.field_size_limit(1 << 30)  # a prompt may be as long in CSV as in JSON
    rows = csv.DictReader(f, strict=True)
    try:
        columns = [c.strip() for c in rows.fieldnames or ()]
    except csv.Error as e:
        raise _FileProblem(f"is neither JSON nor CSV: {e}") from None
    if not set(columns) & {"prompt", *VIDEO_FIELDS}:
        raise _FileProblem(
            "is neither JSON nor CSV with a header that names prompt or video_path "
            f"(its first line starts {_shown(','.join(columns)[:40])})"
        )
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        raise _FileProblem(f"has the column {_shown(twice[0])} twice")
    rows.fieldnames = columns
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            if None in row:
                yield where, "csv", _BadItem(f"has {len(columns) + len(row[None])} values for {len(columns)} columns")
            else:
                yield where, "csv", {k: v for k, v in row.items() if v}
    except csv.Error as e:
        raise _FileProblem(f"is not CSV: {e}", f", line {rows.line_num}") from None


def problems_of(raw: Any) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with it) of one raw item."""
    if isinstance(raw, _BadItem):
        yield "the whole item", str(raw)
        return
    if not isinstance(raw, dict):
        yield "the whole item", f"is {_kind(raw)}, not an object with prompt and video_path"
        return
    for field in (*TEXT_FIELDS, *VIDEO_FIELDS):
        value = raw.get(field)
        if value is not None and not isinstance(value, str):
            yield field, f"is {_kind(value)}, not text"
        elif value and "\0" in value and field in VIDEO_FIELDS:
            yield field, "holds a NUL character"
    for field, value in raw.items():
        if not _encodable(field if isinstance(value, int | float | None) else f"{field}{_text(value)}"):
            yield field if field.isprintable() else _shown(field), "holds half of a surrogate pair, which is no text"
    for field in OBJECT_FIELDS:
        value = raw.get(field)
        if value is not None and not isinstance(value, dict) and not isinstance(value, str):
            yield field, f"is {_kind(value)}, not an object"
    if isinstance(raw.get("name"), str) and len(raw["name"]) > MAX_NAME:
        yield "name", f"is {len(raw['name'])} characters long, more than {MAX_NAME}"
    named = {field: raw[field] for field in VIDEO_FIELDS if isinstance(raw.get(field), str) and raw[field]}
    if len(set(named.values())) > 1:
        yield " and ".join(named), "name different videos"
    yield from _misspelt(raw)
    prompt = raw.get("prompt")
    if not named and (prompt is None or (isinstance(prompt, str) and not prompt.strip())):
        yield "prompt", "is empty, and there is no video_path either"


def _misspelt(raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields of other names that look like one of ours which is missing: a prompt that nobody reads is none."""
    for field in ("prompt", "video_path"):
        if field in raw or (field == "video_path" and any(other in raw for other in VIDEO_FIELDS)):
            continue
        spelt = {
            name.strip().casefold(): name for name in raw if name not in (*TEXT_FIELDS, *VIDEO_FIELDS, *OBJECT_FIELDS)
        }
        for found in difflib.get_close_matches(field, spelt, n=1, cutoff=0.86):
            yield spelt[found], f"is no field that is read; is {field} meant?"


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


@lru_cache(maxsize=4096)  # many items share a clip, and paths are slow
def absolute_video(file: Path, video_path: str) -> Path:
    """A video path as an item has it, made absolute: it is relative to the file that names it."""
    return Path(os.path.abspath(file.parent / expanded(video_path)))


def _default_name(file: Path, shape: str, raw: dict[str, Any], count: int) -> str:
    """A name for an item that brings none: the file's for a spec of its own, else the video's with its number."""
    if shape == "object":
        return file.stem
    video = next((raw[field] for field in VIDEO_FIELDS if raw.get(field)), None)
    return f"{Path(video).stem if video else file.stem}-{count:04d}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(text: str) -> str:
    """Foreign text, short and with nothing in it that could move a terminal's cursor."""
    short = text if len(text) <= 60 else text[:59] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short) + '"'
