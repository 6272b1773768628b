"""Staged batches on their way to a host."""

from __future__ import annotations

import threading
import time

from ..hosts.job_handle import JobHandle
from ..timing.progress import Progress


class Pusher:
    """Pushes in a thread of its own, each time all that is staged by then: over a slow link, batches travel together."""

    def __init__(self, handle: JobHandle, progress: Progress) -> None:
        self._handle, self._progress = handle, progress
        self._staged, self._ends = threading.Event(), False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to push."""
        self._staged.set()

    def close(self, patience_s: float | None = None) -> None:
        """Push what is left, and wait for that. patience_s: for how long; None: until it is done."""
        self._ends = True
        self._staged.set()
        self._thread.join(patience_s)

    def raise_error(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                self._staged.wait()
                self._staged.clear()
                is_last = self._ends  # looked up before the push, which takes all that was staged until then
                began, sent = time.monotonic(), self._handle.sent_bytes
                self._handle.push()
                if self._handle.sent_bytes > sent:
                    self._progress.took("sending", began, self._handle.sent_bytes - sent)
        except BaseException as e:  # handed to the main thread
            self._error = e
