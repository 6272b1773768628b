"""Specs that were read once, on disk until their clips are known."""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..line_file import Spool
from .specs import PromptSpec

_FIELDS = tuple(field.name for field in fields(PromptSpec))
_SHARED = tuple(_FIELDS.index(name) for name in ("video", "source", "found"))  # values of many items


class SpecSpool:
    """Specs in order, in a nameless file of this process."""

    def __init__(self, folder: Path) -> None:
        self._spool = Spool(folder)
        self._number: dict[Hashable, int] = {}

    def add(self, spec: PromptSpec) -> None:
        values: list[Any] = [getattr(spec, name) for name in _FIELDS]
        for at in _SHARED:
            values[at] = self._number.setdefault(values[at], len(self._number))
        self._spool.write(pickle.dumps(values, pickle.HIGHEST_PROTOCOL))

    def __len__(self) -> int:
        return len(self._spool.starts) - 1

    def __iter__(self) -> Iterator[PromptSpec]:
        shared = list(self._number)
        for data in self._spool.lines():
            values = pickle.loads(data)
            for at in _SHARED:
                values[at] = shared[values[at]]
            yield PromptSpec(*values)
