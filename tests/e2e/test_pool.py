"""Workers that something else starts, on a folder that stands for a shared disk; tests/e2e/test_slurm.py has sbatch start them."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.runs import fleet, supervisor
from tests.harness.pool_chaos import Chaos
from tests.harness.program import Program, journal_ids, plan_of, quoted, results_of, start, wait_for, write_prompts
from tests.harness.remote import PYTHON, QUIET


class PoolRun:
    """A run whose workers are started by the script of task=manifest."""

    def __init__(self, folder: Path, common: tuple[str, ...], clip: Path, delay_s: float) -> None:
        self.folder, self.run = folder, folder / "run"
        self._programs: list[Program] = []
        self.scripts: list[subprocess.Popen[bytes]] = []
        prompts = write_prompts(folder / "prompts.json", clip, 60)
        made = self.program(
            *common, *QUIET, "task=manifest", "host=pool", f"host.root={quoted(folder / 'shared disk')}", "host.workers=2",
            f"worker.python={quoted(PYTHON)}", f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(self.run)}",
            "engine.in_flight=2", f"engine.item_delay_s={delay_s}", "budget.max_batch_size=4", "image.reference=vllm:1",
        ).ended()  # fmt: skip
        assert made.code == 0, made.err

    def program(self, *overrides: str) -> Program:
        self._programs.append(started := start(*overrides, cwd=self.folder))
        return started

    def resume(self) -> Program:
        return self.program(f"resume={quoted(self.run)}")

    def start_workers(self) -> None:
        for number in ("0", "1"):
            argv = ("sh", str(self.run / "slurm.sh"))
            environment = {**os.environ, "WORKER": number}
            self.scripts.append(
                subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
            )

    def ended(self) -> int:
        return len(journal_ids(self.run))

    def close(self) -> None:
        for program in self._programs:
            program.kill()
        for script in self.scripts:
            script.terminate()
            script.wait()


@pytest.fixture
def pool(
    tmp_path: Path, common: tuple[str, ...], small: str, clips: Path, request: pytest.FixtureRequest
) -> Iterator[PoolRun]:
    run = PoolRun(tmp_path, (*common, f"model.tokenizer={quoted(small)}"), clips / "wide.mp4", request.param)
    yield run
    run.close()


@pytest.mark.parametrize("pool", [0.3], indirect=True)
def test_killed_controller_is_resumed(pool: PoolRun) -> None:
    pool.start_workers()
    controller = pool.resume()
    wait_for(lambda: pool.ended() > 5)
    controller.kill()
    end = pool.resume().ended()
    assert end.code == 0, end.err
    assert {row["state"] for row in results_of(pool.run)} == {"upsampled"}
    assert Counter(journal_ids(pool.run)) == Counter(item["id"] for item in plan_of(pool.run)["items"])
    assert [script.wait(30) for script in pool.scripts] == [0, 0]
    assert (pool.run / "job.yaml").read_text().startswith("apiVersion: batch/v1\nkind: Job\n")


@pytest.mark.parametrize("pool", [3.0], indirect=True)
def test_cancel_ends_the_workers(pool: PoolRun) -> None:
    controller = pool.resume()
    pool.start_workers()
    wait_for(lambda: pool.ended() > 5)
    status = pool.program("task=status", f"run={quoted(pool.run)}").ended()
    assert status.out.count(": running, ") == 2, status.out
    canceled = pool.program("task=cancel", f"run={quoted(pool.run)}").ended()
    assert canceled.code == 0, canceled.err
    assert [script.wait(30) for script in pool.scripts] == [0, 0]
    assert controller.ended().code == 4 and pool.ended() < 60


def test_random_faults_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "RETRY_S", 0.5)
    monkeypatch.setattr(supervisor, "QUEUE_POLL_S", 0.5)
    seed = int(time.time())
    print(f"python -m tests.harness.pool_chaos --seed {seed}")
    chaos = Chaos(seed)
    for number in range(4):
        chaos.run(number)
    assert not chaos.violations, chaos.violations
