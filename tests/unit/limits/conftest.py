"""Points of a limits sweep with plausible values."""

from __future__ import annotations

from src.limits.points import Measured, Point, size_of
from src.models.family import Media
from tests.harness import pixtral


def point(size: str = "640x480", max_model_len: int = 4096, measured: Measured | None = None) -> Point:
    wanted = size_of(size)
    image = 2 * pixtral.image_tokens(wanted.width_px, wanted.height_px)
    return Point(
        id=f"{size}-{max_model_len}", engine_key="4096-x", size=size, aspect="", category="", frames=2,
        max_model_len=max_model_len, reserve=300, text_tokens=2, image_tokens=image, prompt_tokens=image + 5,
        measured=measured, seen=str(pixtral.PIXTRAL.seen(wanted, Media(2))),
    )  # fmt: skip


def measured(accepted: bool, tokens: int | None = None, refusal: str = "too_long") -> Measured:
    reason = "" if accepted else "too many tokens"
    return Measured(accepted, "" if accepted else refusal, reason, tokens, None, 0.1, 0.2, "vllm 0.32")
