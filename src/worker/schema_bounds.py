"""A JSON Schema whose longest answer is bounded by the tokens that an answer may take.

Guided decoding cannot leave a string that the model never ends: a loop inside one takes the whole output reserve, and the answer is
cut. So what is sent to an engine bounds each string, list and number. Answers are validated against the schema as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHARS_PER_TOKEN = 2  # of JSON: 3 to 4 in English, fewer where a model spells the keys in pieces
# Of each list: the first with which keys and punctuation leave half of the answer to its strings.
MOST_ENTRIES = (8, 4, 2, 1)
PROSE = 6  # shares of a string at the top level, which tells the whole; any other string has one
LEAST_CHARS = 8
LARGEST_NUMBER = 999_999
SHORT_CHARS = 16  # of what is short by itself: a number, a word of an enum, a string of a pattern
_NESTED = ("properties", "$defs", "definitions")
_CHOICES = ("anyOf", "oneOf", "allOf")


def bounded(schema: Mapping[str, Any], tokens: int, slack: float = 1.0) -> dict[str, Any]:
    """A copy of a schema in which all strings and lists together take at most `slack` times as many tokens.

    With 1, an answer is never cut at so many tokens; a model that writes sense does not need the most of every field, and a larger
    number leaves it the room to write long ones. Bounds that the schema has stay.
    """
    chars = tokens * CHARS_PER_TOKEN * slack
    for entries in MOST_ENTRIES:
        fixed, shares = _weight(schema, entries, 0)
        if fixed <= chars / 2:
            break
    unit = max(LEAST_CHARS, int((chars - fixed) / max(shares, 1)))
    bound: dict[str, Any] = _bounded(schema, entries, unit, 0)
    return bound


def _is(node: Mapping[str, Any], kind: str) -> bool:
    kinds = node.get("type", ())
    return kind in ([kinds] if isinstance(kinds, str) else kinds) and not node.keys() & {"enum", "const"}


def _is_free_text(node: Mapping[str, Any]) -> bool:
    return _is(node, "string") and not node.keys() & {"pattern", "format", "maxLength"}


def _weight(node: Any, entries: int, depth: int) -> tuple[int, int]:
    """The characters of keys, punctuation and short values, and the shares of the strings, of the longest answer."""
    if not isinstance(node, Mapping):
        return SHORT_CHARS, 0
    if choices := [_weight(one, entries, depth) for name in _CHOICES for one in node.get(name, ())]:
        return max(choices)
    if _is(node, "object"):
        inner = [(key, _weight(one, entries, depth + 1)) for key, one in node.get("properties", {}).items()]
        return sum(len(key) + 4 + fixed for key, (fixed, _) in inner) + 2, sum(shares for _, (_, shares) in inner)
    if _is(node, "array"):
        fixed, shares = _weight(node.get("items"), entries, depth + 1)
        return entries * (fixed + 1) + 2, entries * shares
    if _is_free_text(node):
        return 2, PROSE if depth == 1 else 1
    return int(node.get("maxLength", SHORT_CHARS)), 0


def _bounded(node: Any, entries: int, unit: int, depth: int) -> Any:
    if not isinstance(node, Mapping):
        return node
    bound = dict(node)
    for name in _NESTED:
        if name in node:
            bound[name] = {key: _bounded(one, entries, unit, depth + 1) for key, one in node[name].items()}
    for name in _CHOICES:
        if name in node:
            bound[name] = [_bounded(one, entries, unit, depth) for one in node[name]]
    if _is(node, "array"):
        bound["items"] = _bounded(node.get("items", {}), entries, unit, depth + 1)
        bound.setdefault("maxItems", max(entries, node.get("minItems", 0)))
    if _is_free_text(node):
        bound["maxLength"] = max(unit * (PROSE if depth == 1 else 1), node.get("minLength", 0))
    if _is(node, "integer"):
        bound.setdefault("minimum", min(0, bound.get("maximum", 0)))
        bound.setdefault("maximum", max(LARGEST_NUMBER, bound["minimum"]))
    return bound
