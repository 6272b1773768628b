"""What a run took and cost, in words and as a timeline. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..planning.gpus import devices
from ..planning.partition import places
from ..planning.plan import Plan
from ..text import duration, precise_duration
from ..worker.protocol import Event
from .estimates import error_text
from .phases import ANSWERS, FIRST, HINTS, ORDER, SENDING, Measured, WorkerLifetime

WITHOUT_GPU = ("offline", "endpoint")  # engines whose worker uses no GPU
WINDOW_LINES = 40  # of each worker, in the report


@dataclass(frozen=True, slots=True)
class Bar:
    """A phase on the timeline: its position and width in per cent of the whole, its label and detail."""

    label: str
    detail: str
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class WindowLine:
    """How many requests might be in flight from a moment on, why, and what the server showed then."""

    at: str
    size: int
    reason: str
    detail: str


def window_lines(events: Iterable[Event]) -> tuple[WindowLine, ...]:
    """The changes of a worker's window in its events.jsonl; of very many the first and the last."""
    lines: list[WindowLine] = []
    began: float | None = None
    for event in events:
        began = event.time if began is None else began
        if event.event == "window" and (
            not lines or (event.window, event.reason) != (lines[-1].size, lines[-1].reason)
        ):
            lines.append(WindowLine(precise_duration(event.time - began), event.window, event.reason, _shown(event)))
    return tuple(lines if len(lines) <= WINDOW_LINES else (*lines[: WINDOW_LINES // 2], *lines[-WINDOW_LINES // 2 :]))


def _shown(event: Event) -> str:
    parts = [f"{event.in_flight} in flight", f"{event.running} running", f"{event.waiting} waiting"]
    parts += [f"KV cache {event.kv:.0%}"] if event.kv is not None else []
    parts += [f"{event.tokens_s:,.0f} tokens/s"] if event.tokens_s is not None else []
    return ", ".join(parts)


def timeline(start: Measured) -> tuple[Bar, ...]:
    """The phases of one start of a run, in their order; some run side by side."""
    whole_s = max(start.seconds, 1e-3)
    shows_estimate = bool(error_text(start.estimated_s, start.seconds))

    def bar(name: str) -> Bar:
        phase = start.phases[name]
        parts = [precise_duration(phase.end_s - phase.begin_s), _amount(name, phase.amount, phase.busy_s)]
        if shows_estimate and start.estimated_s.get(name, 0) > 0:
            # The estimate of the answers counts from when the worker is ready.
            parts.append(
                f"estimated {precise_duration(start.estimated_s[name])}{' with the first' if name == ANSWERS else ''}"
            )
        left = min(100.0, max(0.0, 100 * phase.begin_s / whole_s))
        width = min(100.0 - left, 100 * (phase.end_s - phase.begin_s) / whole_s)
        return Bar(name, " · ".join(part for part in parts if part), round(left, 3), round(width, 3))

    return tuple(bar(name) for name in ORDER if name in start.phases)


def worker_timeline(workers: Sequence[WorkerLifetime]) -> tuple[Bar, ...]:
    """Which worker ran when, by the clocks of their hosts."""
    first = min((life.began for life in workers), default=0.0)
    whole_s = max((life.began + life.seconds - first for life in workers), default=0.0) or 1e-3

    def bar(number: int, life: WorkerLifetime) -> Bar:
        parts = [precise_duration(life.seconds)]
        parts += [f"{precise_duration(life.load_s)} of it to load"] if life.load_s else []
        left, width = 100 * (life.began - first) / whole_s, 100 * life.seconds / whole_s
        return Bar(f"worker {number}", " · ".join(parts), round(left, 3), round(width, 3))

    return tuple(bar(n, life) for n, life in enumerate(workers, start=1))


def _amount(name: str, amount: int, busy_s: float) -> str:
    if name == SENDING:
        mib = amount / 2**20
        return f"{mib:.1f} MiB, {mib / max(busy_s, 1e-3):.1f} MiB/s"
    return f"{amount} {name}" if name in (HINTS, ANSWERS) and amount else ""


def rate_text(starts: Sequence[Measured]) -> str:
    """Answers per second, from when the worker was ready to the last answer; "" when that was too short to measure."""
    phases = [start.phases for start in starts if ANSWERS in start.phases]
    answers = sum(p[ANSWERS].amount for p in phases)
    seconds = sum(p[ANSWERS].busy_s + p[FIRST].busy_s for p in phases)
    if seconds < 0.001:
        return ""
    rate = answers / seconds
    return f"{rate:.2f} answers/s" if rate < 10 else f"{rate:.0f} answers/s"


@dataclass(slots=True)
class TokenTotals:
    """Prompt tokens as planned and as the engine counted them, over the items that it counted; equal in so many of them."""

    counted: int = 0
    predicted: int = 0
    measured: int = 0
    equal: int = 0

    def add(self, predicted: int, measured: int | None) -> None:
        if measured is not None:
            self.counted += 1
            self.predicted += predicted
            self.measured += measured
            self.equal += predicted == measured

    @property
    def text(self) -> str:
        if not self.counted:
            return ""
        sums = f"planned {self.predicted:,}, measured {self.measured:,}"
        return f"{sums}; equal in {self.equal} of {self.counted} items"


def gpus_of(plan: Plan) -> int | None:
    """GPUs that each worker holds; None when host.gpus names no number, or not the same everywhere, or no GPU is used."""
    if plan.settings.engine.name in WITHOUT_GPU:
        return None
    each = {len(devices(place.settings.host.gpus) or ()) for place in places(plan)}
    return each.pop() or None if len(each) == 1 else None


def gpu_facts(plan: Plan, workers: Sequence[WorkerLifetime]) -> list[tuple[str, str]]:
    """GPU seconds and, where a price is given, their cost: the whole time that workers ran, loading included."""
    each = gpus_of(plan)
    if not each or not workers:
        return []
    seconds = each * sum(life.seconds for life in workers)
    facts = [("GPU time", f"{seconds:,.0f} GPU seconds ({each} per worker)")]
    if cost := cost_of(plan, workers):
        facts.append(("Cost", f"{cost:.2f} at {plan.settings.host.price_per_gpu_hour:g} per GPU hour"))
    return facts


def cost_of(plan: Plan, workers: Sequence[WorkerLifetime]) -> float | None:
    """What the GPUs of these workers cost, in the currency of host.price_per_gpu_hour; None where it is not known."""
    each, price = gpus_of(plan), plan.settings.host.price_per_gpu_hour
    if not (each and workers and price):
        return None
    return round(each * sum(life.seconds for life in workers) / 3600 * price, 6)


def run_facts(
    plan: Plan, tokens: TokenTotals, starts: Sequence[Measured], workers: Sequence[WorkerLifetime]
) -> list[tuple[str, str]]:
    """What was measured over the whole run."""
    facts = []
    if starts:
        total_s = sum(start.seconds for start in starts)
        facts.append(("Took", duration(total_s) + (f", in {len(starts)} starts" if len(starts) > 1 else "")))
        if len(starts) == 1 and (off := error_text(starts[0].estimated_s, starts[0].seconds)):
            facts.append(("Time", off))
    if rate := rate_text(starts):
        facts.append(("Rate", rate))
    if tokens.text:
        facts.append(("Prompt tokens", tokens.text))
    return facts + gpu_facts(plan, workers)
