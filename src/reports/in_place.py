"""Updated prompt files in place of the old ones: output.specs=in_place. Of a controlnet spec, what NVIDIA's loader would refuse
stands beside it.

What can be kept of a file is kept: byte order mark, encoding, line ends, indentation, separator and columns.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import log
from ..files import write_atomic
from ..planning.plan import Plan, PlanItem
from ..prompts.fields import FileProblem, Reading, fields_of, text_of
from ..prompts.formats import BadItem, raw_items
from ..prompts.tables import DELIMITERS, delimiter_of
from . import nvidia
from .rows import Row

Additions = Callable[[PlanItem, Row, dict[str, Any]], dict[str, Any]]


def update(plan: Plan, table: Sequence[Row], additions: Additions) -> None:
    """Write the additions into the files that the prompts came from; the file before is kept as NAME.bak. Where a file has been
    edited since, items that are no longer as they were planned, and a file that can no longer be read, are left alone."""
    by_source: dict[str, list[tuple[PlanItem, Row]]] = {}
    for item, row in zip(plan.items, table, strict=True):
        by_source.setdefault(item.source, []).append((item, row))
    for source, found in by_source.items():
        try:
            missing = _update_file(Path(source), found, additions)
        except FileProblem as e:
            log.get().warning("file_not_updated", file=source, reason=str(e))
            continue
        if missing:
            log.get().warning("items_not_updated", file=source, items=len(missing), first=missing[0])


def _update_file(file: Path, found: Sequence[tuple[PlanItem, Row]], additions: Additions) -> list[str]:
    """Update one file; the names of the items that it no longer holds as they were planned."""
    places = {item.where or item.name: (item, row) for item, row in found}
    names = {item.name: (item, row) for item, row in found}
    contents: dict[tuple[str, str], list[tuple[PlanItem, Row]]] = {}
    for item, row in reversed(found):
        contents.setdefault((item.prompt, item.video_path or ""), []).append((item, row))
    style, updated, shape = _style_of(file), [], "list"
    for where, shape, raw in raw_items(file):
        if not isinstance(raw, dict):
            raise FileProblem(raw if isinstance(raw, BadItem) else f"{where} is no item")
        near = (places.get(where), names.get(text_of(raw.get("name")) or ""))
        if not (pair := next((p for p in near if p and p[0].name in names and _is_planned(raw, p[0])), None)):
            moved = contents.get(_content(raw), [])
            while moved and moved[-1][0].name not in names:
                moved.pop()
            pair = moved[-1] if moved else None
        if pair:
            del names[pair[0].name]
            more = additions(*pair, raw)
            raw, beside = nvidia.split(raw, more) if shape == "object" else (raw | more, {})
            if beside:
                text = json.dumps(beside, ensure_ascii=False, indent=1) + "\n"
                write_atomic(file.with_name(f"{file.name}{nvidia.SIDECAR}"), text)
        updated.append(raw)
    if len(names) < len(found):
        data = _as_file(updated, shape, style)
        shutil.copy2(file, _free_backup(file))
        write_atomic(Path(os.path.realpath(file)), data)  # a link stays one
    return list(names)


def _is_planned(raw: dict[str, Any], item: PlanItem) -> bool:
    """Whether an item of a file is still the planned one: it has the same prompt and clip, unless they are in another file."""
    if "prompt_id" in raw:  # of a RunSpec, which has neither
        return True
    texts = {text_of(value) for value in raw.values()}
    if item.video_path and item.video_path not in texts:
        return False
    if item.prompt in texts or not (item.prompt or _content(raw)[0]):
        return True
    return fields_of(raw, Reading()).prompt_file is not None


def _content(raw: dict[str, Any]) -> tuple[str, str]:
    """Prompt and clip of an item of a file, "" for what it has not."""
    found = fields_of(raw, Reading())
    prompt, clip = (text_of(raw[field]) if field else None for field in (found.prompt, found.video))
    return prompt or "", clip or ""


def _free_backup(file: Path) -> Path:
    """NAME.bak, or NAME.bak2 and so on: an older backup is never overwritten."""
    names = (file.with_name(f"{file.name}.bak{n if n > 1 else ''}") for n in range(1, 10_000))
    return next(path for path in names if not os.path.lexists(path))


@dataclass(frozen=True, slots=True)
class _Style:
    """How a file is written. indent: of JSON, None: on one line; a_line: one item of a list per line. columns: of
    a table, also those without a value."""

    encoding: str
    newline: str
    indent: str | None
    a_line: bool
    delimiter: str
    columns: tuple[str, ...]
    ends_line: bool


def _style_of(file: Path) -> _Style:
    try:
        data = file.read_bytes()
    except OSError as e:
        raise FileProblem(f"cannot be read: {e.strerror}") from None
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp1252"
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            raise FileProblem("is not text any more") from None
    header = text.lstrip().split("\n", 1)[0].strip()
    indent = re.match(r"\s*[\[{]\s*\n([ \t]*)(.?)", text.replace("\r\n", "\n"))
    one_per_line = bool(
        indent and text.lstrip()[:1] == "[" and re.search(r"^[ \t]*\{.*\}\s*,?\s*$", text, re.MULTILINE)
    )
    delimiter = delimiter_of(header, Reading()) or max(DELIMITERS, key=header.count)
    newline, columns = "\r\n" if b"\r\n" in data or b"\r\0\n" in data else "\n", _columns(text, delimiter)
    return _Style(
        encoding, newline, indent[1] if indent else None, one_per_line, delimiter, columns, text.endswith("\n")
    )


def _columns(text: str, delimiter: str) -> tuple[str, ...]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header: list[str] = next((row for row in rows if any(cell.strip() for cell in row)), [])
    except csv.Error:  # of a file that is no table
        return ()
    return tuple(cell.strip() for cell in header if cell.strip())


def _as_file(items: list[dict[str, Any]], shape: str, style: _Style) -> bytes:
    """The items as a file of this shape."""
    if shape == "csv":
        text = _as_csv(items, style)
    elif shape == "lines":
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    elif shape == "list" and style.a_line:
        lines = ",\n".join((style.indent or "") + json.dumps(item, ensure_ascii=False) for item in items)
        text = f"[\n{lines}\n]\n"
    else:
        text = json.dumps(items[0] if shape == "object" else items, ensure_ascii=False, indent=style.indent) + "\n"
    if not style.ends_line and shape != "csv":
        text = text.removesuffix("\n")
    if shape != "csv":  # in CSV, line ends are also inside texts
        text = text.replace("\n", style.newline)
    try:
        return text.encode(style.encoding)
    except UnicodeEncodeError:  # what was added has letters that the file's encoding has not
        return text.encode("utf-8-sig")


def _as_csv(items: list[dict[str, Any]], style: _Style) -> str:
    out = io.StringIO()
    columns = list(dict.fromkeys((*style.columns, *(column for item in items for column in item))))
    # A bare carriage return ends a row for some readers: what holds one stands in quotes.
    has_return = any("\r" in str(value) for item in items for value in item.values())
    writer = csv.DictWriter(
        out, columns, delimiter=style.delimiter, lineterminator=style.newline,
        quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL,
    )  # fmt: skip
    writer.writeheader()
    for item in items:
        writer.writerow({k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v for k, v in item.items()})
    return out.getvalue()
