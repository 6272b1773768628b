"""Outputs of a run that has not ended: written every few minutes, and when it is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from .. import log
from ..runs.outcomes import Outcomes

EVERY_S = 180.0
SHARE = 20  # at most one part in so many of the time is spent on it
QUICK_S = 2.0  # what may be written while a user waits for the program to end
SOON = "not ended yet"  # the reason of items that have not ended


class Checkpoints:
    """Calls `write` with the outcomes so far, now and then. What cannot be written is reported, and the run continues.

    expected_s: how long that takes, while it was not measured.
    """

    def __init__(
        self, write: Callable[[Outcomes], object], expected_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._took_s, self._written = expected_s, -1
        self._next = clock() + max(EVERY_S, SHARE * expected_s)

    def now_and_then(self, outcomes: Outcomes) -> None:
        if self._clock() >= self._next:
            self._checkpoint(outcomes)

    def at_interruption(self, journal: Path) -> None:
        """Write once more, unless that takes long: a long journal is not even read, for a user waits for the program to end."""
        if self._took_s <= QUICK_S:
            self._checkpoint(Outcomes(journal))
        else:
            log.get().info("results_not_written", note="task=report writes the results of what has ended")

    def _checkpoint(self, outcomes: Outcomes) -> None:
        if len(outcomes) == self._written:
            return
        began = self._clock()
        try:
            self._write(outcomes)
        except OSError as e:
            log.get().warning("results_not_written", reason=e.strerror or str(e), file=str(e.filename or ""))
            self._next = self._clock() + EVERY_S
            return
        self._written, self._took_s = len(outcomes), self._clock() - began
        self._next = self._clock() + max(EVERY_S, SHARE * self._took_s)
