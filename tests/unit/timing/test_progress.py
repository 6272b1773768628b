"""Progress without a terminal: log lines at intervals, with an ETA."""

from __future__ import annotations

import structlog

from src.timing.progress import LINE_EVERY_S, STILL_EVERY_S, Lines
from tests.unit.timing.conftest import Clock


def test_estimate_is_shown_without_a_rate(clock: Clock) -> None:
    lines = Lines(clock, expected_s=40.0)
    clock.now += 10
    assert lines._facts("answers", 0, 8, clock.now)["eta"] == "~30s"
    lines.step("answers", 2, 8)
    clock.now += 2
    assert lines._facts("answers", 4, 8, clock.now)["eta"] == "4s"


def test_eta_needs_an_estimate_or_rate(clock: Clock) -> None:
    assert Lines(clock, expected_s=7200.0)._facts("videos", 0, 8, clock.now)["eta"] == "~2.0h"
    clock.now += 100
    assert "eta" not in Lines(clock)._facts("answers", 0, 8, clock.now)


def test_lines_come_at_intervals(clock: Clock) -> None:
    """Short ones while the counts change, long ones while they do not; always at the end."""
    lines, logged = Lines(clock), []
    with structlog.testing.capture_logs() as events:
        for seconds, done in ((0, 0), (1, 1), (LINE_EVERY_S, 2), (STILL_EVERY_S - 1, 2), (1, 2), (1, 8), (99, 8)):
            clock.now += seconds
            lines.step("answers", done, 8)
            logged.append([event["done"] for event in events])
            events.clear()
    assert logged == [[], [], ["2/8"], [], ["2/8"], ["8/8"], []]
