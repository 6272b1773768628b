"""Runs on this machine that are interrupted, started twice, or killed."""

from __future__ import annotations

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.processes import command_lines
from tests.harness.program import (
    ROOT,
    Ended,
    answered,
    journal_ids,
    plan_of,
    program,
    quoted,
    results_of,
    start,
    wait_for,
    write_prompts,
)  # fmt: skip

AWKWARD = "läuft 雨 (1), x=y's $1"
SLOW = ("engine.item_delay_s=0.2", "engine.in_flight=1", "output.report=false", "hints.video=false")
ITEMS = 24  # enough, at SLOW, to outlast the start of another process on a busy machine


def worker_pid(run: Path) -> int | None:
    """The worker that runs in this run's job folder, if there is one."""
    for lock in run.glob("job/*/lock"):
        pid = lock.read_text()
        try:
            if pid and str(lock.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        except OSError:
            continue  # it ended meanwhile
    return None


@dataclass(frozen=True)
class Interrupted:
    """A slow run in which a second start was tried, and which then got Ctrl-C, and then the line that it printed."""

    run: Path
    ids: list[str]
    second: Ended
    first: Ended
    ended_then: list[str]
    resumed: Ended


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, clips: Path, common: tuple[str, ...]) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted") / AWKWARD
    file, run = write_prompts(folder / "prompts.json", clips / "wide.mp4", ITEMS), folder / "run"
    process = start(f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *SLOW, *common, fresh=True)
    wait_for(lambda: len(journal_ids(run)) >= 2)
    worker = worker_pid(run)
    assert worker
    os.kill(worker, signal.SIGSTOP)  # the first run lasts until the second start has ended
    second = program(f"resume={quoted(run)}")
    os.kill(worker, signal.SIGCONT)
    process.interrupt()
    first = process.ended()
    ended_then = journal_ids(run)
    line = next((x.strip() for x in first.err.splitlines() if "resume=" in x), "false")
    by_shell = subprocess.run(
        ["bash", "-c", line.replace("python", shlex.quote(sys.executable), 1)], cwd=ROOT, text=True, capture_output=True
    )
    resumed = Ended(by_shell.returncode, by_shell.stdout, by_shell.stderr)
    return Interrupted(run, [i["id"] for i in plan_of(run)["items"]], second, first, ended_then, resumed)


def test_second_start_in_folder_is_75(interrupted: Interrupted) -> None:
    assert interrupted.second.code == 75, interrupted.second.err
    assert "another process" in interrupted.second.err
    assert "Traceback" not in interrupted.second.err


def test_ctrl_c_is_130_and_keeps_answers(interrupted: Interrupted) -> None:
    assert interrupted.first.code == 130, interrupted.first.err
    assert "Traceback" not in interrupted.first.err
    assert 2 <= len(interrupted.ended_then) < ITEMS
    assert interrupted.ended_then == answered(interrupted.run)[: len(interrupted.ended_then)]


def test_printed_command_resumes_the_run(interrupted: Interrupted) -> None:
    assert interrupted.resumed.code == 0, interrupted.resumed.err
    assert {row["state"] for row in results_of(interrupted.run)} == {"upsampled"}
    assert Counter(answered(interrupted.run)) == Counter(interrupted.ids)
    assert Counter(journal_ids(interrupted.run)) == Counter(interrupted.ids)


