"""Prompt files of every format, as raw items with their place in the file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import arrow

# Other field names for the video: NVIDIA's controlnet spec and its batch file.
VIDEO_FIELDS = ("video_path", "input_video_path", "visual_input")
TEXT_FIELDS = ("name", "prompt", "upsampled_prompt", "upsampled_at")
OBJECT_FIELDS = ("metadata", "upsampling_params", "control_overrides")
SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".arrow")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
_CHUNK = 1 << 16


class FileProblem(Exception):
    """The rest of a file cannot be read."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(what)
        self.where = where


class BadItem(str):
    """Why one item cannot be used; the items after it still can."""


def raw_items(file: Path) -> Iterator[tuple[str, str, Any]]:
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
                raise FileProblem("is empty")
            f.seek(0)
            if first == "[":
                yield from _json_list(f)
            elif first == "{":
                yield from _json_objects(f, one_per_line=file.suffix.lower() in (".jsonl", ".ndjson"))
            else:
                yield from _csv_rows(f)
    except arrow.Unreadable as e:
        raise FileProblem(str(e)) from None
    except UnicodeDecodeError as e:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            raise FileProblem(
                "is a clip, not a list of prompts; task=spec prompts=… then=true makes specs from clips"
            ) from None
        raise FileProblem(f"is not UTF-8 (byte {e.start} of a block: {e.reason}); save it as UTF-8") from None
    except OSError as e:
        raise FileProblem(f"cannot be read: {e.strerror}") from None


class _Decoder:
    """JSON, strict about what cannot be written again, and still able to continue after it.

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
            raise FileProblem("is nested too deeply") from None
        return value, end, "; ".join(self._wrong)

    def _no_constant(self, word: str) -> None:
        self._wrong.append(f"has {word}, which is not a valid JSON number")

    def _finite(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self._wrong.append(f"has the number {digits[:20]}, which is too large")
        return value

    def _not_too_long(self, digits: str) -> int:
        if len(digits) > 1000:
            self._wrong.append(f"has a number of {len(digits)} digits")
            return 0
        return int(digits)

    def _each_key_once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self._wrong.append(f"has the field {shown_value(twice)} twice")
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
                    raise FileProblem("is not JSON: a comma before the closing ]", f", after item {self.number}")
            elif self._next_char() != "]":
                raise FileProblem(
                    f"is not JSON: a comma or ] is missing before {shown_value(self.buffer.lstrip()[:40])}",
                    f", after item {self.number}",
                )
        rest = (self.buffer.lstrip()[1:] + self.f.read(_CHUNK)).strip()
        if rest:
            raise FileProblem(f"is not JSON: text after the closing ]: {shown_value(rest[:40])}")

    def _next_char(self) -> str:
        while not self.buffer.lstrip():
            more = self.f.read(_CHUNK)
            if not more:
                raise FileProblem("is not JSON: it ends inside the list", f", after item {self.number}")
            self.buffer = more
        return self.buffer.lstrip()[0]

    def _value(self) -> Any:
        self.buffer = self.buffer.lstrip()
        self.number += 1
        while True:
            try:
                value, end, wrong = self.decoder.decode(self.buffer)
            except FileProblem as e:
                raise FileProblem(str(e), f", item {self.number}") from None
            except json.JSONDecodeError as e:
                more = self.f.read(max(_CHUNK, len(self.buffer)))
                if not more:
                    raise FileProblem(
                        f"is not JSON: {e.msg} near {shown_value(self.buffer[e.pos : e.pos + 40])}",
                        f", item {self.number}",
                    ) from None
                self.buffer += more
                continue
            self.buffer = self.buffer[end:]
            return BadItem(wrong) if wrong else value


def _json_objects(f: io.TextIOBase, *, one_per_line: bool) -> Iterator[tuple[str, str, Any]]:
    """One object in the whole file, or one object per line."""
    first = f.readline()
    raw = _loads(first)
    if not one_per_line or isinstance(raw, BadItem):
        more = next((line for line in f if line.strip()), "")
        if not more or (isinstance(raw, BadItem) and isinstance(_loads(more), BadItem)):
            f.seek(0)
            whole = _loads(f.read())
            # Where neither is JSON, errors by line are more precise than one for the file, if the second line starts an object too.
            if not isinstance(whole, BadItem):
                yield "the object", "object", whole
                return
            if not more.lstrip().startswith("{"):
                raise FileProblem(whole)
    f.seek(0)
    for number, line in enumerate(iter(f.readline, ""), start=1):
        if line.strip():
            yield f"line {number}", "lines", _loads(line)


def _loads(text: str) -> Any:
    """The JSON value of a text, or a BadItem with what is wrong."""
    text = text.removeprefix("\ufeff").strip()
    try:
        value, end, wrong = _Decoder().decode(text)
    except json.JSONDecodeError as e:
        return BadItem(
            f"is not JSON: {e.msg} near {shown_value(text[e.pos : e.pos + 40])} (line {e.lineno}, column {e.colno})"
        )
    except FileProblem as e:
        return BadItem(str(e))
    if text[end:].strip():
        return BadItem(f"is not JSON: text after its end: {shown_value(text[end:].strip()[:40])}")
    return BadItem(wrong) if wrong else value


def _csv_rows(f: io.TextIOBase) -> Iterator[tuple[str, str, Any]]:
    csv.field_size_limit(1 << 30)  # a prompt may be as long in CSV as in JSON
    rows = csv.DictReader(f, strict=True)
    try:
        columns = [c.strip() for c in rows.fieldnames or ()]
    except csv.Error as e:
        raise FileProblem(f"is neither JSON nor CSV: {e}") from None
    if not set(columns) & {"prompt", *VIDEO_FIELDS}:
        raise FileProblem(
            "is neither JSON nor CSV with a header that names prompt or video_path "
            f"(its first line starts {shown_value(','.join(columns)[:40])})"
        )
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        raise FileProblem(f"has the column {shown_value(twice[0])} twice")
    rows.fieldnames = columns
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            if None in row:
                yield where, "csv", BadItem(f"has {len(columns) + len(row[None])} values for {len(columns)} columns")
            else:
                yield where, "csv", {k: v for k, v in row.items() if v}
    except csv.Error as e:
        raise FileProblem(f"is not CSV: {e}", f", line {rows.line_num}") from None


def kind_of_value(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown_value(text: str) -> str:
    """Foreign text, short and without control characters."""
    short = text if len(text) <= 60 else text[:59] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short) + '"'
