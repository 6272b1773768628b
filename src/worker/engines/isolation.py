"""A gate that finds the request which kills an engine, without harm to those beside it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class IsolationGate:
    """Lets all requests through; after a death only those that were inside at it, half of them at a time, until one is left.

    Half of the suspects are cleared by an answer or by the next death, so that of any number of requests in flight one is found
    in about as many deaths as the number has binary digits. Each `passing` that a death ends must be entered again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[str, None] = {}
        self._suspects: dict[str, None] = {}
        self._group: set[str] = set()
        self._deaths = 0

    @contextlib.contextmanager
    def passing(self, item_id: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._suspects or item_id in self._group)
            self._inside[item_id] = None
            deaths = self._deaths
        try:
            yield
        finally:
            with self._changed:
                del self._inside[item_id]
                self._changed.notify_all()
            if deaths == self._deaths:  # it has its answer, or an error of its own
                self.clear(item_id)

    def died(self) -> bool:
        """The engine died, with all that are inside in flight; whether that was one alone."""
        with self._changed:
            before = [i for i in self._suspects if i in self._inside]
            self._suspects = dict.fromkeys(before or self._inside)
            self._deaths += 1
            self._next_group()
            return len(self._inside) == 1

    def clear(self, item_id: str) -> None:
        """It is no suspect: it was answered, or is not asked again."""
        with self._changed:
            self._suspects.pop(item_id, None)
            self._group.discard(item_id)
            if not self._group:
                self._next_group()
            self._changed.notify_all()

    def _next_group(self) -> None:
        suspects = list(self._suspects)
        self._group = set(suspects[: (len(suspects) + 1) // 2])
