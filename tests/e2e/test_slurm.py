"""Runs on a real Slurm: workers that start late, are requeued, canceled by somebody, or reach their time limit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.program import (
    ROOT,
    Ended,
    Program,
    journal_ids,
    logged,
    plan_of,
    quoted,
    results_of,
    start,
    wait_for,
)
from tests.harness.remote import PYTHON, QUIET
from tests.harness.slurm import PATH, Slurm
from tests.harness.sshd import Sshd, missing

SLOW = ("engine.in_flight=2", "engine.item_delay_s=0.3", "budget.max_batch_size=4")


class SlurmRun:
    """A run on the cluster, of prompts over one clip."""

    def __init__(self, folder: Path, slurm: Slurm, common: tuple[str, ...], clip: Path) -> None:
        self.folder, self.slurm, self.run = folder, slurm, folder / "run"
        self._programs: list[Program] = []
        self.overrides = (
            *common, *QUIET, f"host.root={quoted(folder / 'shared disk')}", f"worker.python={quoted(PYTHON)}",
            f"hydra.run.dir={quoted(self.run)}",
        )  # fmt: skip
        self._clip = clip

    def program(self, *overrides: str) -> Program:
        self._programs.append(started := start(*overrides, cwd=self.folder, env=self.slurm.environment))
        return started

    def start(self, count: int, *overrides: str, host: str = "slurm") -> Program:
        items = [
            {"name": f"take {n}", "prompt": f"A boat, take {n}.", "video_path": str(self._clip)} for n in range(count)
        ]
        (self.folder / "prompts.json").write_text(json.dumps(items))
        prompts = f"prompts={quoted(self.folder / 'prompts.json')}"
        return self.program(prompts, f"host={host}", *self.overrides, *overrides)

    def task(self, name: str) -> Ended:
        return self.program(f"task={name}", f"run={quoted(self.run)}").ended()

    def ended(self) -> int:
        return len(journal_ids(self.run))

    def jobs(self, state: str) -> list[str]:
        return self.slurm.run("squeue", "-h", "-t", state, "-o", "%i").split()

    def assert_answered(self, end: Ended) -> None:
        assert end.code == 0, end.err
        assert {row["state"] for row in results_of(self.run)} == {"upsampled"}
        assert Counter(journal_ids(self.run)) == Counter(item["id"] for item in plan_of(self.run)["items"])

    def assert_whole(self, end: Ended) -> None:
        self.assert_answered(end)
        assert self.jobs("all") == [] or not self.jobs("RUNNING,PENDING")

    def close(self) -> None:
        for program in self._programs:
            program.kill()
        self.slurm.run("scancel", "--user=root")
        wait_for(lambda: not self.slurm.run("squeue", "-h"))


@pytest.fixture
def on_slurm(tmp_path: Path, slurm: Slurm, common: tuple[str, ...], small: str, clips: Path) -> Iterator[SlurmRun]:
    run = SlurmRun(tmp_path, slurm, (*common, f"model.tokenizer={quoted(small)}"), clips / "wide.mp4")
    yield run
    run.close()


def test_late_worker_gets_what_is_left(on_slurm: SlurmRun) -> None:
    """Two of three find a place. The third one stays in the queue until the end, and holds up nothing."""
    process = on_slurm.start(60, *SLOW, "host.workers=3", "host.sbatch=[--cpus-per-task=4]")
    wait_for(lambda: on_slurm.ended() > 5)
    assert len(on_slurm.jobs("RUNNING")) == 2 and len(on_slurm.jobs("PENDING")) == 1
    status = on_slurm.task("status")
    assert status.code == 0 and status.out.count(": running, ") == 2, status.out
    assert status.out.count(": queued, 0 open") == 1, status.out
    on_slurm.assert_whole(process.ended())


def test_requeued_and_canceled_workers_go_on(on_slurm: SlurmRun) -> None:
    process = on_slurm.start(100, *SLOW, "host.workers=2")
    wait_for(lambda: on_slurm.ended() > 10 and len(on_slurm.jobs("RUNNING")) == 2)
    one, other = on_slurm.jobs("RUNNING")
    on_slurm.slurm.run("scontrol", "requeue", one)
    on_slurm.slurm.run("scancel", other)
    on_slurm.assert_whole(process.ended())
    assert logged(on_slurm.run, "worker_restarted")


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_controller_is_resumed(on_slurm: SlurmRun, workers: int) -> None:
    process = on_slurm.start(60, *SLOW, f"host.workers={workers}")
    wait_for(lambda: on_slurm.ended() > 5)
    process.kill()
    running = on_slurm.jobs("RUNNING")
    again = on_slurm.program(f"resume={quoted(on_slurm.run)}")
    wait_for(lambda: logged(on_slurm.run, "job_found_running"))
    assert set(on_slurm.jobs("RUNNING")) <= set(running)  # no second worker
    on_slurm.assert_whole(again.ended())


def test_cancel_takes_workers_out_of_the_queue(on_slurm: SlurmRun) -> None:
    wide = ("host.workers=3", "host.sbatch=[--cpus-per-task=4]")
    process = on_slurm.start(60, "engine.in_flight=1", "engine.item_delay_s=2", *wide)
    wait_for(lambda: on_slurm.ended() > 0 and on_slurm.jobs("PENDING"))
    end = on_slurm.task("cancel")
    assert end.code == 0, end.err
    assert process.ended().code == 4
    assert on_slurm.jobs("RUNNING,PENDING") == []


@pytest.mark.parametrize("is_canceled", [False, True])
def test_hints_are_rendered_on_the_cluster(on_slurm: SlurmRun, own_cache: Path, is_canceled: bool) -> None:
    """By two tasks; by the controller once somebody has canceled them."""
    more = ("host.render_tasks=2", *(("host.render_sbatch=[--hold]",) if is_canceled else ()))
    prompts = (f"prompts={quoted(ROOT / 'examples' / 'prompts.json')}", f"cache_dir={quoted(own_cache)}")
    process = on_slurm.program("host=slurm", *on_slurm.overrides, *prompts, *more)
    if is_canceled:
        wait_for(lambda: logged(on_slurm.run, "render_tasks_submitted"))
        on_slurm.slurm.run(
            "scancel", "--state=PENDING", f"--name={logged(on_slurm.run, 'render_tasks_submitted')[0]['name']}"
        )
    on_slurm.assert_whole(process.ended())
    rendered = "".join(file.read_text() for file in on_slurm.run.glob("render-*.log")).splitlines()
    hints = {
        json.dumps(i["hint"] | {"clip": i["video"]["sha256"]}) for i in plan_of(on_slurm.run)["items"] if i["hint"]
    }
    assert len(rendered) == (0 if is_canceled else len(hints))


def test_login_node_is_reached_by_ssh(on_slurm: SlurmRun, slurm: Slurm) -> None:
    if reason := missing():
        pytest.skip(reason)
    environment = f'export SLURM_CONF="{slurm.config}" PATH="{PATH}"'
    sshd = Sshd(on_slurm.folder / "sshd", login=f'{environment}\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')
    (on_slurm.folder / "known_hosts").write_text(sshd.known_hosts_line)
    login = (f"host.address=root@127.0.0.1:{sshd.port}", f"host.key_file={quoted(sshd.key)}")
    try:
        process = on_slurm.start(8, *login, f"host.known_hosts={quoted(on_slurm.folder / 'known_hosts')}")
        on_slurm.assert_whole(process.ended())
    finally:
        sshd.kill()


def test_wrong_option_is_named(on_slurm: SlurmRun) -> None:
    end = on_slurm.start(2, "host.sbatch=[--partition=none]").ended()
    assert end.code == 4 and "Slurm refused the job" in end.err and "invalid partition" in end.err, end.err


def test_array_of_the_manifest_answers(on_slurm: SlurmRun) -> None:
    """Workers that sbatch starts, not the controller. One is told that its time is over, and is queued again by its script."""
    planned = on_slurm.start(60, *SLOW, "task=manifest", "host.workers=2", host="pool").ended()
    assert planned.code == 0 and "sbatch run/slurm.sh" in planned.out, planned.err
    array = on_slurm.slurm.run(
        "sbatch", "--parsable", f"--output={on_slurm.folder}/%a.out", str(on_slurm.run / "slurm.sh")
    )
    process = on_slurm.program(f"resume={quoted(on_slurm.run)}")
    wait_for(lambda: on_slurm.ended() > 5)
    on_slurm.slurm.run("scancel", "--batch", "--signal=TERM", first := f"{array.strip()}_0")
    printed = on_slurm.folder / "0.out"
    wait_for(lambda: first in on_slurm.jobs("PENDING") or printed.read_text().count("waiting for") == 2)
    on_slurm.assert_answered(process.ended())
