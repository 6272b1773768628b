"""Records: what was written is read back; what does not fit is refused with the name of the field."""

from __future__ import annotations

import json
import types
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.line_json import parsed_line
from src.worker.protocol import (
    Attempt,
    EngineUsed,
    Event,
    Exit,
    InferItem,
    InferJob,
    Item,
    Outcome,
    TokenCounts,
    UpsampleJob,
    VideoOutcome,
)
from src.worker.records import MAX_INT, InvalidRecord, from_json, from_line, to_checked_line, to_json, to_line

KINDS = (Outcome, Item, Event, InferItem, VideoOutcome, Exit, UpsampleJob, InferJob)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
# Texts that pass one check or another.
TEXTS = ("", "a", "frames/a.png", "320x180", "upsampled", "kept", "done", "failed", "http://localhost:8000/v1", "NAME")
SCALARS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=9),
    int: st.integers(-MAX_INT, MAX_INT),
    bool: st.booleans(),
    float: st.floats(0, 1e11),
    Any: JSON,
}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """All values of a type of the protocol."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        parts = {f.name: values_of(hints[f.name]) for f in fields(kind)}
        whole = getattr(kind, "wrong", lambda value: "")
        strategy: st.SearchStrategy[Any] = st.builds(kind, **parts).filter(lambda value: not whole(value))
        return strategy
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return (st.sampled_from(TEXTS) | st.text(max_size=9)).filter(lambda text: not arguments[1](text))
    if origin in (Union, types.UnionType):
        return st.one_of([st.none() if a is type(None) else values_of(a) for a in arguments])
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(st.text(max_size=5), values_of(arguments[1]), max_size=3)
    return SCALARS[kind]


def as_json(value: object) -> Any:
    return json.loads(to_line(value))


OUTCOME = as_json(Outcome("a", "upsampled", text="A boat.", attempts=(Attempt(1, 20), Attempt(2, 20))))
ITEM = as_json(Item("a", 0, "a boat", "a boat", "", ("frames/1.png",), 7, 20, 1, ""))


@given(st.one_of([values_of(kind) for kind in KINDS]))
def test_records_survive_a_round_trip(record: Any) -> None:
    line = to_line(record)
    assert line.isascii() and "\n" not in line
    assert from_line(type(record), line) == record
    assert from_line(type(record), line.encode()) == record


@given(st.builds(Outcome, st.just("a"), st.just("kept"), st.text(), at=SCALARS[float], tokens=values_of(TokenCounts)))
def test_read_record_is_written_as_it_was(outcome: Outcome) -> None:
    line = to_checked_line(outcome)
    newer = line.replace(b'{"id"', b'{"new":1,"id"', 1)
    newer = b'%s,"crc":"%08x"}\n' % (newer[:-19], zlib.crc32(newer[:-19] + b"}"))
    for written in (line, newer):
        read = from_line(Outcome, written, loads=parsed_line)
        assert read == outcome and to_checked_line(read) == written
    assert to_checked_line(replace(read, step=7)) == to_checked_line(replace(outcome, step=7))


@given(st.sampled_from(KINDS), JSON | st.dictionaries(st.sampled_from(sorted({*OUTCOME, *ITEM})), JSON))
def test_arbitrary_json_is_read_or_refused(kind: type[Any], data: Any) -> None:
    try:
        record = from_json(kind, data)
    except InvalidRecord:
        return
    assert from_json(kind, to_json(record)) == record


@pytest.mark.parametrize(
    "data",
    [OUTCOME | {"new": 1}, OUTCOME | {"tokens": OUTCOME["tokens"] | {"cached": 3}}],
    ids=["at the top", "inside"],
)
def test_unknown_keys_are_ignored(data: dict[str, Any]) -> None:
    assert from_json(Outcome, data) == from_json(Outcome, OUTCOME)


def test_missing_keys_take_defaults() -> None:
    assert from_json(Outcome, {"id": "a", "state": "kept"}) == Outcome("a", "kept")


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (Outcome, {"id": "a"}, "state: missing"),
        (Item, {k: v for k, v in ITEM.items() if k != "max_tokens"}, "max_tokens: missing"),
        (Outcome, OUTCOME | {"attempts": [OUTCOME["attempts"][0], {"seed": 1}]}, r"attempts\[1\].max_tokens: missing"),
        (Outcome, OUTCOME | {"id": 3}, "id: 3 is not a valid str"),
        (Outcome, OUTCOME | {"tokens": {"predicted": "x"}}, 'tokens.predicted: "x" is not a valid int'),
        (Outcome, OUTCOME | {"tokens": None}, "tokens: not an object"),
        (Outcome, OUTCOME | {"attempts": {}}, "attempts: not a list"),
        (Item, ITEM | {"frames": ["frames/1.png", None]}, r"frames\[1\]: null is not a valid str"),
        (Item, ITEM | {"seed": True}, "seed: true is not a valid int"),
        (Item, ITEM | {"seed": 2**63}, f"seed: {2**63} is not a valid int"),
        (Outcome, OUTCOME | {"state": "upsampled", "text": "\u200b"}, "text: is empty"),
        (Outcome, OUTCOME | {"at": 1e300}, r"at: 1e\+300 is not a time"),
        (Outcome, OUTCOME | {"limit": -5}, "limit: -5 is negative"),
        (Outcome, OUTCOME | {"tokens": {"measured": -5}}, "tokens.measured: is negative"),
        (Item, ITEM | {"seed": 1.0}, "seed: 1.0 is not a valid int"),
        (Exit, {"code": 0, "state": "done", "not_started": "abc"}, "not_started: not a list"),
        (InferItem, as_json(InferItem("a", 0, "", "v", {})) | {"controls": {"edge": 3}}, "controls.edge: not an object"),
        (Outcome, [], "the record: not an object"),
        (Exit, {"code": 0, "state": {"x": "y" * 100}}, "state: .{60} is not a valid str"),
    ],
)  # fmt: skip
def test_error_names_the_field(kind: type[Any], data: Any, message: str) -> None:
    with pytest.raises(InvalidRecord, match=f"^{message}$"):
        from_json(kind, data)


def test_error_names_the_record_around_it() -> None:
    with pytest.raises(InvalidRecord, match=r"^upsample\.tokens\.output: "):
        from_json(Outcome, OUTCOME | {"tokens": {"output": "x"}}, "upsample")


def test_integer_is_a_valid_float() -> None:
    event = from_json(Event, {"event": "phase", "time": 3})
    assert event.time == 3.0 and isinstance(event.time, float)


@pytest.mark.parametrize(
    "line",
    ["", "{", b"\xff", "[" * 100_000, '{"event": "phase", "time": NaN}',
     '{"event": "phase", "time": 1e999}', '{"event": "phase", "time": 1%s}' % ("0" * 400)],
    ids=["empty", "cut off", "not UTF-8", "too deep", "not a number", "infinite", "too large"],
)  # fmt: skip
def test_line_that_is_not_json_is_refused(line: bytes | str) -> None:
    with pytest.raises(InvalidRecord):
        from_line(Event, line)


def test_files_keep_their_json_keys() -> None:
    outcome = Outcome("a", "kept", attempts=(Attempt(1, 20, "echo"),), engine=EngineUsed("vllm", "1", ("x=1",)))
    written = as_json(outcome)
    assert written["attempts"] == [{"seed": 1, "max_tokens": 20, "flaw": "echo"}]
    assert written["engine"] == {"name": "vllm", "version": "1", "rungs": ["x=1"]}
    assert from_json(Outcome, written) == outcome
    assert as_json(Outcome("a", "kept", input_hash="0f"))["shown"] == "0f"
    assert as_json(Event("phase", 1.0, fallback="x=1"))["rung"] == "x=1"
    assert as_json(Event("heartbeat", 1.0, log_line="50%"))["said"] == "50%"


def test_events_leave_defaults_out() -> None:
    assert to_line(Event("heartbeat", 1.5, beat=2)) == '{"event":"heartbeat","time":1.5,"beat":2}'


def test_other_records_write_every_field() -> None:
    assert as_json(Exit(0, "done")) == {"code": 0, "state": "done", "reason": "", "not_started": [], "answered": 0}
