"""What an OpenAI-compatible server answers, as typed values: the one door for its replies.

Servers differ in what they leave out or set to null, so nothing is required; what has another type than it must have is an
`InvalidRecord`, which ends the one request that it answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .records import MAX_LINE, InvalidRecord, from_line

MOST_REPLY = 16 << 20  # bytes of one reply, many times the longest answer
LONGEST_PAUSE_S = 60.0  # that a server may ask for


@dataclass(frozen=True, slots=True)
class Delta:
    content: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    delta: Delta | None = None
    finish_reason: str | None = None


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
    def finish_reason(self) -> str:
        return next((c.finish_reason for c in self.choices or () if c.finish_reason), "")


@dataclass(frozen=True, slots=True)
class Model:
    name: str = field(metadata={"key": "id"})


@dataclass(frozen=True, slots=True)
class Models:
    """The answer of GET /models."""

    data: tuple[Model, ...] | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """The answer of GET /version."""

    version: str = "unknown"


class Reply(Protocol):
    """The body of a reply, as `http.client.HTTPResponse` has it."""

    def readline(self, limit: int, /) -> bytes: ...


def events_of(reply: Reply) -> Iterator[ChatEvent]:
    """The events of a stream up to [DONE]. Raises InvalidRecord; EOFError for one that ends before it."""
    read = 0
    while line := reply.readline(MAX_LINE):
        read += len(line)
        if read > MOST_REPLY:
            raise InvalidRecord(f"more than {MOST_REPLY} bytes in one reply")
        if line.startswith(b"data:"):
            if (data := line[5:].strip()) == b"[DONE]":
                return
            yield from_line(ChatEvent, data)
    raise EOFError("the stream broke off")


def pause_of(retry_after: str | None) -> float | None:
    """The seconds that a server asks to wait (RFC 9110, 10.2.3), at most LONGEST_PAUSE_S; None where it names no number."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None  # nothing, or an HTTP date: the usual back-off is used
    return min(max(seconds, 0.0), LONGEST_PAUSE_S) if seconds == seconds else None
