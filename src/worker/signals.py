"""What a server shows of its load: its /metrics where it has them, and the streams of our own requests."""

from __future__ import annotations

import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .window import Seen

GIVE_UP_AFTER = 3  # looks at /metrics that took too long
MOST_REFUSED = 40  # looks in a row
MAX_BYTES = 512 << 20  # of frames in flight, and at most a tenth of the memory
# What a token of a prompt costs, in tokens of an answer: an H200 had 22,000 of the ones and 2,100 of the others a second.
PROMPT_TOKEN = 0.1

# Names of vLLM, which has renamed its KV usage, and SGLang.
_NAMES = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "kv": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "preempted": ("vllm:num_preemptions_total",),
    "generated": ("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
    "prompts": ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
    "capacity": ('vllm:num_requests_waiting_by_reason{reason="capacity"}',),
    "cache": ("vllm:cache_config_info",),
}
_FIELD = {name: field for field, names in _NAMES.items() for name in names}
_LINE = re.compile(r"^((?:vllm|sglang):\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)


class NoMetrics(OSError):
    """The server is there, and does not show its /metrics now: it starts, or is busy."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """A page of /metrics. kv: share in use of the KV cache that has least room; kv_tokens: its size, 0: not shown."""

    running: int
    waiting: int
    tokens: float
    preempted: float
    kv: float | None
    kv_tokens: int


def read_metrics(text: str) -> Metrics | None:
    """The sums over the engines of a page; None when it is of no known server."""
    found: dict[str, list[float]] = {}
    kv_tokens = 0
    for name, labels, value in _LINE.findall(text):
        if 'reason="capacity"' in labels:
            name += '{reason="capacity"}'
        if (field := _FIELD.get(name)) == "cache":
            kv_tokens += _kv_tokens(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
        elif field and math.isfinite(number := float(value)):
            found.setdefault(field, []).append(number)
    if "running" not in found or "generated" not in found:
        return None
    total = {field: sum(values) for field, values in found.items()}
    tokens = total["generated"] + PROMPT_TOKEN * total.get("prompts", 0.0)
    waiting = total.get("capacity", total.get("waiting", 0.0))
    kv = max(found["kv"]) if "kv" in found else None
    return Metrics(int(total["running"]), int(waiting), tokens, total.get("preempted", 0.0), kv, kv_tokens)


def _kv_tokens(labels: dict[str, str]) -> int:
    for size in (labels.get("kv_cache_size_tokens", ""), labels.get("num_gpu_blocks", "")):
        if size.isdecimal():
            return int(size) * (1 if size == labels.get("kv_cache_size_tokens") else int(labels.get("block_size", "1")))
    return 0


class Signals:
    """Counts of the requests to one server. Called from many threads; `look` from one.

    page: fetches /metrics; None where the server has none, OSError when it does not answer.
    """

    def __init__(self, page: Callable[[], str | None]) -> None:
        self._page: Callable[[], str | None] | None = page
        self._most_bytes = min(MAX_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10)
        self._mutex = threading.Lock()
        self.in_flight, self._silent, self._bytes = 0, 0, 0
        self._events, self._firsts, self._first_s = 0, 0, 0.0
        self._tokens, self._prompts = 0.0, 0  # of answers that ended, and of those that began
        self._ended, self._ended_events = 0, 0
        self._answer_s: deque[float] = deque(maxlen=64)
        self._late = self._refused = 0

    @property
    def is_counted(self) -> bool:
        """Whether the server counts its tokens itself, as far as is known."""
        return self._page is not None

    # -------------------------------------------------------------------------------------------------- one request

    def sent(self, size: int) -> None:
        """A request of so many bytes leaves."""
        with self._mutex:
            self.in_flight, self._silent, self._bytes = self.in_flight + 1, self._silent + 1, self._bytes + size

    def came(self, events: int, first_s: float | None) -> None:
        """Events of an answer came; first_s with the first of them."""
        with self._mutex:
            self._events += events
            if first_s is not None:
                self._silent, self._firsts, self._first_s = self._silent - 1, self._firsts + 1, self._first_s + first_s

    def ended(self, size: int, *, silent: bool) -> None:
        """A request is no longer in flight; silent: it had no event."""
        with self._mutex:
            self.in_flight, self._silent, self._bytes = self.in_flight - 1, self._silent - silent, self._bytes - size

    def answered(self, prompt_tokens: int, output_tokens: int, events: int, seconds: float) -> None:
        with self._mutex:
            self._ended, self._ended_events = self._ended + 1, self._ended_events + events
            self._tokens, self._prompts = self._tokens + output_tokens, self._prompts + prompt_tokens
            self._answer_s.append(seconds)

    # ------------------------------------------------------------------------------------------------------ all of them

    def look(self, at: float, wanted: int) -> Seen | None:
        """What the server shows now; None while its /metrics does not answer."""
        try:
            metrics = self.metrics()
        except OSError as e:
            self._late += isinstance(e, TimeoutError)
            self._refused += isinstance(e, NoMetrics)
            if self._late == GIVE_UP_AFTER or self._refused > MOST_REFUSED:
                self._page = None
            return None
        self._refused = 0
        with self._mutex:
            lumps = self._events <= 4 * self._firsts or self._ended_events < 0.3 * self._tokens
            prompt, output = (n / self._ended if self._ended else 0.0 for n in (self._prompts, self._tokens))
            answer_s = sorted(self._answer_s)[len(self._answer_s) // 2] if self._answer_s else 0.0
            open_events = self._events - self._ended_events  # about a token each
            tokens = self._tokens + (0 if lumps else open_events) + PROMPT_TOKEN * self._prompts
            cap, why = 1_000_000, ""
            if self._bytes:
                cap, why = max(1, self._most_bytes * self.in_flight // self._bytes), "memory of the frames in flight"
            seen = Seen(
                at=at,
                in_flight=self.in_flight,
                wanted=wanted,
                tokens=tokens,
                running=self.in_flight - self._silent,
                waiting=self._silent,
                cap=cap,
                why_cap=why,
                firsts=self._firsts if lumps else None,
                first_s=self._first_s,
                answer_s=answer_s if PROMPT_TOKEN * prompt > 0.2 * output else 0.0,
            )
        return seen if metrics is None else self._with(metrics, seen, prompt, output)

    def _with(self, metrics: Metrics, seen: Seen, prompt: float, output: float) -> Seen:
        """What /metrics adds. The plan's tokens bound the window where the KV cache does not show how full it is."""
        cap, why = seen.cap, seen.why_cap
        if metrics.kv_tokens and prompt and metrics.kv is None:
            bound = max(1, int(metrics.kv_tokens / (prompt + output)))
            cap, why = min((cap, why), (bound, f"{metrics.kv_tokens} tokens of KV cache"))
        return Seen(
            seen.at, seen.in_flight, seen.wanted, metrics.tokens, metrics.running, metrics.waiting, metrics.kv,
            metrics.preempted, cap, why, answer_s=seen.answer_s,
        )  # fmt: skip

    def metrics(self) -> Metrics | None:
        """What /metrics shows now; None where there is none. Raises OSError when it does not answer."""
        text = self._page() if self._page else None
        try:
            metrics = read_metrics(text) if text is not None else None
        except (ValueError, OverflowError):  # something else than the numbers of a known server
            metrics = None
        if metrics is None:
            self._page = None
        return metrics
