"""Fixtures for tests of the worker: a job folder, short pauses, signal handlers restored."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.worker import asking, flow, lifecycle, upsample
from tests.harness.fake_engine import write_job
from tests.harness.scripted_server import ScriptedServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job folder without items; its name has characters that a shell would interpret."""
    path = tmp_path / "job with 'quotes', ünïcode"
    path.mkdir()
    write_job(path)
    return path


@pytest.fixture(autouse=True)
def signal_handlers_restored() -> Iterator[None]:
    """A worker in this process replaces signal handlers; pytest needs its own back."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "POLL_S", 0.002)
    monkeypatch.setattr(asking, "PAUSE_S", 0.002)
    monkeypatch.setattr(flow, "TICK_S", 0.002)
    monkeypatch.setattr(flow, "MAX_PAUSE_S", 0.002)
    monkeypatch.setattr(lifecycle, "LOCK_PATIENCE_S", 0.2)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that answers requests from a script."""
    made = ScriptedServer()
    yield made
    made.close()
