"""A gate between many requests at a time and one alone, to find the request that kills an engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class IsolationGate:
    """Lets many requests through at a time, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone, self._waiting = 0, False, 0

    @contextlib.contextmanager
    def passing(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._inside == 0 and not self._alone)
                self._waiting -= 1
                self._alone = True
            else:  # who must be alone goes first, so that it is not kept waiting for ever
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = self._alone and not alone
                self._changed.notify_all()
