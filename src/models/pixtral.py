"""Pixtral: 16 px patches, pictures scaled to at most 1024 px, a system message in front of the user's.

The rule for images is `mistral_common.tokens.tokenizers.image`'s; a property test holds it against mistral-common's own full
encoding. A request without a system prompt is `<s>[INST] images text [/INST]`: three control tokens, the image tokens, the
text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..media import geometry
from ..media.geometry import Size
from .family import CountText, Media

WRAPPER_TOKENS = 3  # <s>, [INST], [/INST]
PATCH_PX = 16  # edge of one patch of the image encoder
MAX_SIDE_PX = 1024  # the encoder scales larger images down to this; pixels beyond it are never seen


@dataclass(frozen=True, slots=True)
class Pixtral:
    """token_px: edge of the square that becomes one token. Typed names of control tokens are plain text here."""

    count: CountText
    token_px: int = PATCH_PX
    max_side_px: int = MAX_SIDE_PX
    verified: bool = True
    reserved: tuple[str, ...] = ()
    note: str = ""

    def media_tokens(self, size: Size, media: Media) -> int:
        """Per image one token for each square, plus one break token per row."""
        seen = self.seen(size, media)
        columns, rows = seen.width_px // self.token_px, seen.height_px // self.token_px
        return (columns * rows + rows) * media.frames

    def wrapper_tokens(self, system: str) -> int:
        return WRAPPER_TOKENS

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        """The tokenizer puts the system message and two newlines in front of the user message: as text of its own before
        images, joined to the text where there are none (mistral-common, `InstructTokenizerV3`)."""
        if not system:
            return self.count(text)
        return self.count(f"{system}\n\n") + self.count(text) if with_media else self.count(f"{system}\n\n{text}")

    def seen(self, size: Size, media: Media) -> Size:
        """Whole squares, after scaling to the longest side that the encoder takes."""
        width_px, height_px = size.width_px, size.height_px
        ratio = max(width_px, height_px) / self.max_side_px
        if ratio > 1:
            width_px, height_px = max(1, round(width_px / ratio)), max(1, round(height_px / ratio))
        px = self.token_px
        return Size(((width_px - 1) // px + 1) * px, ((height_px - 1) // px + 1) * px)

    def largest(self, source: Size, media: Media) -> Size:
        return geometry.visible(source, self.max_side_px)

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        """All even sizes of the clip's aspect: growing until a side reaches the next square costs no token, so the first of
        these that fits a number of tokens wastes no square."""
        return geometry.aligned_sizes(source, self.largest(source, media))

    def refusal(self, size: Size, media: Media) -> str:
        return ""
