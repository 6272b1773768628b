"""Durations as people say them."""

from __future__ import annotations


def words(seconds: float) -> str:
    """Something that was estimated, or that took long."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def short(seconds: float) -> str:
    """Something that was measured, to the digit that was measured."""
    if seconds < 0.001:
        return "less than 1 ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else words(seconds)


def left(seconds: float) -> str:
    """What is still to come, in one word."""
    return f"{seconds:.0f}s" if seconds < 90 else words(seconds).replace(" ", "")
