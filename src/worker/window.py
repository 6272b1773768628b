"""How many requests may be in flight: found by what the server shows while it answers. No clock, no I/O.

The window doubles while throughput grows with it, and stops where the server's slots are full (the rest waits), where it
refuses, where its KV cache is used up, or where more in flight brings no more tokens. Then it is held, with a look now and
then whether the server has become larger or smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

START = 16  # the only overshoot that costs is one that preempts; doubling to 300 takes 4 s
RAMP_LOOK_S, HOLD_LOOK_S, FIXED_LOOK_S = 0.25, 1.0, 10.0
MEASURE_S, PROBE_MEASURE_S = 0.5, 2.0  # a counter of tokens is good to 1 or 2 % over half a second
QUEUE_S = 1.2  # a shorter queue is prefill
GAIN = 0.1  # of the widening; beyond the slots there is none, before them it was 0.38 and more
BETTER = 1.03
PROBE_AFTER_S, OUTAGE_S, RETRY_REFUSED_S = 10.0, 2.0, 60.0
KV_KNOWN, KV_ROOM = 0.3, 0.85  # shares of the KV cache: from where use is a forecast, and where there is room to probe


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the server.

    at: seconds of any clock. wanted: requests in flight and those ready to be sent. tokens: of all answers so far.
    running, waiting: requests of all clients that have a slot, or none yet. kv: share of the KV cache in use, None: unknown.
    preempted: so far. cap: the window that memory allows, because of what (why_cap). firsts, first_s: how many requests
    have got their first token, and the seconds that these took together; given where `tokens` comes in lumps. answer_s:
    how long an answer takes, given where prompts cost much: they come in waves, so a loss counts only over so long.
    """

    at: float
    in_flight: int
    wanted: int
    tokens: float
    running: int
    waiting: int
    kv: float | None = None
    preempted: float = 0.0
    cap: int = 1_000_000
    why_cap: str = ""
    firsts: int | None = None
    first_s: float = 0.0
    answer_s: float = 0.0


