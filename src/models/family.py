"""What planning asks of a family of vision-language models: one interface, behind which every family is a small module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..media import geometry
from ..media.geometry import Size

CountText = Callable[[str], int]
MEASURED_PX = 640  # longest side of frames that are only measured


@dataclass(frozen=True, slots=True)
class Media:
    """How pictures are sent: as `frames` images, or, with clip_fps, as one clip of so many frames at that rate."""

    frames: int
    clip_fps: float | None = None


class Family(Protocol):
    """What one model of a family counts. A prompt has `media_tokens` + `wrapper_tokens` + `text_tokens`.

    verified: the counts are the engine's own; else they are estimates.
    reserved: names that the engine reads as control tokens, wherever they stand in a text.
    note: what a plan must say about the rule by which it counts; "" for nothing.
    """

    @property
    def verified(self) -> bool: ...
    @property
    def reserved(self) -> tuple[str, ...]: ...
    @property
    def note(self) -> str: ...

    def media_tokens(self, size: Size, media: Media) -> int:
        """Tokens of all pictures of a request, each of this size, with whatever the engine puts around them."""

    def wrapper_tokens(self, system: str) -> int:
        """Tokens that the chat template adds around texts and pictures."""

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        """Tokens of the texts, as they are split between those of the template."""

    def seen(self, size: Size, media: Media) -> Size:
        """The size to which the engine scales a picture of this size before it is encoded."""

    def largest(self, source: Size, media: Media) -> Size:
        """The largest size worth sending of a clip: never larger than the clip, and scaled down by no engine."""

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        """The sizes that waste nothing, largest area first: any larger one costs more tokens, or shows no more."""

    def refusal(self, size: Size, media: Media) -> str:
        """Why the engine refuses such pictures whatever its limit; "" for pictures that it takes."""


@dataclass(frozen=True, slots=True)
class TextOnly:
    """A family of which a model is sent no frames: they cost nothing, and what is measured in them is part of the text."""

    of: Family

    @property
    def verified(self) -> bool:
        return self.of.verified

    @property
    def reserved(self) -> tuple[str, ...]:
        return self.of.reserved

    @property
    def note(self) -> str:
        return f"The model sees no frames, only what is measured in them. {self.of.note}".rstrip()

    def media_tokens(self, size: Size, media: Media) -> int:
        return 0

    def wrapper_tokens(self, system: str) -> int:
        return self.of.wrapper_tokens(system)

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        return self.of.text_tokens(system, text, with_media=False)

    def seen(self, size: Size, media: Media) -> Size:
        return size

    def largest(self, source: Size, media: Media) -> Size:
        return geometry.visible(source, MEASURED_PX)

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        return (self.largest(source, media),)

    def refusal(self, size: Size, media: Media) -> str:
        return ""
