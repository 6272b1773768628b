"""An engine whose best number of requests in flight is known, in steps of known length; no clock, no server.

Each step gives every running request one token and takes `step_ms + request_ms * running + prefill_ms * admitted`
milliseconds: throughput grows with the requests that run, ever more slowly, up to the slots.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

MEAN_TOKENS = {16: 16, 64: 50, 300: 150}  # of an answer, by the best number in flight
Told = Callable[[int, bool], None]  # how many tokens of an answer there are, and whether it is complete


@dataclass(frozen=True)
class Shape:
    """How an engine behaves.

    queue: "unbounded", what finds no slot waits; "bounded", of those at most a quarter of `best` waits and the rest is
    refused; "thrashing", four times the slots, but beyond `best` each step takes longer, as with preemption.
    chunk: tokens an event, 0: the first, then the rest. kv_at_full: KV use when all slots run.
    """

    best: int = 64
    queue: str = "unbounded"
    chunk: int = 0
    kv_at_full: float = 0.8
    step_ms: float = 20.0
    request_ms: float = 0.1
    prefill_ms: float = 2.0
    tokens: int = 0
    prefills: int = 1_000_000  # prompts admitted a step, at most

    @property
    def slots(self) -> int:
        return self.best * (4 if self.queue == "thrashing" else 1)

    @property
    def mean_tokens(self) -> int:
        return self.tokens or MEAN_TOKENS[self.best]

    def length(self, seed: int) -> int:
        """Tokens of an answer: 0.5 to 1.5 of the mean."""
        return max(2, round(self.mean_tokens * (0.5 + seed % 1001 / 1000)))


class SimulatedEngine:
    """Call `begin_step`, let its seconds pass, call `end_step`."""

    def __init__(self, shape: Shape) -> None:
        self.shape, self.running, self.step = shape, 0, 0
        self.waiting: deque[tuple[int, Told]] = deque()
        self.count: Counter[str] = Counter()
        self._due: defaultdict[int, list[tuple[Told, int, bool]]] = defaultdict(list)
        self._over = 0

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def kv(self) -> float:
        """Share of the KV cache in use."""
        shape = self.shape
        return min(1.0, self.running / (shape.best if shape.queue == "thrashing" else shape.slots / shape.kv_at_full))

    def submit(self, length: int, prompt_tokens: int, told: Told) -> bool:
        """Whether the request is accepted; then `told` is called as its tokens come."""
        shape = self.shape
        room = shape.slots + max(4, shape.best // 4)
        if shape.queue == "bounded" and self.running + len(self.waiting) >= room:
            self.count["refused"] += 1
            return False
        self.waiting.append((length, told))
        self.count["prompt"] += prompt_tokens
        return True

    def begin_step(self) -> float:
        """Admit what has a slot; seconds of this step."""
        shape, admitted = self.shape, 0
        while self.waiting and self.running < shape.slots and admitted < shape.prefills:
            length, told = self.waiting.popleft()
            admitted, self.running = admitted + 1, self.running + 1
            events = {1, length, *(range(1, length, shape.chunk) if shape.chunk else ())}
            for so_far in events:
                self._due[self.step + so_far].append((told, so_far, so_far == length))
        self._over = max(0, self.running - shape.best) if shape.queue == "thrashing" else 0
        step_ms = shape.step_ms + shape.request_ms * self.running + shape.prefill_ms * admitted
        return step_ms * (1 + 3 * self._over / shape.best) / 1000

    def end_step(self) -> None:
        self.step += 1
        self.count.update(generated=self.running, preempted=self._over)
        for told, so_far, is_last in sorted(self._due.pop(self.step, ()), key=lambda event: event[1]):
            self.running -= is_last
            told(so_far, is_last)

    def metrics(self) -> str:
        """The text of /metrics, named as vLLM names it."""
        values = {
            "num_requests_running": self.running,
            "num_requests_waiting": len(self.waiting),
            "kv_cache_usage_perc": self.kv,
            "num_preemptions_total": self.count["preempted"],
            "prompt_tokens_total": self.count["prompt"],
            "generation_tokens_total": self.count["generated"],
        }
        return "".join(f'vllm:{name}{{engine="0"}} {float(value)}\n' for name, value in values.items())
