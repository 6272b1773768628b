"""Timings of earlier runs, kept in the cache folder for estimates: for each kind of run the last few, the oldest first."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..files import write_atomic
from ..worker.records import InvalidRecord, from_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Measured = TypeVar("Measured", bound=DataclassInstance)

KEPT = 20  # of each kind of run


def history_file(cache_dir: str) -> Path:
    return Path(cache_dir) / "timings.json"


def recall(file: Path, key: str, kind: type[Measured]) -> tuple[Measured, ...]:
    """The runs under a key; entries of another form are ignored."""
    names = {f.name for f in fields(kind)}
    found = []
    for run in _read(file).get(key, []):
        with suppress(InvalidRecord):
            found += [from_json(kind, run)] if isinstance(run, dict) and run.keys() == names else []
    return tuple(found)


def remember(file: Path, key: str, run: Measured) -> None:
    """Add a run."""
    known = _read(file)
    known[key] = [asdict(each) for each in (*recall(file, key, type(run)), run)][-KEPT:]
    write_atomic(file, json.dumps(known))


def _read(file: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(file.read_text(encoding="utf-8")).items()
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {key: runs for key, runs in known if isinstance(runs, list)}
