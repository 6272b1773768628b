"""What an engine is: the requests it gets, the answers it gives, the ways in which it refuses."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ..protocol import Item
from ..signals import Signals
from ..window import Window


def is_clip(data: bytes) -> bool:
    """Whether data is an MP4 (ISO 14496-12); else it is a PNG."""
    return data[4:8] == b"ftyp"


def data_url(data: bytes) -> bytes:
    """The data URL of a PNG or an MP4."""
    return b"data:%s;base64,%s" % (b"video/mp4" if is_clip(data) else b"image/png", base64.b64encode(data))


@dataclass(frozen=True)
class Picture:
    """A frame as it is sent, or a whole clip as MP4; size: "WIDTHxHEIGHT"."""

    data: bytes = field(repr=False)
    sha256: str
    size: str

    @property
    def is_clip(self) -> bool:
        return is_clip(self.data)

    @cached_property
    def url(self) -> bytes:
        return data_url(self.data)

    @staticmethod
    def read(path: Path) -> Picture:
        data = path.read_bytes()
        if is_clip(data):  # written by FFmpeg: of the description of its H.264 track (VisualSampleEntry)
            track = data.rfind(b"avc1")
            width, height = (int.from_bytes(data[track + n : track + n + 2], "big") for n in (28, 30))
        else:
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")  # of a PNG's header
        return Picture(data, hashlib.sha256(data).hexdigest(), f"{width}x{height}")


@dataclass(frozen=True)
class Request:
    """One attempt at one item. turns: what was said since, as (role, text): an answer, and what is wrong with it."""

    item: Item
    pictures: tuple[Picture, ...]
    seed: int
    max_tokens: int
    turns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the engine answered. prompt_tokens is None for an engine that has no tokens; queue_s: the time that the request
    waited inside the engine, where it is reported. reasoning: what came apart from the text. note: goes into the outcome."""

    text: str
    finish_reason: str
    prompt_tokens: int | None
    output_tokens: int | None
    first_token_s: float | None = None
    queue_s: float | None = None
    reasoning: str = ""
    note: str = ""


class ItemFailed(Exception):
    """This item ended in an error that needs a person's attention; others can be answered."""


class ItemKept(Exception):
    """This item cannot be answered, and its original prompt is kept."""


class Refused(Exception):
    """The context is too short: for the prompt (kind too_long), or for the answer after it (no_room).

    prompt_tokens: how many the engine counted; limit: the longest request that it accepts; each where it reports that.
    """

    def __init__(
        self, message: str, kind: str = "too_long", prompt_tokens: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind, self.prompt_tokens, self.limit = kind, prompt_tokens, limit


class Unavailable(Exception):
    """The server cannot answer now; it may later, after `retry_after_s` if it named a time.

    refused: it did not take the request at all, so this was no try of the item. broke: the connection broke, as when the item
    kills the server.
    """

    def __init__(
        self, message: str, retry_after_s: float | None = None, *, refused: bool = False, broke: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.refused, self.broke = retry_after_s, refused, broke


Phase = Callable[..., None]  # writes a phase into events.jsonl; keywords are fields of `protocol.Event`


class Engine(Protocol):
    """Where answers come from. `answer` is called from so many threads at a time as are in flight.

    fallbacks: what was given up so that it could run, in order. signals: what its server shows of its load, None without one.
    """

    name: str
    version: str
    fallbacks: list[str]

    @property
    def signals(self) -> Signals | None: ...

    @property
    def window(self) -> Window:
        """How many requests may be in flight, once it is loaded."""

    def load(self, phase: Phase) -> None:
        """Get ready to answer. Raises LoadFailed."""

    def answer(self, request: Request) -> Answer:
        """Raises Refused, Unavailable, ItemFailed or ItemKept; anything else ends the job."""

    def close(self) -> None: ...
