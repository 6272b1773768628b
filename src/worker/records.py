"""JSON to frozen dataclasses and back: the one door through which records of another process come in.

A dataclass is its own schema. A key that the class does not have is ignored, for a newer program may add some; a key that
is missing takes the field's default. Anything else that does not fit is an `InvalidRecord`, which names the field, and the file
and line where they are known. `Annotated[str, check]` (see `values`) is a text that its check accepts.
"""

from __future__ import annotations

import json
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

T = TypeVar("T")
Read = Callable[[Any], Any]

MAX_BYTES = 64 << 20  # of a file that is one record
MAX_LINE = 4 << 20  # of a line in a file of many
MAX_INT = 2**63 - 1  # that tables of numbers hold
MAX_DEPTH = 100  # of what has no type of its own
_CHECK, _CHECK_BYTES = b',"crc":"', 18  # last in a line that has one: the CRC-32 of the line without it


class InvalidRecord(ValueError):
    """A record that is not what it should be; the message names the field."""


class _Wrong(Exception):
    """What is wrong with a value; its path grows on the way out, so that nothing is spent on the names of what is right."""

    def __init__(self, what: str, path: str = "") -> None:
        self.what, self.path = what, path

    def inside(self, outer: str) -> _Wrong:
        self.path = outer + self.path
        return self


def from_json(kind: type[T], data: Any, where: str = "") -> T:
    """A dataclass of this kind from parsed JSON. where: prefix of field names in messages."""
    try:
        value: T = _reader(kind)(data)  # type: ignore[arg-type]
        return value
    except _Wrong as e:
        path = (where + e.path).lstrip(".")
        raise InvalidRecord(f"{path or 'the record'}: {e.what}") from None


def from_line(kind: type[T], line: bytes | str, most: int = MAX_BYTES, loads: Callable[..., Any] = json.loads) -> T:
    """A dataclass of this kind from one line of JSON, of `most` bytes at most. loads: what parses it, as `json.loads` does."""
    if len(line) > most:
        raise InvalidRecord(f"longer than {most} bytes")
    checked = _checked(line.encode() if isinstance(line, str) else line)
    value = from_json(kind, parsed(line, loads))
    if isinstance(value, Lined) and checked.isascii():
        object.__setattr__(value, "line", checked)
    return value


def parsed(data: bytes | str, loads: Callable[..., Any] = json.loads) -> Any:
    """What a JSON text says. Raises InvalidRecord, also for one that is nested too deep."""
    try:
        return loads(data)
    except (ValueError, RecursionError) as e:
        raise InvalidRecord(f"not JSON ({e})") from None


class Lined:
    """A record that knows the checked line that it was read from, so that it is written as it was; a changed copy does not."""

    __slots__ = ("line",)
    line: bytes


_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))
_PLAIN = {str, int, float, bool, type(None)}


def from_file(kind: type[T], path: Path) -> T:
    """A dataclass of this kind from a file that is one record. Raises OSError, InvalidRecord with the file and the field."""
    try:
        with open(path, "rb") as f:
            return from_line(kind, f.read(MAX_BYTES + 1))
    except InvalidRecord as e:
        raise InvalidRecord(f"{path}: {e}") from None


