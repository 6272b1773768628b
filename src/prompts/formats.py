"""Prompt files of every format, as raw items with their place in the file."""

from __future__ import annotations

import codecs
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import log
from ..media.kinds import hint_for, kind_of
from . import arrow, shots, tables
from .fields import TEXT_FIELDS, VIDEO_FIELDS, VIDEO_SUFFIXES, FileProblem, Reading, text_of

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow")
RawItem = tuple[str, str, Any]
_CHUNK = 1 << 16


class BadItem(str):
    """Why one item cannot be used; the items after it still can. place: ":LINE:COLUMN" where that is known."""

    place = ""

    @staticmethod
    def at(place: str, what: str) -> BadItem:
        bad = BadItem(what)
        bad.place = place
        return bad


def raw_items(file: Path, reading: Reading | None = None) -> Iterator[RawItem]:
    """(where, shape, raw item) of one file, streamed."""
    reading = reading or Reading()
    try:
        if shots.is_clip(file):
            yield "the shot", "shot", shots.item_of(file)
            return
        with open(file, "rb") as f:
            head = f.read(512)
        if kind := arrow.kind_of(head):
            for number, raw in enumerate(arrow.read_rows(file, kind, (*TEXT_FIELDS, *VIDEO_FIELDS), reading), start=1):
                yield f"row {number}", kind, raw
        elif head[:4] == b"PK\x03\x04" and file.suffix.lower() in (".xlsx", ".xlsm"):
            yield from _table(tables.xlsx_rows(file, reading), "xlsx")
        elif kind := kind_of(head):
            raise FileProblem(f"is {kind}; {hint_for(kind)}")
        else:
            with open(file, encoding=_encoding_of(file, head), newline="") as text:
                yield from _of_text(text, file, reading)
    except UnicodeDecodeError as e:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            raise FileProblem(
                "is a clip, not a list of prompts; task=spec prompts=… then=true makes specs from clips"
            ) from None
        raise FileProblem(f"is not UTF-8 (byte {e.start} of a block: {e.reason}); save it as UTF-8") from None
    except OSError as e:
        raise FileProblem(f"cannot be read: {e.strerror}") from None


def _of_text(f: io.TextIOBase, file: Path, reading: Reading) -> Iterator[RawItem]:
    head = f.read(_CHUNK)
    f.seek(0)
    if not head.strip():
        raise FileProblem("is empty")
    is_text = file.suffix.lower() == ".txt"
    if re.match(r"\s*\[" + (r"\s*[{\[\]]" if is_text else ""), head):
        yield from ((f"item {number}", "list", raw) for number, raw in enumerate(_ListStream(f), start=1))
    elif head.lstrip()[0] == "{":
        yield from _json_objects(f, reading, one_per_line=file.suffix.lower() in (".jsonl", ".ndjson"))
    else:
        header = head.lstrip().split("\n", 1)[0].strip()
        delimiter = tables.delimiter_of(header, reading)
        if delimiter and (not is_text or all(re.fullmatch(r"[\w-]+", c.strip(' "')) for c in header.split(delimiter))):
            yield from _table(tables.csv_rows(f, delimiter), "csv")
        elif is_text:
            lines = ((number, line.strip()) for number, line in enumerate(f, start=1))
            yield from ((f"line {number}", "text", {"prompt": line}) for number, line in lines if line)
        elif file.suffix.lower() in (".csv", ".tsv"):
            yield from _table(tables.csv_rows(f, max(tables.DELIMITERS, key=header.count)), "csv")
        else:
            raise FileProblem(
                "is neither JSON nor CSV with a header that names a prompt or a clip "
                f"(its first line starts {shown_value(header[:40])}); one prompt per line is read from a file "
                "that ends in .txt"
            )


def _table(rows: Iterator[tables.Row], shape: str) -> Iterator[RawItem]:
    return ((where, shape, BadItem(row) if isinstance(row, str) else row) for where, row in rows)


