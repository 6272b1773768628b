"""Pixtral's rule with plain numbers, as tests of sizes and budgets ask for it."""

from __future__ import annotations

from src.media.geometry import Size
from src.models.family import CountText, Media
from src.models.pixtral import MAX_SIDE_PX, PATCH_PX, WRAPPER_TOKENS, Pixtral

__all__ = ["MAX_SIDE_PX", "PATCH_PX", "PIXTRAL", "WRAPPER_TOKENS", "image_tokens", "message_tokens", "prompt_tokens"]
PIXTRAL = Pixtral(len)


def image_tokens(width_px: int, height_px: int) -> int:
    """Tokens of one image."""
    return PIXTRAL.media_tokens(Size(width_px, height_px), Media(1))


def prompt_tokens(width_px: int, height_px: int, frames: int, text_tokens: int) -> int:
    """Tokens of a whole request."""
    return image_tokens(width_px, height_px) * frames + WRAPPER_TOKENS + text_tokens


def message_tokens(count: CountText, system: str, text: str, *, with_images: bool) -> int:
    """Tokens of the texts of a request."""
    return Pixtral(count).text_tokens(system, text, with_media=with_images)