def to_json(value: Any) -> Any:
    """What `json.dumps` can write: dataclasses as objects, tuples as lists. A class with SPARSE set leaves defaults out."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if keys := _keys(kind):  # type: ignore[arg-type]
        if getattr(kind, "SPARSE", False):
            keys = tuple(k for k in keys if getattr(value, k[0]) != k[2])
        data = {}
        for name, key, _ in keys:
            part = getattr(value, name)
            data[key] = part if type(part) in _PLAIN else to_json(part)
        return data
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, Mapping):
        return {k: to_json(v) for k, v in value.items()}
    return value


def to_line(value: Any) -> str:
    """One line of ASCII JSON, without its newline."""
    return _ENCODER.encode(to_json(value))


def to_checked_line(value: Any) -> bytes:
    """One line of a journal, with its newline and a checksum: `from_line` refuses it once a byte of it has changed."""
    if isinstance(value, Lined) and (known := getattr(value, "line", b"")):
        return known + b"\n"
    line = to_line(value).encode("ascii")
    return b'%s%s%08x"}\n' % (line[:-1], _CHECK, zlib.crc32(line))


def has_checksum(line: bytes) -> bool:
    return line.rstrip(b"\r\n")[-_CHECK_BYTES:].startswith(_CHECK)


def _checked(line: bytes) -> bytes:
    """A line that has a checksum, without its end; nothing of another one. Raises InvalidRecord where the two do not match."""
    line = line.rstrip(b"\r\n")
    check = line[-_CHECK_BYTES:]
    if not check.startswith(_CHECK):
        return b""
    if check != b'%s%08x"}' % (_CHECK, zlib.crc32(line[:-_CHECK_BYTES] + b"}")):
        raise InvalidRecord("is not what was written: its checksum does not match")
    return line


@cache
def _keys(kind: Any) -> tuple[tuple[str, str, object], ...]:
    """Name, JSON key and default of each field of a dataclass; name and key differ where a file keeps the key it had. Empty
    for another type."""
    if not is_dataclass(kind):
        return ()
    return tuple((f.name, f.metadata.get("key", f.name), f.default) for f in fields(kind))


@cache
def _reader(kind: Any) -> Read:
    """The function that reads one type; made once a type."""
    if kind is Any:
        return _read_any
    if is_dataclass(kind):
        return _read_object(kind)
    if is_typeddict(kind):
        return _read_dict(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if str(origin) == "typing.NotRequired":  # which Python 3.10 has not
        return _reader(arguments[0])
    if origin is Annotated:
        return _read_checked(_reader(arguments[0]), arguments[1])
    if origin in (Union, types.UnionType):
        [inner] = [a for a in arguments if a is not type(None)]
        read = _reader(inner)
        return lambda data: None if data is None else read(data)
    if origin in (tuple, list):
        return _read_list(_reader(arguments[0]))
    if kind is dict:
        return _read_map(_read_any)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _read_map(_reader(arguments[1]))
    return _read_scalar(kind)


_PLAINLY: dict[Any, tuple[type, ...]] = {
    **{kind: (kind,) for kind in (str, bool)},
    **{kind | None: (kind, type(None)) for kind in (str, bool)},
    **{kind | None: (type(None),) for kind in (int, float)},
}


def _read_object(kind: Any) -> Read:
    hints = get_type_hints(kind, include_extras=True)
    wanted = [
        (
            f.name,
            f.metadata.get("key", f.name),
            _reader(hints[f.name]),
            _PLAINLY.get(hints[f.name], ()),  # a value of just these types needs no reader
            f.default is MISSING and f.default_factory is MISSING,
        )
        for f in fields(kind)
    ]
    whole = getattr(kind, "wrong", lambda value: "")  # what the fields together must be

    def read(data: Any) -> Any:
        if type(data) is kind:  # read already
            return data
        if not isinstance(data, dict):
            raise _Wrong("not an object")
        given, key = {}, ""
        try:
            for name, key, reader, plain, required in wanted:
                if key in data:
                    value = data[key]
                    given[name] = value if type(value) in plain else reader(value)
                elif required:
                    raise _Wrong("missing")
        except _Wrong as e:
            raise e.inside(f".{key}") from None
        value = kind(**given)
        if wrong := whole(value):
            name, _, what = wrong.partition(": ")
            raise _Wrong(what, f".{name}")
        return value

    return read


def _read_dict(kind: Any) -> Read:
    """A TypedDict stays what it is; its keys are checked. (Python 3.11 does not see NotRequired in quoted annotations.)"""
    readers = {key: _reader(hint) for key, hint in get_type_hints(kind, include_extras=True).items()}
    required = [key for key, hint in kind.__annotations__.items() if "NotRequired" not in str(hint)]

    def read(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _Wrong("not an object")
        if missing := [key for key in required if key not in data]:
            raise _Wrong("missing", f".{missing[0]}")
        for key in data.keys() & readers.keys():
            try:
                readers[key](data[key])
            except _Wrong as e:
                raise e.inside(f".{key}") from None
        return data

    return read


def _read_list(read: Read) -> Read:
    def read_all(data: Any) -> Any:
        if not isinstance(data, list):
            raise _Wrong("not a list")
        values: list[Any] = []
        try:
            for value in data:
                values.append(read(value))
        except _Wrong as e:
            raise e.inside(f"[{len(values)}]") from None
        return tuple(values)

    return read_all


def _read_map(read: Read) -> Read:
    def read_all(data: Any) -> Any:
        if not isinstance(data, dict):
            raise _Wrong("not an object")
        values, key = {}, ""
        try:
            for key, value in data.items():
                values[key] = read(value)
        except _Wrong as e:
            raise e.inside(f".{key}") from None
        return values

    return read_all


def _read_checked(read: Read, check: Callable[[Any], str]) -> Read:
    def read_one(data: Any) -> Any:
        value = read(data)
        if wrong := check(value):
            raise _Wrong(wrong)
        return value

    return read_one


def _read_any(data: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise _Wrong(f"nested more than {MAX_DEPTH} deep")
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        _read_any(value, depth + 1)
    return data


def _read_scalar(kind: Any) -> Read:
    most = {int: MAX_INT, float: sys.float_info.max}

    def read(data: Any) -> Any:
        value = data
        if kind is float and type(data) is int and abs(data) <= sys.float_info.max:
            value = float(data)
        if type(value) is not kind or (kind in (int, float) and not abs(value) <= most[kind]):
            raise _Wrong(f"{json.dumps(data, default=str)[:60]} is not a valid {kind.__name__}")
        return value

    return read