def _encoding_of(file: Path, head: bytes) -> str:
    """utf-8-sig, utf-16 where the file starts with its mark, or, for a table or lines of text, what Windows writes."""
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if head.lstrip()[:1] in (b"[", b"{") or file.suffix.lower() not in (".csv", ".tsv", ".txt") or b"\0" in head:
        return "utf-8-sig"
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with open(file, "rb") as f:
        try:
            while piece := f.read(1 << 20):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            log.get().warning("not_utf8", file=str(file), read_as="Windows-1252 (cp1252)", note="check its letters")
            return "cp1252"
    return "utf-8-sig"


class _Decoder:
    """JSON, strict about what cannot be written again, and still able to continue after it.

    `decode` gives the value that starts at a place of a text, where it ends, and what is wrong with it ("" when nothing
    is). Raises json.JSONDecodeError where the text is not JSON, or ends too early.
    """

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._json = json.JSONDecoder(
            parse_constant=self._no_constant,
            parse_float=self._finite,
            parse_int=self._not_too_long,
            object_pairs_hook=self._each_key_once,
        )

    def decode(self, text: str, start: int = 0) -> tuple[Any, int, str]:
        self._wrong.clear()
        try:
            value, end = self._json.raw_decode(text, start)
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


_DECODER = _Decoder()
_BLANKS = re.compile(r"[\s\ufeff]*")


class _ListStream:
    """Items of a JSON array, decoded one at a time from a text stream. start: where in the file the buffer begins."""

    def __init__(self, f: io.TextIOBase) -> None:
        self.f, self.buffer, self.start, self.number = f, f.read(_CHUNK), 0, 0
        self.decoder = _Decoder()

    def __iter__(self) -> Iterator[Any]:
        self._next_char()
        self._drop(1)
        while self._next_char() != "]":
            yield self._value()
            if self._next_char() == ",":
                self._drop(1)
                if self._next_char() == "]":
                    raise self._problem(0, f"a comma before the closing ], after item {self.number}")
            elif self._next_char() != "]":
                raise self._problem(0, f"a comma or ] is missing after item {self.number}")
        self._drop(1)
        if (self.buffer + self.f.read(_CHUNK)).strip():
            raise self._problem(0, "text after the closing ]")

    def _drop(self, count: int) -> None:
        self.buffer, self.start = self.buffer[count:], self.start + count

    def _next_char(self) -> str:
        """The next character that is no blank, with which the buffer then starts."""
        while True:
            bare = self.buffer.lstrip()
            self._drop(len(self.buffer) - len(bare))
            if bare:
                return bare[0]
            self.buffer = self.f.read(_CHUNK)
            if not self.buffer:
                raise self._problem(0, f"it ends inside the list, after item {self.number}")

    def _value(self) -> Any:
        self.number += 1
        while True:
            try:
                value, end, wrong = self.decoder.decode(self.buffer)
            except FileProblem as e:
                raise FileProblem(str(e), f", item {self.number}") from None
            except json.JSONDecodeError as e:
                more = self.f.read(max(_CHUNK, len(self.buffer)))
                if not more:
                    raise self._problem(e.pos, f"{e.msg}, in item {self.number}") from None
                self.buffer += more
                continue
            self._drop(end)
            return BadItem(wrong) if wrong else value

    def _problem(self, at: int, what: str) -> FileProblem:
        self.f.seek(0)
        text = self.f.read(self.start + at) + self.f.readline()
        return FileProblem(*_with_caret(text, self.start + at, what)[::-1])


def _with_caret(text: str, at: int, what: str, first_line: int = 1) -> tuple[str, str]:
    """(":LINE:COLUMN", what is wrong, over the line with a caret below the place)."""
    start = text.rfind("\n", 0, at) + 1
    column = at - start
    left = max(0, column - 40)
    line = text[start:].split("\n", 1)[0].rstrip("\r")[left : column + 36]
    shown = "".join(c if c.isprintable() else " " for c in line)
    place = f":{first_line + text.count(chr(10), 0, at)}:{column + 1}"
    return place, f"is not JSON: {what}\n      {shown}\n      {' ' * (column - left)}^"


