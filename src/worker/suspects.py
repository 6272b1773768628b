"""Which items were in flight when a worker died: one of them may be what kills it.

    +ID    the item is asked             -ID    it no longer is
    !ID    it was in flight at all deaths so far     #N    how many those were

The file is not flushed to disk: it outlives its process, which is what it is for. A worker that ends by itself leaves none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

ENOUGH = 2  # deaths with the same items in flight until they are suspect; one alone may have any cause
PROOF = 3  # deaths until a single item is blamed; a worker may be killed twice by another cause

T = TypeVar("T")


class Suspects:
    """The items of which one may have killed the worker, and a record of those in flight now.

    ids: in the order in which they were asked; none before there were ENOUGH deaths.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.deaths, suspects = _read(path)
        self.ids = suspects if self.deaths >= ENOUGH else ()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._mutex = threading.Lock()
        self._write("".join((f"#{self.deaths}\n", *(f"!{i}\n" for i in suspects))))

    @property
    def culprit(self) -> str:
        """The item that was in flight each time, and alone the last time; "" while it can be several."""
        return self.ids[0] if len(self.ids) == 1 and self.deaths >= PROOF else ""

    def asked(self, item_id: str) -> None:
        self._write(f"+{item_id}\n")

    def back(self, item_id: str) -> None:
        self._write(f"-{item_id}\n")

    def clear(self) -> None:
        """The worker ends by itself."""
        self._path.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        with self._mutex:
            os.write(self._fd, text.encode())


def _read(path: Path) -> tuple[int, tuple[str, ...]]:
    """How many deaths in a row can have the same cause, and the items that were in flight at all of them."""
    deaths, before, flying = 0, dict[str, None](), dict[str, None]()
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        mark, item_id = line[:1], line[1:]
        if mark == "#" and item_id.isdecimal():
            deaths = int(item_id)
        elif mark == "!" and item_id:
            before[item_id] = None
        elif mark == "+":
            flying[item_id] = None
        elif mark == "-":
            flying.pop(item_id, None)
            before.pop(item_id, None)
    if not flying:  # it died while it loaded, or by itself
        return (deaths, tuple(before)) if before else (0, ())
    both = tuple(i for i in flying if i in before)
    return (deaths + 1, both) if both else (1, tuple(flying))


def halves(items: Sequence[T], wait: Callable[[], bool]) -> Iterator[T]:
    """Items in groups: half of them, half of the rest, and so on, each after `wait` for those before; as long as that is true.

    Where one of the first group is the culprit, half of them are left after the death; else all of the group are cleared.
    """
    while items:
        group, items = items[: (len(items) + 1) // 2], items[(len(items) + 1) // 2 :]
        yield from group
        if not wait():
            return
