"""Items on their way to an engine: in order, and at most as many in flight as the window allows."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .engines.engine import Unavailable
from .signals import Signals
from .window import Seen, Window

AHEAD = 4  # items whose frames are read and encoded before there is room for them
TRACE_EVERY_S = 10.0
MAX_PAUSE_S = 32.0
TICK_S = 0.05

T = TypeVar("T")
Trace = Callable[[Window, Seen, "float | None"], None]  # the last: tokens/s since the last time


class Flow(Generic[T]):
    """What is to be done by lanes (threads), in order of tickets, and the places in flight.

    signals: of the server; None for an engine without one, whose window is fixed. patience_s: how long a server may refuse
    everything. trace: called at each change of the window and every TRACE_EVERY_S, from a thread of its own; failed: when that
    thread cannot continue.
    """

    def __init__(
        self,
        window: Window,
        signals: Signals | None,
        patience_s: float,
        trace: Trace,
        failed: Callable[[BaseException], None],
    ) -> None:
        self.window, self.signals, self.patience_s, self.trace = window, signals, patience_s, trace
        self._failed = failed
        self.in_flight, self.busy = 0, 0  # places taken; items that lanes have
        self._left: set[int] = set()  # tickets whose place was given back: their answers are being checked and written
        self._todo: list[tuple[int, T]] = []  # heaps, both
        self._waiting: list[tuple[int, threading.Lock]] = []
        self._tickets, self._is_ended, self._is_stopped = 0, False, False
        self._mutex = threading.RLock()
        self._items, self._room = threading.Condition(self._mutex), threading.Condition(self._mutex)
        self._not_before, self._pauses = 0.0, 0
        self._refused_since = 0.0  # 0: the last request was taken
        self._traced: tuple[tuple[int, str], Seen | None] = ((0, ""), None)
        threading.Thread(target=self._watch, daemon=True).start()

    # ------------------------------------------------------------------------------------------------------- items

    @property
    def lanes(self) -> int:
        """How many lanes there is work for."""
        return min(self._most, self.busy + len(self._todo))

    @property
    def _most(self) -> int:
        return self.window.size + (AHEAD + len(self._left) if self.signals else 0)

    @property
    def is_idle(self) -> bool:
        return not self.busy and not self._todo

    def put(self, work: T, timeout_s: float) -> bool:
        """Add an item after all others; False when there was no room for it: memory does not grow with a batch."""
        with self._mutex:
            if not self._room.wait_for(lambda: len(self._todo) < self.window.size, timeout_s):
                return False
            self._push(self._next_ticket(), work)
        return True

    def take(self) -> tuple[int, T] | None:
        """The next item and its ticket; None when a lane may end."""
        with self._mutex:
            while not self._is_stopped:
                if self._todo and self.busy < self._most:
                    self.busy += 1
                    # Many are put at a time: each wake-up of a thread costs.
                    if len(self._todo) <= max(1, self.window.size // 2):
                        self._room.notify()
                    return heapq.heappop(self._todo)
                if self._is_ended and self.is_idle:
                    break
                self._items.wait()
            return None

    def done(self, ticket: int) -> None:
        """A lane has ended its item, or given it up."""
        with self._mutex:
            self.busy -= 1
            self._left.discard(ticket)
            if self._is_ended and self.is_idle:
                self._items.notify_all()

    def put_back(self, work: T, ticket: int | None = None) -> None:
        """An item whose lane gives it up, before the call of `done`: to its place by ticket, or after all others."""
        with self._mutex:
            self._push(self._next_ticket() if ticket is None else ticket, work)

    def _push(self, ticket: int, work: T) -> None:
        heapq.heappush(self._todo, (ticket, work))
        if self.busy < self._most:  # else the lane that it wakes could not take it
            self._items.notify()

    def _next_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def end(self) -> None:
        """Nothing more will be put."""
        with self._mutex:
            self._is_ended = True
            self._items.notify_all()

    def stop(self) -> None:
        """Nothing more is started."""
        with self._mutex:
            self._is_stopped = True
            self._items.notify_all()
            while self._waiting:
                heapq.heappop(self._waiting)[1].release()

    # ------------------------------------------------------------------------------------------------------ places

    def enter(self, ticket: int) -> bool:
        """Wait for a place in flight; False when nothing more is started."""
        admitted = threading.Lock()
        admitted.acquire()
        with self._mutex:
            self._left.discard(ticket)
            if not self._is_stopped:
                heapq.heappush(self._waiting, (ticket, admitted))
                self._admit()
        return not self._is_stopped and admitted.acquire() and not self._is_stopped

    def leave(self, ticket: int, error: Unavailable | None = None) -> bool:
        """Give a place back; error: why the request got no answer. False when the server has refused all for too long."""
        with self._mutex:
            now, self.in_flight = time.monotonic(), self.in_flight - 1
            self._left.add(ticket)
            if error is None or not error.refused:
                self._refused_since = 0.0
            if error is None or error.broke:  # who closes connections is there again any moment
                self._pauses = 0
            if error and error.refused:
                self._refused_since = self._refused_since or now
                self.window.refuse(now, self.in_flight)
            if error and error.retry_after_s:
                self._pause(now, min(error.retry_after_s, self.patience_s))
            elif error and (not self.in_flight or self.window.is_fixed):
                self._back_off(now)
            are_others = bool(self.in_flight)
            self._admit()
            return are_others or now - (self._refused_since or now) <= self.patience_s

    def _admit(self) -> None:
        while self._waiting and self.in_flight < self.window.size and time.monotonic() >= self._not_before:
            self.in_flight += 1
            heapq.heappop(self._waiting)[1].release()

    def _back_off(self, now: float) -> None:
        if now >= self._not_before:  # the first of those that were sent together
            self._pause(now, min(MAX_PAUSE_S, 2.0**self._pauses) * random.uniform(0.5, 1.0))
            self._pauses += not self.in_flight

    def _pause(self, now: float, seconds: float) -> None:
        self._not_before = max(self._not_before, now + seconds)

    # ---------------------------------------------------------------------------------------------------- the window

    def _watch(self) -> None:
        """Look at the server as often as the window wants, and admit what a pause or a narrow window held back."""
        look_at = 0.0
        while not self._is_stopped and not (self._is_ended and self.is_idle):
            time.sleep(TICK_S)
            now = time.monotonic()
            if self.signals and now >= look_at:
                try:
                    self._look(self.signals, now)
                except Exception as e:  # a thread must not die silently
                    self._failed(e)
                    return
                look_at = now + self.window.look_s
            with self._mutex:
                self._admit()
                if (self._todo and self.busy < self._most) or (self._is_ended and self.is_idle):
                    self._items.notify_all()  # else all lanes would wake up for nothing

    def _look(self, signals: Signals, now: float) -> None:
        seen = signals.look(now, self.in_flight + len(self._waiting))
        if seen is None:
            return
        with self._mutex:
            self.window.look(seen)
            state = (self.window.size, self.window.reason)
        traced, last = self._traced
        if state != traced or last is None or now >= last.at + TRACE_EVERY_S:
            rate = (seen.tokens - last.tokens) / (seen.at - last.at) if last else None
            self.trace(self.window, seen, rate)
            self._traced = (state, seen)
