"""Replies of a server: what is an answer is read, anything else is one error of one kind."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.worker import replies
from src.worker.records import InvalidRecord
from src.worker.replies import LONGEST_PAUSE_S, events_of, pause_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "usage", "delta"]), inner),
)


def stream(*events: Any, done: bool = True) -> io.BytesIO:
    lines = [b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events]
    return io.BytesIO(b"".join(lines) + (b"data: [DONE]\n\n" if done else b""))


def test_what_servers_leave_out_is_no_error() -> None:
    one, two, three = events_of(
        stream(
            {"choices": [{"delta": {"role": "assistant"}}], "usage": None},
            {"choices": [{"delta": {"content": "A boat"}, "finish_reason": "stop"}], "model": "m"},
            {"choices": None, "usage": {"prompt_tokens": 7}},
        )
    )
    assert (one.pieces, two.pieces, two.finish_reason, three.pieces) == ([], ["A boat"], "stop", [])
    assert three.usage and (three.usage.prompt_tokens, three.usage.completion_tokens) == (7, None)


@pytest.mark.parametrize(
    "event",
    [
        b"upstream connect error", [], {"choices": {}}, {"choices": [{"delta": {"content": 3}}]},
        {"usage": {"prompt_tokens": "7"}}, {"usage": {"prompt_tokens": -1}}, b"[" * 100_000, b"\xff",
    ],
    ids=str,
)  # fmt: skip
def test_other_form_is_an_invalid_record(event: Any) -> None:
    with pytest.raises(InvalidRecord):
        list(events_of(stream(event)))


@given(st.lists(JSON | st.binary(max_size=30), max_size=4), st.booleans())
def test_any_reply_is_read_or_refused(events: list[Any], done: bool) -> None:
    try:
        list(events_of(stream(*events, done=done)))
    except (InvalidRecord, EOFError):
        pass


def test_reply_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MOST_REPLY", 1000)
    with pytest.raises(InvalidRecord, match="more than 1000 bytes"):
        list(events_of(stream(*[{"choices": []}] * 100)))


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [(None, None), ("", None), ("2", 2.0), ("-1", 0.0), ("100000", LONGEST_PAUSE_S), ("inf", LONGEST_PAUSE_S),
     ("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)  # fmt: skip
def test_wait_that_a_server_asks_for_is_bounded(header: str | None, pause_s: float | None) -> None:
    assert pause_of(header) == pause_s
