"""A clock set by hand, a run measured with it, and a plan to estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.timing.estimates import RunTiming
from src.timing.phases import Measured, Stopwatch
from src.timing.progress import Quiet
from tests.conftest import Configure


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def remote_run(clock: Clock) -> Measured:
    """Hints for 4 s, 10 MiB sent in 2 s, a worker that loads for 20 s, and three answers."""
    watch = Stopwatch(Quiet(), clock)
    clock.now = 1004
    watch.took("hints", 1000.0, 3)
    clock.now = 1006
    watch.took("sending", 1004.0, 10 << 20)
    watch.phase("loading")
    clock.now = 1026
    watch.phase("serving")
    for clock.now in (1029, 1030, 1031):
        watch.took("answers", clock.now, 1)
    watch.phase("fetching")
    clock.now = 1033
    return watch.measured({"total": 40.0}, {"Python": "3"})


def past(**changes: Any) -> RunTiming:
    """An earlier run; `changes` replace its values."""
    plain: dict[str, Any] = {
        "requests": 100, "tokens": 80_000, "pixels": 1_000_000, "to_render": 1_000_000, "lanes": 10, "starting_s": 2.0,
        "loading_s": 60.0, "rendering_s": 10.0, "sent_bytes": 10 << 20, "sending_s": 5.0, "answering_s": 50.0,
        "ending_s": 1.0, "total_s": 113.0,
    }  # fmt: skip
    return RunTiming(**plain | changes)


@pytest.fixture
def plan(tmp_path: Path, clips: Path, configure: Configure) -> Plan:
    """Three prompts over one clip, on two GPUs."""
    prompts = [{"name": n, "prompt": f"A boat {n}.", "video_path": str(clips / "wide.mp4")} for n in "abc"]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    config = configure()
    config.prompts, config.cache_dir = str(tmp_path / "prompts.json"), str(tmp_path / "cache")
    config.host.gpus = "device=0,2"
    return resolve(config)
