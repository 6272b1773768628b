"""The estimate of the original investigation, kept for comparison with the token rules."""

from __future__ import annotations

FACTOR = 0.0173  # tokens per pixel
SAFE_SHARE = 0.9  # it called a prompt safe below this share of max_model_len


def linear_estimate(width_px: int, height_px: int, frames: int) -> int:
    """Tokens as w x h x frames x 0.0173: 4 to 15 times too high for Pixtral."""
    return int(width_px * height_px * frames * FACTOR)


def linear_says_safe(estimate: int, max_model_len: int) -> bool:
    """The verdict that the old estimate gave: safe below 90 % of the limit."""
    return estimate < SAFE_SHARE * max_model_len