def _json_objects(f: io.TextIOBase, reading: Reading, *, one_per_line: bool) -> Iterator[RawItem]:
    """One object in the whole file, a list of items inside it, or one object per line."""
    first = f.readline()
    raw = _loads(first)
    if not one_per_line or isinstance(raw, BadItem):
        more = next((line for line in f if line.strip()), "")
        if not more or isinstance(raw, BadItem):
            f.seek(0)
            whole = _loads(f.read())
            # Where neither is JSON, errors by line are more precise than one for the file, if the second line starts an object too.
            if not isinstance(whole, BadItem):
                yield from _whole(whole, reading)
                return
            if not more.lstrip().startswith("{") and isinstance(_loads(more), BadItem):
                raise FileProblem(whole, whole.place)
    f.seek(0)
    for number, line in enumerate(iter(f.readline, ""), start=1):
        if line.strip():
            yield f"line {number}", *_unpacked(_loads(line, number), "lines")


def _whole(whole: Any, reading: Reading) -> Iterator[RawItem]:
    """The spec that a file is, or the items that lie inside it: a list, or an object of items by name (as the `samples` of
    NVIDIA's cosmos-predict2.5), which take what else is beside them."""
    inside = {}
    if isinstance(whole, dict):
        keys = ["samples"] if reading.knows_any(whole) else list(whole)
        inside = {key: entries for key in keys if (entries := _entries(whole.get(key), reading))}
        if "samples" in inside and not any(isinstance(whole[key], list) for key in inside if key != "samples"):
            inside = {"samples": inside["samples"]}
        inside = inside or {"": _entries(whole, reading)}
    if len(inside) > 1:
        raise FileProblem(f"has items in {' and in '.join(map(shown_value, inside))}; keep one of them in a file")
    for key, entries in inside.items():
        shared = {k: v for k, v in whole.items() if not isinstance(v, dict | list)} if key else {}
        for where, item in entries:
            yield where, "nested", {**shared, **item}
    if not any(inside.values()):
        yield "the object", *_unpacked(whole, "object")


def _entries(value: Any, reading: Reading) -> list[tuple[str, dict[str, Any]]]:
    """(where, item) of the items in a list or an object, [] where it holds none."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and reading.knows_any(v) for v in value):
        return [(f"item {number}", item) for number, item in enumerate(value, start=1)]
    if isinstance(value, dict) and value:
        if all(isinstance(v, dict) and reading.knows_any(v) for v in value.values()):
            return [(shown_value(name), {"name": name, **item}) for name, item in value.items()]
        if all(isinstance(v, str) and Path(k).suffix.lower() in VIDEO_SUFFIXES for k, v in value.items()):
            return [(shown_value(clip), {"video_path": clip, "prompt": text}) for clip, text in value.items()]
    return []


def _unpacked(raw: Any, shape: str) -> tuple[str, Any]:
    """Shape and item; of a request of OpenAI's chat completions (their batch file too), the text of its last message."""
    request = raw.get("body", raw) if isinstance(raw, dict) else None
    turns = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(turns, list):
        return shape, raw
    asked = next((t for t in reversed(turns) if isinstance(t, dict) and t.get("role") == "user"), {})
    parts = asked.get("content")
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts if isinstance(parts, list) else []
    texts = [text for part in parts if isinstance(part, Mapping) and (text := text_of(part.get("text")))]
    kept = {key: value for key, value in raw.items() if key not in ("body", "messages", "method", "url")}
    if len(texts) < len(parts):
        kept["pictures of the request"] = len(parts) - len(texts)
    return "requests", {**kept, "prompt": re.sub(r"<(?:video|image)>\s*", "", "\n".join(texts)).strip()}


def _loads(text: str, line: int = 1) -> Any:
    """The JSON value of a text that starts in this line, or a BadItem with what is wrong."""
    text = text.rstrip()
    try:
        value, end, wrong = _DECODER.decode(text, _BLANKS.match(text).end())  # type: ignore[union-attr]
    except json.JSONDecodeError as e:
        return BadItem.at(*_with_caret(text, e.pos, e.msg, line))
    except FileProblem as e:
        return BadItem(str(e))
    if text[end:].strip():
        end += len(text[end:]) - len(text[end:].lstrip())
        return BadItem.at(*_with_caret(text, end, "text after its end", line))
    return BadItem(wrong) if wrong else value


def kind_of_value(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown_value(text: str) -> str:
    """Foreign text, short and without control characters."""
    short = text if len(text) <= 60 else text[:59] + "…"
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in short) + '"'
