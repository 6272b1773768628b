"""plan.json, written and read, with one line per item: the items of a large plan stay on disk."""

from __future__ import annotations

import json
import marshal
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..errors import InputError
from ..line_file import LineFile, Spool
from ..line_json import json_line, parsed_line
from ..media.hint import Hint
from ..media.video import Video
from ..worker.records import from_json
from .plan import Plan, PlanItem, Tokens, batch_numbers
from .settings import Settings, fields_of, json_pieces

VERSION = 2
_ITEMS, _AFTER_ITEMS = ' "items": [\n', b" ]\n"
_ID = re.compile(rb'\s*{"id": ?"([^"\\]*)",')
_NO_BATCH = b'"batch":null'  # the first in a line: free fields come later, and quotes in texts are escaped


class StoredItems(LineFile[PlanItem]):
    """The items of a plan, in its file."""

    def __init__(self, file: Path | BinaryIO, starts: array[int], ids: list[str], name: str = "") -> None:
        super().__init__(file, starts, _item_reader(name))
        self.ids = ids


class ItemSpool:
    """The items of a plan in the making, written down one by one; their batches are known at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._spool, self._ids = folder, Spool(folder), list[str]()

    def add(self, item: PlanItem) -> None:
        self._spool.write(f"{_line(item)}\n".encode())
        self._ids.append(item.id)

    def items(self, batches: Iterable[Iterable[str]]) -> StoredItems:
        number, out = batch_numbers(batches), Spool(self._folder)
        for item_id, line in zip(self._ids, self._spool.lines(), strict=True):
            found = number.get(item_id)
            out.write(line if found is None else line.replace(_NO_BATCH, b'"batch":%d' % found, 1))
        out.file.flush()  # by itself it would be, as it is closed, without a word of what goes wrong
        return StoredItems(out.file, out.starts, self._ids)


def write_plan(plan: Plan, out: IO[str]) -> None:
    """Write plan.json."""
    budget = {"max_model_len": plan.settings.max_model_len, "max_output_tokens": plan.settings.max_output_tokens}
    head: dict[str, Any] = {
        "version": VERSION,
        "run": plan.run_id,
        "model": plan.settings.model.name,
        "engine": plan.settings.engine.name,
        "budget": budget,
        "settings": plan.settings,
        "batches": plan.batches,
        "unused_fields": plan.unused_fields,
    }
    out.write("{\n")
    for key, value in head.items():
        out.writelines(chain((f" {json.dumps(key)}: ",), json_pieces(value), (",\n",)))
    out.write(_ITEMS)
    for n, line in enumerate(_lines(plan.items)):
        out.write(("  " if n == 0 else ",\n  ") + line)
    out.write("\n ]\n}\n")


def _lines(items: Sequence[PlanItem]) -> Iterator[str]:
    if isinstance(items, StoredItems):
        return (line.decode().strip(" \n,") for line in items.lines())
    return (_line(item) for item in items)


def _line(item: PlanItem) -> str:
    tokens = fields_of(item.tokens) | {"linear_estimate": item.linear_estimate}
    line = fields_of(item) | {"tokens": tokens, "extra": json.loads(item.extra) if item.extra != "{}" else {}}
    if not item.unverified:  # a key that few items have
        del line["unverified"]
    return json_line(line, fields_of)


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` wrote; keys that a later version added are ignored. Its items are read when they are asked for:
    what is wrong with one shows then.

    Raises InputError when the file is torn, of another version, or not a plan.
    """
    try:
        head = _head(path)
        data = json.loads(head + b"]}") if head.endswith(_ITEMS.encode()) else json.loads(head)
        version = data["version"]
        if version not in (1, VERSION):
            raise InputError(f"{path}: version {version}, this program reads {VERSION}")
        settings = data["settings"] if version == VERSION else _settings_of_version_1(data["settings"])
        batches = tuple(tuple(b) for b in data["batches"])
        items = _stored(path, len(head)) if not data["items"] else _parsed(data["items"], str(path))
        unused = tuple(data.get("unused_fields", ()))
        return Plan(from_json(Settings, settings, "settings"), batches, items, unused_fields=unused)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _not_valid(str(path), e) from e


def _head(path: Path) -> bytes:
    """The file up to and with the line where its items begin; all of it where there is no such line."""
    with open(path, "rb") as f:
        lines = [f.readline()]
        while lines[-1] not in (b"", _ITEMS.encode()):
            lines.append(f.readline())
    return b"".join(lines)


def _parsed(items: list[Any], name: str) -> tuple[PlanItem, ...]:
    """The items of a plan that another program laid out."""
    read = _item_reader(name)
    return tuple(read(n, json.dumps(item).encode()) for n, item in enumerate(items))


def _stored(path: Path, at: int) -> StoredItems:
    """The items of a file, from the byte on where their lines begin."""
    starts, ids = array("q", [at]), list[str]()
    with open(path, "rb") as f:
        f.seek(at)
        for line in f:
            if line == _AFTER_ITEMS:
                if f.read() != b"}\n":
                    raise ValueError("its end is damaged")
                return StoredItems(path, starts, ids, str(path))
            if line != b"\n":  # of a plan without items
                starts.append(starts[-1] + len(line))
                found = _ID.match(line)
                ids.append(found[1].decode() if found else json.loads(line.strip(b" \n,"))["id"])
    raise ValueError("its end is missing")


def _item_reader(name: str) -> Callable[[int, bytes], PlanItem]:
    """The function that reads an item's line. Clips and hints, which many items share, are values that they share. name: of the
    file, "" for one that this process wrote and no other process can change."""
    clips: dict[bytes, Any] = {}
    hints: dict[bytes, Any] = {}

    def read(n: int, line: bytes) -> PlanItem:
        try:
            line = line.strip(b" \n,")
            data = parsed_line(line)
            # Its integers may be of any size.
            data["extra"] = json.dumps(json.loads(line)["extra"], ensure_ascii=False) if data["extra"] else "{}"
            for key, kind, known in (("video", Video, clips), ("hint", Hint, hints)):
                if data[key]:
                    value = marshal.dumps(data[key])
                    data[key] = known.get(value) or known.setdefault(value, from_json(kind, data[key], key))
            if not name:
                del data["tokens"]["linear_estimate"]
                return PlanItem(**data | {"tokens": Tokens(**data["tokens"])})
            return from_json(PlanItem, data, f"items[{n}]")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise _not_valid(name, e) from e

    return read


def _not_valid(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name}: not a valid plan ({type(error).__name__}: {error})",
        hint="start the run again; answers already paid for come from the cache with reuse=true",
    )


def _settings_of_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the names of host and image next to their settings, and another name for the effective limit."""
    return {**data, "host": data["place"], "image": data["container"], "effective_len": data.get("believed_len", 0)}
