"""What an OpenAI-compatible server answers, as typed values: the one door for its replies.

Servers differ in what they leave out or set to null, so nothing is required; what has another type than it must have is an
`InvalidRecord`, which ends the one request that it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .records import InvalidRecord, from_json, parsed
from .values import Label

MOST_REPLY = 16 << 20  # bytes of one reply, many times the longest answer
# Bytes of an answer, or of the thoughts before it, as JSON: a journal's line holds both, and may hold two.
MOST_TEXT = 1 << 20
LONGEST_PAUSE_S = 60.0  # that a server may ask for


@dataclass(frozen=True, slots=True)
class Delta:
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None  # its name before vLLM 0.32, and elsewhere


@dataclass(frozen=True, slots=True)
class Choice:
    delta: Delta | None = None
    finish_reason: Label | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def wrong(self) -> str:
        negative = min(self.prompt_tokens or 0, self.completion_tokens or 0) < 0
        return "prompt_tokens or completion_tokens: is negative" if negative else ""


@dataclass(frozen=True, slots=True)
class Metrics:
    queue_time_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """One event of a streamed completion."""

    choices: tuple[Choice, ...] | None = None
    usage: Usage | None = None
    metrics: Metrics | None = None
    error: Any = None

    @property
    def pieces(self) -> list[str]:
        """The texts that it adds to the answer."""
        return [c.delta.content for c in self.choices or () if c.delta and c.delta.content]

    @property
    def thoughts(self) -> list[str]:
        """What it adds to the reasoning before the answer."""
        deltas = [c.delta for c in self.choices or () if c.delta]
        return [thought for d in deltas if (thought := d.reasoning or d.reasoning_content)]

    @property
    def finish_reason(self) -> str:
        return next((c.finish_reason for c in self.choices or () if c.finish_reason), "")


@dataclass(frozen=True, slots=True)
class Model:
    name: Label = field(metadata={"key": "id"})
    root: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """The answer of GET /models."""

    data: tuple[Model, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """The answer of POST /tokenize."""

    count: int


@dataclass(frozen=True, slots=True)
class InputTokens:
    """The answer of llama.cpp's POST /v1/chat/completions/input_tokens."""

    input_tokens: int


@dataclass(frozen=True, slots=True)
class Version:
    """The answer of GET /version."""

    version: Label = "unknown"


@dataclass(frozen=True, slots=True)
class Completion:
    """A streamed completion, as far as it came. events: those that hold more than a piece of its text."""

    text: str
    events: tuple[ChatEvent, ...]
    is_done: bool
    reasoning: str = ""


_DATA = re.compile(rb"^data:(.*)", re.MULTILINE)
_PARTED = re.compile(rb"([^\r\n])\r?\ndata:")
_FINISH = re.compile(rb'"finish_reason": ?"')
# The text in an event, or what a model thinks before it; inside of a string its quotes would be escaped.
_PIECE = re.compile(rb'"content": ?"([^"\\\n]*(?:\\.[^"\\\n]*)*)"')
_THOUGHT = re.compile(rb'"reasoning(?:_content)?": ?"([^"\\\n]*(?:\\.[^"\\\n]*)*)"')


def completion_of(body: bytes) -> Completion:
    """The completion in server-sent events, up to [DONE]. Raises InvalidRecord.

    A long stream is hundreds of events that differ in their text only: of those only that is read, as one list of strings.
    """
    try:
        return _completion_of(body)
    except InvalidRecord:
        whole = _PARTED.sub(rb"\1", body)  # where an event is in several lines, which belong together
        if whole == body:
            raise
        return _completion_of(whole)


def _completion_of(body: bytes) -> Completion:
    lines = [text for line in _DATA.findall(body) if (text := line.strip())]
    try:
        del lines[lines.index(b"[DONE]") :]
        is_done = True
    except ValueError:
        is_done = False
        if lines and not body.endswith((b"\n", b"}")):
            lines.pop()  # torn
    # An error counts wherever it stands, and so does the reason of the end.
    ended = _FINISH.search(body)
    is_other = b'"error"' in body or (ended and body.count(b"\ndata:", ended.end()) > 2 + is_done)
    middle = [] if is_other else lines[1:-3]
    pieces = [found[0] for line in middle if len(found := _PIECE.findall(line)) == 1]
    if len(pieces) != len(middle):
        thoughts = (line for line in middle if not _PIECE.search(line) and _THOUGHT.search(line))
        if len(pieces) + sum(1 for _ in thoughts) != len(middle):  # of another form
            middle, pieces = [], []
    if not middle:
        events = _events(lines)
        return Completion(_text(events), events, is_done, _thoughts(events))
    events = _events((lines[0], *lines[-3:]))
    text = _text(events[:1]) + parsed(b'"%s"' % b"".join(pieces)) + _text(events[1:])
    found = [thought[1] for line in middle if (thought := _THOUGHT.search(line))] if b'"reasoning' in body else []
    reasoning = _thoughts(events[:1]) + parsed(b'"%s"' % b"".join(found)) + _thoughts(events[1:])
    return Completion(text, events, is_done, reasoning)


def _events(lines: Iterable[bytes]) -> tuple[ChatEvent, ...]:
    events = parsed(b"[%s]" % b",".join(lines))
    return from_json(tuple[ChatEvent, ...], events, "events")


def _text(events: Iterable[ChatEvent]) -> str:
    return "".join(piece for event in events for piece in event.pieces)


def _thoughts(events: Iterable[ChatEvent]) -> str:
    return "".join(thought for event in events for thought in event.thoughts)


def pause_of(retry_after: str | None) -> float | None:
    """The seconds that a server asks to wait (RFC 9110, 10.2.3), at most LONGEST_PAUSE_S; None where it names no number."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None  # nothing, or an HTTP date: the usual back-off is used
    return min(max(seconds, 0.0), LONGEST_PAUSE_S) if seconds == seconds else None
