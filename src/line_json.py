"""JSON of the files that a run writes line by line, several for each of its items."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import orjson

_COMPACT = (",", ":")


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
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if kind is list or kind is tuple else True