@pytest.fixture
def slow_run(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """A run folder, and the overrides of a slow run in it."""
    file, run = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", ITEMS), tmp_path / "run"
    return run, (f"prompts={quoted(file)}", f"hydra.run.dir={run}", *SLOW, *common)


def test_ctrl_c_before_start_is_130(slow_run: tuple[Path, tuple[str, ...]]) -> None:
    run, overrides = slow_run
    process = start(*overrides)
    wait_for((run / ".hydra" / "config.yaml").exists, step_s=0.001)
    process.interrupt()
    end = process.ended()
    assert end.code == 130
    assert "resume=" not in end.err or (run / "plan.json").exists()


def test_ctrl_c_at_worker_start_leaves_nothing(slow_run: tuple[Path, tuple[str, ...]]) -> None:
    run, overrides = slow_run
    process = start(*overrides)
    wait_for(lambda: any(run.glob("job/*/worker.log")), step_s=0.001)
    process.interrupt()
    assert process.ended().code == 130
    survivors = [pid for pid, words in command_lines() if any(str(run).encode() in word for word in words)]
    try:
        assert survivors == []
    finally:
        for pid in survivors:
            os.kill(pid, signal.SIGKILL)


def test_sigterm_ends_like_ctrl_c(slow_run: tuple[Path, tuple[str, ...]]) -> None:
    run, overrides = slow_run
    process = start(*overrides)
    wait_for(lambda: len(journal_ids(run)) >= 2)
    process.terminate()
    end = process.ended()
    assert end.code == 130 and "resume=" in end.err
    assert worker_pid(run) is None and 2 <= len(journal_ids(run)) < ITEMS


@pytest.mark.parametrize("seed", [1])
def test_random_kills_lose_and_repeat_nothing(tmp_path: Path, clips: Path, common: tuple[str, ...], seed: int) -> None:
    dice, run = random.Random(seed), tmp_path / AWKWARD / "run"
    file = write_prompts(tmp_path / AWKWARD / "prompts.json", clips / "wide.mp4", 120)
    first = (f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *SLOW, *common)
    for kill in range(15):
        resuming = (run / "plan.json").exists()
        process = start(*((f"resume={quoted(run)}",) if resuming else first))
        victim = dice.choice(["controller", "worker", "both"])
        if kill % 3:  # some die while they start, some after a few answers more
            goal = len(journal_ids(run)) + dice.randrange(1, 4)
            wait_for(lambda: process.poll() is not None or len(journal_ids(run)) >= goal)  # noqa: B023 - called at once
        else:
            time.sleep(dice.uniform(0.05, 1.0))
        pid = worker_pid(run) if victim != "controller" else None
        if pid:
            os.kill(pid, signal.SIGKILL)
        if victim == "worker" and pid:  # the controller dies only after it has started another one
            wait_for(lambda: process.poll() is not None or worker_pid(run) not in (None, pid))  # noqa: B023
        process.kill()
        if dice.random() < 0.3 and (run / "journal.jsonl").exists():
            with open(run / "journal.jsonl", "ab") as f:
                f.write(b'{"id": "torn')
    assert len(journal_ids(run)) < 120, "nothing was left to do while it was being killed"
    end = program(f"resume={quoted(run)}")
    assert end.code == 0, end.err
    ids = [item["id"] for item in plan_of(run)["items"]]
    assert len(set(ids)) == 120
    assert Counter(answered(run)) == Counter(ids)
    assert Counter(journal_ids(run)) == Counter(ids)
    assert [row["id"] for row in results_of(run)] == ids
    assert {row["state"] for row in results_of(run)} == {"upsampled"}
    assert worker_pid(run) is None


def test_simultaneous_runs_get_separate_folders(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    prompts = write_prompts(tmp_path / AWKWARD / "prompts.json", clips / "wide.mp4", 2)
    pattern = f"hydra.run.dir=${{run_folder:null,null,upsample,{tmp_path}/run}}"
    starts = [start(f"prompts={quoted(prompts)}", pattern, *common) for _ in range(4)]
    ends = [process.ended() for process in starts]
    assert [end.code for end in ends] == [0, 0, 0, 0], [end.err for end in ends]
    assert len(list(tmp_path.glob("run*/results.json"))) == 4


def test_frozen_worker_is_replaced(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    file, run = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", ITEMS), tmp_path / "run"
    process = start(
        f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *SLOW, *common, "host.silent_s=5", fresh=True
    )
    wait_for(lambda: len(journal_ids(run)) >= 2)
    frozen = worker_pid(run)
    assert frozen
    os.kill(frozen, signal.SIGSTOP)
    end = process.ended()
    assert end.code == 0, end.err
    assert "gave no sign of life" in end.err
    assert not Path(f"/proc/{frozen}").exists()
    assert Counter(journal_ids(run)) == Counter(item["id"] for item in plan_of(run)["items"])


def test_planning_ends_while_its_server_hangs(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"engine.base_url=http://127.0.0.1:{server.getsockname()[1]}/v1"
        prompts = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 1)
        planned = start(
            f"prompts={quoted(prompts)}", "engine=endpoint", address, "model.family=ask",
            f"hydra.run.dir={quoted(tmp_path / 'run')}", *common,
        )  # fmt: skip
        server.accept()  # its question comes, and no answer
        planned.interrupt()
        assert planned.ended(timeout_s=30).code == 130
