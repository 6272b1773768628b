"""JSON of the files that a run writes and reads line by line, several for each of its items."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson

_COMPACT = (",", ":")
_NO_NUMBERS = frozenset({str, int, bool, type(None)})  # that could be infinite, or none
_LISTS = frozenset({list, tuple})


def json_line(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as one line without blanks, its text not escaped. default: what to write for an object of another type.

    Raises ValueError for NaN and infinity, of which JSON has none.
    """

    def finite(other: Any) -> Any:
        written = default(other) if default else other
        if written is other or not _is_finite(written):
            raise TypeError
        return written

    try:
        if _is_finite(value):
            return orjson.dumps(value, finite, orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except (TypeError, RecursionError):  # orjson knows no integer of more than 64 bits, and no half of a surrogate pair
        pass
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=_COMPACT, default=default)


def _is_finite(value: Any) -> bool:
    """Whether no number in it is NaN or infinite; orjson writes null for one that is."""
    kind = type(value)
    for part in value.values() if kind is dict else value if kind in _LISTS else (value,):
        kind = type(part)
        if kind in _NO_NUMBERS:
            continue
        if not (math.isfinite(part) if kind is float else _is_finite(part) if kind is dict or kind in _LISTS else True):
            return False
    return True


def parsed_line(line: bytes | str) -> Any:
    """What a line of typed fields says: an integer of more than 64 bits, which none of them holds, is read as a float.

    Raises ValueError for one that is not JSON, RecursionError for one that is nested too deep.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # it is strict, also with what the standard library wrote
        return json.loads(line)
