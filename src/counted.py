"""Long lists that tell how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Step = Callable[[str, int, "int | None"], None]  # stage, how many are done, how many there are (None: not known)
EVERY = 1000  # shorter lists take no time


def no_step(stage: str, done: int, total: int | None) -> None:
    """For a caller that shows no progress."""


def counted(items: Iterable[T], stage: str, step: Step, total: int | None = None) -> Iterator[T]:
    """The items; `step` is called at every thousandth, and at the end of a list that is so long."""
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        if done % EVERY == 0:
            step(stage, done, total)
    if done > EVERY:
        step(stage, done, done)
