"""Lines of JSON say what was given, whatever orjson cannot write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.line_json import json_line, parsed_line
from src.media.geometry import Size
from src.planning.settings import fields_of


class Sized:
    def __init__(self, size: float) -> None:
        self.size = size


TEXTS = st.text(st.characters())  # halves of surrogate pairs among them
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(VALUES)
def test_line_says_what_was_given(value: Any) -> None:
    line = json_line(value)
    assert json.loads(line) == value and "\n" not in line


@given(VALUES)
def test_line_is_read_as_by_the_standard_library(value: Any) -> None:
    for line in (json_line(value), json.dumps(value)):
        assert parsed_line(line) == json.loads(line, parse_int=_within_64_bits)


def _within_64_bits(digits: str) -> int | float:
    return int(digits) if -(2**63) <= int(digits) < 2**64 else float(digits)


@pytest.mark.parametrize("line", ["", "{", b"\xff", '{"a":1} 2', "[" * 100_000])
def test_damaged_line_is_refused(line: bytes | str) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parsed_line(line)


@pytest.mark.parametrize("value", [2**80, {"a": [-(2**63) - 1]}, "half a pair \ud800", {"\udc00": 1}])
def test_what_orjson_cannot_write_is_written(value: Any) -> None:
    assert json.loads(json_line(value)) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_number_that_json_lacks_is_refused(number: float) -> None:
    for value in (number, {"a": number}, [(1, number)]):
        with pytest.raises(ValueError, match="JSON compliant"):
            json_line(value)
    with pytest.raises(ValueError, match="JSON compliant"):
        json_line(Sized(number), vars)


def test_objects_are_written_by_default() -> None:
    assert json_line({"size": Size(2, 4)}, fields_of) == '{"size":{"width_px":2,"height_px":4}}'
    with pytest.raises(TypeError):
        json_line(object())


def test_deep_nesting_is_written() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]
    assert json.loads(json_line(value)) == value