def queue_of(slots: int) -> int:
    """Requests that should wait so that no slot stays empty: about as many end at each step of the engine."""
    return max(4, slots // 16)


class Window:
    """The window, `size`, and how it came to be, in words: `reason`.

    ramps: it looks for its size; otherwise it starts as found (an engine whose slots are known). is_fixed: it stays.
    """

    def __init__(self, size: int = START, reason: str = "start", *, ramps: bool = True, is_fixed: bool = False) -> None:
        self.size, self.reason, self.is_fixed = size, reason, is_fixed
        self._ramps, self._factor = ramps, 2.0
        self._good, self._good_rate = 0, 0.0  # the last size whose throughput was measured
        self._bad = 0  # the smallest size known as too large; 0: none
        self._queue = queue_of(size) if not ramps else 0  # that is meant to wait
        self._refused_at: float | None = None
        self._mark: Seen | None = None  # when a measurement began
        self._flat = False  # one measurement showed no gain
        self._firsts = (0, 0.0)  # `Seen.firsts` and `first_s` when the window became as it is
        self._queue_since: float | None = None
        self._peak, self._waited = 0, 0  # most that ran, and what waited, since the queue showed
        self._last: Seen | None = None
        self._preempting = 0  # looks in a row, up to 3, less those without
        self._idle_since: float | None = None  # full, and no queue
        self._probe_after_s = PROBE_AFTER_S

    @property
    def look_s(self) -> float:
        """Seconds until the next look."""
        if self.is_fixed:
            return FIXED_LOOK_S
        return RAMP_LOOK_S if self._ramps or self._queue_since is not None else HOLD_LOOK_S

    def look(self, seen: Seen) -> bool:
        """Decide by what is seen; whether the window or its reason changed."""
        if self.is_fixed:
            return False
        before, last, self._last = (self.size, self.reason), self._last, seen
        if last and seen.tokens < last.tokens:  # another server, or one that was started again
            last, self._mark = None, None
        if self.size > seen.cap:
            self._set(seen.cap, seen.why_cap)
        elif not self._preempted(seen, last) and seen.in_flight <= 1.02 * self.size and not self._queued(seen):
            if self._ramps:
                self._ramp(seen)
            else:
                self._hold(seen)
        return (self.size, self.reason) != before

    def refuse(self, at: float, accepted: int) -> bool:
        """The server refused a request while it had accepted so many others; whether the window changed."""
        size = max(1, accepted - max(1, accepted // 20))
        if self.is_fixed:
            return False
        self._refused_at = at
        if size >= self.size:
            return False
        self._ramps, self._factor, self._bad = False, 2.0, accepted
        self._set(size, f"refused above {accepted}" if accepted else "the server refuses")
        return True

    # ---------------------------------------------------------------------------------------------------- ceilings

    def _preempted(self, seen: Seen, last: Seen | None) -> bool:
        """Back, when the engine throws out what it had started: half way to the last good window, or by a tenth."""
        if seen.in_flight > 1.02 * self.size:  # what is too much is still in flight
            self._preempting = 0
        elif last is not None and seen.preempted > last.preempted:
            self._preempting += 1
        elif last is not None and seen.tokens > last.tokens:  # else no step of the engine has passed
            self._preempting = max(0, self._preempting - 1)
        if self._preempting < 2:
            self._mark = None if self._preempting else self._mark
            return self._preempting > 0
        self._bad, self._preempting, self._mark = self.size, 0, None
        if self._good < 0.85 * self.size:
            self._set((self._good + self.size) // 2, "the engine preempts")
        else:
            size = self._good if self._good < self.size else self.size - max(1, self.size // 10)
            self._set(size, "the engine preempts")
            self._ramps = False
        return True

    def _queued(self, seen: Seen) -> bool:
        """Whether more waits than should; once that lasts, and no more run meanwhile, the slots are known."""
        if seen.waiting <= self._queue + max(2, 0.05 * self.size) or seen.in_flight < 0.95 * self.size:
            self._queue_since = None
            return False
        if self._queue_since is None or seen.running > 1.02 * self._peak or seen.waiting < 0.9 * self._waited:
            self._queue_since, self._peak, self._waited = seen.at, seen.running, seen.waiting
        elif seen.at - self._queue_since >= QUEUE_S:
            ours = round(seen.in_flight * seen.running / (seen.running + seen.waiting))  # where others ask too
            slots = max(1, min(seen.running, ours))
            self._queue, self._queue_since = queue_of(slots), None
            unnoticed = max(0, seen.in_flight - seen.running - seen.waiting)  # that have ended, or are on their way
            self._set(min(self.size, slots + self._queue + min(unnoticed, self._queue)), f"{slots} slots are full")
            self._ramps = False
        return True

    # ------------------------------------------------------------------------------------------------ ramp and hold

    def _ramp(self, seen: Seen) -> None:
        least_s = MEASURE_S if self._factor == 2.0 else PROBE_MEASURE_S
        rate = self._measured(seen, least_s)
        if rate is None or self._mark is None:
            return
        wanted_gain = 1 + GAIN * (self.size / self._good - 1) if self._good else 0.0
        if rate < wanted_gain * self._good_rate:
            if not self._flat and (rate > 0.95 * self._good_rate or seen.firsts is not None or seen.answer_s):
                self._flat, self._mark = True, seen  # it may have been the prefill of what came new
            if seen.at - self._mark.at < max(least_s, seen.answer_s):
                return
            self._bad, self._ramps = self.size, False
            self._probe_after_s *= 2
            if rate <= BETTER * self._good_rate:
                self._set(self._good, f"{self.size} give no more tokens/s than {self._good}")
            else:
                self.reason = f"more than {self.size} would give few more tokens/s"
            return
        self._good, self._good_rate, self._flat, self._mark = self.size, rate, False, None
        size, reason = min(
            (int(self._factor * self.size), "throughput grows"),
            (_forecast(seen), "KV cache is the limit"),
            ((self.size + self._bad) // 2 if self._bad else 10**9, "between good and bad"),
            (seen.cap, seen.why_cap),
        )
        if size <= 1.02 * self.size:
            self._ramps, self.reason = False, reason
        else:
            self._set(size, reason)

    def _hold(self, seen: Seen) -> None:
        quiet_s = seen.at - self._refused_at if self._refused_at is not None else 0.0
        if quiet_s > OUTAGE_S and self.size < 0.8 * self._good:  # not so few: the server was away
            self._ramps, self._bad, self._refused_at = True, 0, None
            self._good, self._good_rate = 0, 0.0
        elif quiet_s > RETRY_REFUSED_S and self._is_full(seen):
            self._refused_at = seen.at
            self._set(self.size + max(1, self.size // 20), "the refusals were long ago")
        room = self._is_full(seen) and seen.waiting <= 2 and (seen.kv or 0.0) < KV_ROOM and self._refused_at is None
        if not room or self.size >= seen.cap:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = seen.at
        elif seen.at - self._idle_since > self._probe_after_s:
            self._ramps, self._factor, self._bad, self._queue = True, 1.25, 0, 0
            self._good, self._good_rate, self._idle_since = 0, 0.0, None

    # ----------------------------------------------------------------------------------------------------- measuring

    def _is_full(self, seen: Seen) -> bool:
        return seen.in_flight >= 0.95 * self.size and seen.wanted > seen.in_flight

    def _measured(self, seen: Seen, least_s: float) -> float | None:
        """Throughput with the window full and no queue; None while that is not known.

        Where answers come in lumps, it is the requests in flight over the time to the first token: without a queue that
        is about the length of one step, which gives each of them a token.
        """
        mark = self._mark
        if not self._is_full(seen) or seen.waiting > max(2, 0.05 * self.size):
            self._mark = None
        elif mark is None:
            self._mark = seen
        elif seen.at - mark.at >= least_s:
            if seen.firsts is None or mark.firsts is None:
                return (seen.tokens - mark.tokens) / (seen.at - mark.at) if seen.tokens > mark.tokens else None
            firsts, first_s = (mark.firsts, mark.first_s) if self._flat else self._firsts
            if seen.firsts - firsts >= 4:
                return seen.in_flight * (seen.firsts - firsts) / (seen.first_s - first_s)
        return None

    def _set(self, size: int, reason: str) -> None:
        self.size, self.reason = max(1, size), reason
        self._mark, self._flat, self._idle_since, self._queue_since = None, False, None, None
        if self._last and self._last.firsts is not None:
            self._firsts = (self._last.firsts, self._last.first_s)


def _forecast(seen: Seen) -> int:
    """The window with which the KV cache would be full, less what other clients have there; no limit while it is emptier."""
    if seen.kv is None or seen.kv <= KV_KNOWN:
        return 1_000_000
    return round(seen.running / seen.kv) - max(0, seen.running - seen.in_flight)
