"""What a server shows of its load: pages of /metrics, and counts of our own streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from src.worker.signals import MOST_REFUSED, Metrics, NoMetrics, Signals, read_metrics
from src.worker.window import Seen

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 60.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 9.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="deferred"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:generation_tokens_total{engine="0",model_name="m"} 2.0e+02
vllm:request_generation_tokens_sum{engine="0",model_name="m"} 9.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",kv_cache_size_tokens="400",num_gpu_blocks="100"} 1.0
"""
OLD_VLLM = """
vllm:num_requests_running{model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.5
vllm:generation_tokens_total{model_name="m"} 10.0
"""
SGLANG = """
sglang:num_running_reqs{model_name="m"} 5.0
sglang:num_queue_reqs{model_name="m"} 6.0
sglang:token_usage{model_name="m"} 0.28
sglang:generation_tokens_total{model_name="m"} 7.5e+03
"""


@pytest.mark.parametrize(
    ("page", "metrics"),
    [
        (VLLM, Metrics(64, 7, 300.0, 3.0, 0.5, 2000)),
        (OLD_VLLM, Metrics(1, 2, 10.0, 0.0, 0.5, 0)),
        (SGLANG, Metrics(5, 6, 7500.0, 0.0, 0.28, 0)),
        (OLD_VLLM.replace("0.5", "NaN").replace("2.0", "+Inf"), Metrics(1, 0, 10.0, 0.0, None, 0)),
        ("python_gc_objects_collected_total 5.0", None),
        ("<html>", None),
    ],
    ids=["vLLM", "older vLLM", "SGLang", "no numbers", "other", "no metrics"],
)
def test_pages_of_known_servers_are_read(page: str, metrics: Metrics | None) -> None:
    assert read_metrics(page) == metrics


def look(signals: Signals, at: float, wanted: int) -> Seen:
    seen = signals.look(at, wanted)
    assert seen
    return seen


def test_streams_show_who_waits() -> None:
    signals = Signals(lambda: None)
    for _ in range(3):
        signals.sent(1000)
    signals.came(1, 0.5)
    seen = look(signals, 0.0, 9)
    assert (seen.in_flight, seen.wanted, seen.running, seen.waiting) == (3, 9, 1, 2)
    signals.ended(1000, silent=False)
    signals.ended(1000, silent=True)
    seen = look(signals, 1.0, 9)
    assert (seen.in_flight, seen.running, seen.waiting) == (1, 0, 1)


@pytest.mark.parametrize(("events", "comes_in_lumps"), [(2, True), (30, False)])
def test_lumps_are_told_from_tokens(events: int, comes_in_lumps: bool) -> None:
    signals = Signals(lambda: None)
    signals.sent(1000)
    signals.came(1, 0.5)
    signals.came(events - 1, None)
    signals.answered(12, 30, events, 2.0)
    seen = look(signals, 0.0, 1)
    assert (seen.firsts is not None) is comes_in_lumps
    assert seen.tokens == pytest.approx(30 + 1.2)


def test_server_without_metrics_is_asked_once() -> None:
    asked = []
    signals = Signals(lambda: asked.append(1))  # type: ignore[func-returns-value]
    for at in range(3):
        signals.look(at, 0)
    assert asked == [1]


def test_slow_metrics_are_given_up_in_the_end() -> None:
    asked = []

    def page() -> str:
        asked.append(1)
        raise TimeoutError

    signals = Signals(page)
    assert [signals.look(at, 0) is None for at in range(5)] == [True, True, True, False, False]
    assert len(asked) == 3


def _pages(answers: list[str | OSError]) -> Callable[[], str]:
    """Gives one answer after another."""

    def page() -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    return page


def test_metrics_of_a_server_that_is_away_come_back() -> None:
    answers: list[str | OSError] = [*[ConnectionRefusedError()] * 9, VLLM]

    signals = Signals(_pages(answers))
    looks = [signals.look(at, 0) for at in range(10)]
    assert looks[:9] == [None] * 9
    assert looks[9] and looks[9].running == 64


@pytest.mark.parametrize(("refusals", "is_counted"), [(9, True), (MOST_REFUSED + 1, False)])
def test_metrics_that_a_server_refuses_for_a_while_come_back(refusals: int, is_counted: bool) -> None:
    """One that starts again answers 503; one that never shows them is looked at in another way in the end."""
    answers: list[str | OSError] = [*[NoMetrics("HTTP 503")] * refusals, VLLM, VLLM]

    signals = Signals(_pages(answers))
    for at in range(refusals + 1):
        seen = signals.look(at, 0)
    assert signals.is_counted is is_counted and seen and (seen.running == 64) is is_counted


def test_frames_in_flight_cap_the_window() -> None:
    signals = Signals(lambda: None)
    signals._most_bytes = 10_000_000
    for _ in range(4):
        signals.sent(1_000_000)
    seen = look(signals, 0.0, 9)
    assert (seen.cap, seen.why_cap) == (10, "memory of the frames in flight")


def test_cache_of_unknown_use_caps_the_window() -> None:
    page = VLLM.replace("kv_cache_usage_perc", "other")
    signals = Signals(lambda: page)
    signals.answered(150, 50, 50, 1.0)
    assert look(signals, 0.0, 9).cap == 10
