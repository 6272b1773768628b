"""Replies of a server: what is an answer is read, anything else is one error of one kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.worker.records import InvalidRecord
from src.worker.replies import LONGEST_PAUSE_S, completion_of, pause_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "usage", "delta"]), inner),
)


def stream(*events: Any, done: bool = True) -> bytes:
    lines = [b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def test_what_servers_leave_out_is_no_error() -> None:
    completion = completion_of(
        stream(
            {"choices": [{"delta": {"role": "assistant"}}], "usage": None},
            {"choices": [{"delta": {"content": "A boat"}, "finish_reason": "stop"}], "model": "m"},
            {"choices": None, "usage": {"prompt_tokens": 7}},
        )
    )
    one, two, three = completion.events
    assert (one.pieces, two.pieces, two.finish_reason, three.pieces) == ([], ["A boat"], "stop", [])
    assert three.usage and (three.usage.prompt_tokens, three.usage.completion_tokens) == (7, None)


@pytest.mark.parametrize(
    "event",
    [
        b"upstream connect error", [], {"choices": {}}, {"choices": [{"delta": {"content": 3}}]},
        {"usage": {"prompt_tokens": "7"}}, {"usage": {"prompt_tokens": -1}}, {"usage": {"completion_tokens": 10**30}},
        {"choices": [{"finish_reason": "x" * 1000}]}, b"[" * 100_000, b"\xff",
    ],
    ids=str,
)  # fmt: skip
def test_other_form_is_an_invalid_record(event: Any) -> None:
    with pytest.raises(InvalidRecord):
        completion_of(stream(event))


@given(st.lists(JSON | st.binary(max_size=30), max_size=4), st.booleans())
def test_any_reply_is_read_or_refused(events: list[Any], done: bool) -> None:
    try:
        completion_of(stream(*events, done=done))
    except InvalidRecord:
        pass


@pytest.mark.parametrize("piece", [b'"A \\"boat\\""', b'"\xff"', b'"\\x"', b"3"])
@pytest.mark.parametrize("count", [1, 9])
def test_length_of_a_stream_changes_nothing(piece: bytes, count: int) -> None:
    text = b'{"choices": [{"delta": {"content": %s}}]}'
    events = [{"choices": []}, *[text % b'"a"'] * count, text % piece, *[text % b'"b"'] * count, {"usage": {}}]
    try:
        completion = completion_of(stream(*events))
    except InvalidRecord:
        assert piece[:2] != b'"A'
    else:
        assert completion.text == f'{"a" * count}A "boat"{"b" * count}' and completion.is_done


def test_torn_last_line_is_no_event() -> None:
    completion = completion_of(stream({"choices": []}, done=False) + b'data: {"cho')
    assert (len(completion.events), completion.is_done) == (1, False)


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [(None, None), ("", None), ("2", 2.0), ("-1", 0.0), ("100000", LONGEST_PAUSE_S), ("inf", LONGEST_PAUSE_S),
     ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_wait_that_a_server_asks_for_is_bounded(header: str | None, pause_s: float | None) -> None:
    assert pause_of(header) == pause_s


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("count", [1, 9])
def test_reasoning_is_read_under_both_names(name: str, count: int) -> None:
    def event(**delta: object) -> dict[str, object]:
        return {"choices": [{"delta": delta}]}

    thoughts = [event(**{name: 'h"m '})] * count
    events = [*thoughts, *[event(content='"reasoning": "no"')] * count, {"choices": []}, {"usage": {}}]
    completion = completion_of(stream(*events))
    assert (completion.reasoning, completion.text) == ('h"m ' * count, '"reasoning": "no"' * count)


def test_event_of_several_lines_is_one() -> None:
    """As the standard allows; empty ones say nothing."""
    body = b'data:\n\ndata: {"choices": [{"delta":\ndata: {"content": "a"}}]}\n\ndata: \n\ndata: [DONE]\n\n'
    assert completion_of(body).text == "a"


@pytest.mark.parametrize("after", range(6))
def test_reason_of_the_end_is_found_anywhere(after: int) -> None:
    """Some servers send empty pieces after it."""
    piece = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
    end = {"choices": [{"delta": {"content": ""}, "finish_reason": "length"}]}
    empty = {"choices": [{"delta": {"content": ""}, "finish_reason": None}]}
    completion = completion_of(stream(*[piece] * 5, end, *[empty] * after, {"usage": {"completion_tokens": 5}}))
    assert [e.finish_reason for e in completion.events if e.finish_reason] == ["length"] and completion.text == "aaaaa"
