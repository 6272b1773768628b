"""JSON of the files that a run writes line by line, several for each of its items."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

_COMPACT = (",", ":")


def line_of(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """A value as one line without blanks, its text not escaped. default: what to write for an object of another type."""
    try:
        return orjson.dumps(value, default, orjson.OPT_PASSTHROUGH_DATACLASS).decode()
    except TypeError:  # orjson knows no integer of more than 64 bits, and no half of a surrogate pair
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=_COMPACT, default=default)
