"""How the time of something grows with its size, on a machine that others use too."""

from __future__ import annotations

from collections.abc import Callable

ROUNDS = 20


def assert_linear(seconds: Callable[[int], float], count: int) -> None:
    """Ten times as many take less than 25 times as long; quadratic growth makes it a hundred times. By the fastest of up to
    ROUNDS tries of each, for other programs slow some of them and quadratic growth slows all."""
    few = many = float("inf")
    for _ in range(ROUNDS):
        few, many = min(few, seconds(count)), min(many, seconds(10 * count))
        if many < 25 * few:
            return
    raise AssertionError(f"{count} take {few:.4f} s, {10 * count} take {many:.4f} s")
