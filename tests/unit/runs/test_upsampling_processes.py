"""Runs with workers and controllers in processes of their own, which are killed, interrupted and followed by others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src.errors import HostError
from src.hosts.job_folder import JobPaths
from src.planning.plan import Plan
from src.run_folder import RunPaths, locked
from src.runs.saved_run import save_plan
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from tests.harness.fake_engine import wait_until
from tests.harness.openai_server import FakeOpenAI
from tests.harness.records import ids_in, journal_lines
from tests.unit.runs.conftest import MakePlan, job_of, takes

ROOT = Path(__file__).resolve().parents[3]
CONTROLLER = """
import sys
from pathlib import Path
from src.planning.plan_file import read_plan
from src.run_folder import RunPaths, locked
from src.runs.upsampling import execute
from src.timing.progress import Quiet
paths = RunPaths(Path(sys.argv[1]))
with locked(paths):
    execute(read_plan(paths.plan), paths, Quiet())
"""


def answered(paths: RunPaths) -> list[str]:
    """Ids in the worker's journal, as soon as there is one."""
    return ids_in(job_of(paths).results) if paths.jobs.exists() and any(paths.jobs.iterdir()) else []


def loads(job: JobPaths) -> int:
    """How many workers started in a job."""
    return [event.get("phase") for event in journal_lines(job.events)].count("loading")


def worker_of(paths: RunPaths) -> int | None:
    """Process id of the live worker, if there is one."""
    for lock in paths.jobs.glob("*/lock"):
        text = lock.read_text()
        try:
            if text and str(lock.parent).encode() in Path(f"/proc/{text}/cmdline").read_bytes():
                return int(text)
        except OSError:
            continue
    return None


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    """A server that answers so many requests as a test allows."""
    made = FakeOpenAI(pause_s=0.0)
    yield made
    made.close()


Plans = Callable[[int], Plan]


@pytest.fixture
def plan_of(make_plan: MakePlan, clips: Path, server: FakeOpenAI) -> Plans:
    """A function from a number of items to a plan that asks the server, one request at a time."""

    def planned(count: int) -> Plan:
        plan = make_plan(takes(clips, count), "engine=endpoint", f"engine.base_url={server.url}", "engine.in_flight=1")
        server.expected = {item.text: item.tokens.prompt for item in plan.items}
        return plan

    return planned


class InterruptedAt(Quiet):
    """A progress display during which Ctrl-C comes, after so many answers."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def step(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        if stage == "answers" and done >= self.answers:
            raise KeyboardInterrupt


def test_next_controller_finds_the_worker_running(paths: RunPaths, plan_of: Plans, server: FakeOpenAI) -> None:
    plan = plan_of(6)
    save_plan(plan, paths)
    server.allow(2)
    controller = subprocess.Popen([sys.executable, "-c", CONTROLLER, paths.root], cwd=ROOT)
    wait_until(lambda: len(answered(paths)) == 2, 60)
    controller.kill()
    controller.wait()
    assert worker_of(paths)  # it survives the controller
    server.allow()
    with locked(paths):  # and does not hold the run folder
        outcomes = execute(plan, paths, Quiet())
    assert loads(job_of(paths)) == 1
    assert Counter(answered(paths)) == Counter(ids_in(paths.journal)) == Counter(item.id for item in plan.items)
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}


def test_killed_worker_is_restarted(paths: RunPaths, plan_of: Plans, server: FakeOpenAI) -> None:
    plan = plan_of(6)
    server.allow(2)

    def kill_after_two_answers() -> None:
        wait_until(lambda: len(answered(paths)) == 2, 60)
        worker = worker_of(paths)
        assert worker
        os.kill(worker, signal.SIGKILL)
        server.allow()

    killer = threading.Thread(target=kill_after_two_answers)
    killer.start()
    outcomes = execute(plan, paths, Quiet())
    killer.join()
    assert loads(job_of(paths)) == 2
    assert Counter(answered(paths)) == Counter(ids_in(paths.journal)) == Counter(list(outcomes))
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}


def test_interrupt_keeps_what_was_in_flight(paths: RunPaths, plan_of: Plans, server: FakeOpenAI) -> None:
    plan = plan_of(8)
    server.allow(3)

    def answer_what_is_in_flight() -> None:
        wait_until(lambda: any(paths.jobs.glob("*/cancelled")), 60)
        time.sleep(0.1)  # until the worker has its signal
        server.allow()

    releaser = threading.Thread(target=answer_what_is_in_flight)
    releaser.start()
    with pytest.raises(KeyboardInterrupt):
        execute(plan, paths, InterruptedAt(3))
    releaser.join()
    assert worker_of(paths) is None
    first = ids_in(paths.journal)
    assert 4 <= len(first) < 8
    assert sorted(first) == sorted(answered(paths))
    end = json.loads(job_of(paths).exit.read_text())
    assert end["state"] == "cancelled"
    assert set(end["not_started"]) <= {item.id for item in plan.items} - set(first)
    outcomes = execute(plan, paths, Quiet())
    assert Counter(answered(paths)) == Counter(ids_in(paths.journal)) == Counter(item.id for item in plan.items)
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}


def test_package_of_the_same_name_is_harmless(
    paths: RunPaths, clips: Path, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: Plan = make_plan(takes(clips, 1))
    for name in ("src", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is another package')")
    monkeypatch.chdir(tmp_path)
    [outcome] = execute(plan, paths, Quiet()).values()
    assert outcome.state == "upsampled"


def test_dying_worker_is_quoted(paths: RunPaths, clips: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 1\n")
    dying.chmod(0o755)
    plan = make_plan(takes(clips, 1), "engine=vllm", "model=tiny_random", f"worker.python={dying}")
    with pytest.raises(HostError, match="the disk is on fire"):
        execute(plan, paths, Quiet())
    assert job_of(paths).log.read_text().count("the disk is on fire") <= 5
