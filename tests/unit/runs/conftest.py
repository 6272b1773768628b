"""Fixtures for tests of runs: run folders, plans, workers in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.hosts.job_folder import JobPaths
from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.planning.settings import Settings
from src.run_folder import RunPaths
from src.runs import staging, upsampling
from src.worker import __main__ as worker_main
from src.worker import upsample
from tests.conftest import Configure, cache_with_tokenizers
from tests.harness.fake_engine import FakeEngine, prepare_with
from tests.harness.in_process_job import InProcessJob

Prompts = dict[str, tuple[str, Path | None]]
MakePlan = Callable[..., Plan]


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run folder; its name has characters that a shell would interpret."""
    root = tmp_path / "run with 'quotes', ünïcode"
    root.mkdir()
    return RunPaths(root)


@pytest.fixture
def make_plan(tmp_path: Path, configure: Configure) -> MakePlan:
    """A function from prompts, given as {name: (prompt, video)}, and overrides to a plan with a cache of its own."""

    def planned(prompts: Prompts, *overrides: str) -> Plan:
        file = tmp_path / "prompts.json"
        entries = [
            {"name": name, "prompt": prompt} | ({"video_path": str(video)} if video else {})
            for name, (prompt, video) in prompts.items()
        ]
        file.write_text(json.dumps(entries))
        config = configure(*overrides)
        own_cache = tmp_path / "cache"
        if not own_cache.exists():
            cache_with_tokenizers(own_cache, Path(config.cache_dir))
        config.prompts, config.cache_dir = str(file), str(own_cache)
        return resolve(config)

    return planned


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[InProcessJob]:
    """Let workers run in this process, without pauses; the handles that were asked for, in order."""
    handles: list[InProcessJob] = []

    def handle_of(plan: Plan, job: JobPaths, settings: Settings) -> InProcessJob:
        handles.append(InProcessJob(job, worker_main.prepare))
        return handles[-1]

    monkeypatch.setattr(upsampling, "handle_of_plan", handle_of)
    monkeypatch.setattr(staging, "LINGER_S", 0.0)
    monkeypatch.setattr(upsample, "POLL_S", 0.001)
    return handles


@pytest.fixture
def use_engine(monkeypatch: pytest.MonkeyPatch, workers: list[InProcessJob]) -> Callable[[FakeEngine], None]:
    """A function that gives the workers a fake engine."""
    return lambda engine: monkeypatch.setattr(worker_main, "prepare", prepare_with(engine))


def takes(clips: Path, count: int) -> Prompts:
    """Distinct prompts over one clip."""
    return {f"item{n}": (f"A boat, take {n}.", clips / "wide.mp4") for n in range(count)}


def job_of(paths: RunPaths) -> JobPaths:
    """The only job of a run."""
    [job] = paths.jobs.iterdir()
    return JobPaths(job)
