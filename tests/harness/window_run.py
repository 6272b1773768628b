"""A window on a simulated engine, in virtual time: as many requests as it allows, a look whenever it wants one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cache

from src.worker.window import Seen, Window, queue_of
from tests.harness.simulated_engine import Shape, SimulatedEngine

TOTAL = 1_000_000  # prompts: they do not run out


@dataclass
class WindowRun:
    """Seconds at which answers were complete, and the sizes of the window. metrics: the server shows its counters."""

    shape: Shape
    window: Window
    metrics: bool = True
    retry_after_s: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)  # from, until: everything is refused
    done_at: list[float] = field(default_factory=list)
    sizes: list[tuple[float, int, str]] = field(default_factory=list)

    def run(self, seconds: float) -> WindowRun:
        self.engine, self.dice, self.now = SimulatedEngine(self.shape), random.Random(7), 0.0
        self.in_flight, self.silent, self.tokens, self.events = 0, 0, 0, 0
        self.firsts, self.first_s, self.not_before = 0, 0.0, 0.0
        look_at = self.window.look_s
        while self.now < seconds:
            self._send()
            end = self.now + (0.02 if self.engine.is_idle else self.engine.begin_step())
            while look_at <= end:
                self.now = look_at
                if self.window.look(self._seen()):
                    self.sizes.append((look_at, self.window.size, self.window.reason))
                self._send()
                look_at += self.window.look_s
            self.now = end
            self.engine.end_step()
        return self

    def answers(self, since_s: float = 0.0) -> int:
        return sum(at >= since_s for at in self.done_at)

    def _send(self) -> None:
        while self.in_flight < self.window.size and self.now >= self.not_before:
            if not self._submit():
                self.window.refuse(self.now, self.in_flight)
                pause_s = self.retry_after_s or (0.0 if self.in_flight else 0.75)
                self.not_before = self.now + pause_s

    def _submit(self) -> bool:
        sent_at, got = self.now, 0
        if self.outage[0] <= self.now < self.outage[1]:
            return False

        def told(so_far: int, is_last: bool) -> None:
            nonlocal got
            if not got:
                self.silent, self.firsts, self.first_s = (
                    self.silent - 1,
                    self.firsts + 1,
                    self.first_s + self.now - sent_at,
                )
            self.tokens, self.events, got = self.tokens + so_far - got, self.events + 1, so_far
            if is_last:
                self.in_flight -= 1
                self.done_at.append(self.now)

        if not self.engine.submit(self.shape.length(self.dice.randrange(10**6)), 12, told):
            return False
        self.in_flight, self.silent = self.in_flight + 1, self.silent + 1
        return True

    def _seen(self) -> Seen:
        engine, wanted = self.engine, self.in_flight + 4
        if self.metrics:
            running, waiting, generated = engine.running, len(engine.waiting), engine.count["generated"]
            return Seen(
                self.now, self.in_flight, wanted, generated, running, waiting, engine.kv, engine.count["preempted"]
            )
        lumps = self.events <= 4 * self.firsts or self.events < 0.3 * self.tokens
        firsts = self.firsts if lumps else None
        running = self.in_flight - self.silent
        return Seen(
            self.now, self.in_flight, wanted, self.tokens, running, self.silent, firsts=firsts, first_s=self.first_s
        )


@cache
def fixed(shape: Shape, size: int, seconds: float) -> WindowRun:
    return WindowRun(shape, Window(size, "fixed", is_fixed=True)).run(seconds)


def best_fixed(shape: Shape, seconds: float, since_s: float = 0.0) -> int:
    """Answers of the best fixed window, which is the best number in flight or a few more that wait."""
    plain = replace(shape, chunk=0, kv_at_full=0.8)  # what does not change throughput
    return max(fixed(plain, size, seconds).answers(since_s) for size in (shape.best, shape.best + queue_of(shape.best)))
