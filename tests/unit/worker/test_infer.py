"""The inference runner in a job folder: rounds, failures, what a killed one leaves behind. transfer.py and torchrun are
STAND-INS, which read and refuse what NVIDIA's read and refuse; no model is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.worker import infer, transfer_round
from src.worker.journal import read_records
from tests.harness.cosmos import Cosmos
from tests.harness.processes import has_ended
from tests.harness.program import wait_for

pytestmark = pytest.mark.e2e

REAL = Path(os.environ.get("VLLM_PYTHON", "")).parent / "torchrun"
EDGE: dict[str, Any] = {"edge": {"control_weight": 1.0}}


class Job:
    """A job folder as the program stages it, and the runner in it."""

    def __init__(self, folder: Path, cosmos: Cosmos, clip: Path) -> None:
        self.folder, self.cosmos, self.clip = folder, cosmos, clip
        self.record: dict[str, Any] = {
            "protocol": infer.PROTOCOL,
            "argv": [
                str(cosmos.torchrun), "--nproc_per_node=1", "--nnodes=1", "--node_rank=0",
                "cosmos_transfer1/diffusion/inference/transfer.py", "--checkpoint_dir", str(cosmos.checkpoints),
                "--video_save_folder", "{videos}", "--controlnet_specs", "{spec}", "--num_gpus", "1",
                "--batch_input_path", "{batch}",
            ],
            "cwd": str(cosmos.repository),
            "env": {"PYTHONPATH": str(cosmos.repository), "CHECKPOINT_DIR": str(cosmos.checkpoints)},
            "groups": [EDGE], "max_attempts": 2, "give_up_after": 3, "grace_s": 5.0, "time_limit_s": 0.0,
        }  # fmt: skip
        self.processes: list[subprocess.Popen[bytes]] = []

    def stage(self, *prompts: str, **fields: Any) -> None:
        (self.folder / "batches").mkdir(parents=True)
        (self.folder / "frames").mkdir()
        shutil.copyfile(self.clip, self.folder / "frames" / "clip.mp4")
        base = {"group": 0, "video": "frames/clip.mp4", "controls": {}, "frames": ["frames/clip.mp4"]}
        lines = [{**base, "id": f"{n:016x}", "prompt": prompt, **fields} for n, prompt in enumerate(prompts)]
        (self.folder / "batches" / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def start(self) -> subprocess.Popen[bytes]:
        (self.folder / "job.json").write_text(json.dumps(self.record))
        process = subprocess.Popen([sys.executable, infer.__file__, str(self.folder)], stdout=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def run(self) -> int:
        return self.start().wait(timeout=60)

    @property
    def results(self) -> list[dict[str, Any]]:
        return sorted(read_records(self.folder / "results.jsonl"), key=lambda r: str(r["id"]))

    @property
    def end(self) -> dict[str, Any]:
        end: dict[str, Any] = json.loads((self.folder / "exit.json").read_text())
        return end

    def states(self) -> list[str]:
        return [record["state"] for record in self.results]

    def rounds(self) -> int:
        return len(list((self.folder / "rounds").iterdir()))

    def given(self) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """What the stand-in's model would have been given, by prompt: controls and arguments."""
        found = [json.loads(file.read_text()) for file in self.folder.rglob("given_video_*.json")]
        return {line["prompt"]: (controls, arguments) for line, controls, arguments in found}


@pytest.fixture
def job(tmp_path: Path, clips: Path) -> Iterator[Job]:
    cosmos = Cosmos(tmp_path / "cosmos")
    made = Job(tmp_path / "a job, 'quoted'", cosmos, clips / "wide.mp4")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    for pid in cosmos.processes():
        os.kill(pid, signal.SIGKILL)


def test_each_item_gets_its_video_and_a_line_with_its_hash(job: Job) -> None:
    job.stage("a boat", "väder, 雨")
    assert job.run() == 0
    assert job.states() == ["done", "done"] and job.end["state"] == "done"
    for record in job.results:
        data = (job.folder / record["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record["bytes"], record["sha256"])
    assert "väder, 雨" in job.given()
    assert job.run() == 0 and job.rounds() == 1  # nothing is missing, so nothing is called


def test_controls_and_arguments_of_a_group_and_of_an_item_reach_the_script(job: Job) -> None:
    job.record["groups"] = [{**EDGE, "num_steps": 12}, {"depth": {}, "seed": 9}]
    job.stage("a boat", controls={"edge": {"control_weight": 0.3}})
    line = {
        "id": "f" * 16, "group": 1, "prompt": "a ship", "video": "frames/clip.mp4", "frames": [],
        "controls": {"depth": {"control_weight": 0.4, "input_control": "frames/clip.mp4"}},
    }  # fmt: skip
    (job.folder / "batches" / "00001.jsonl").write_text(json.dumps(line) + "\n")
    assert job.run() == 0
    controls, arguments = job.given()["a boat"]
    assert controls["edge"]["control_weight"] == 0.3
    assert (arguments["num_steps"], arguments["seed"]) == (12, 1)
    controls, arguments = job.given()["a ship"]
    assert controls["depth"]["control_weight"] == 0.4
    assert controls["depth"]["input_control"] == str(job.folder / "frames" / "clip.mp4")
    assert (arguments["num_steps"], arguments["seed"]) == (35, 9)


def test_item_that_ends_a_round_is_given_up_after_its_attempts_and_the_others_are_made(job: Job) -> None:
    job.cosmos.behave(fail=["storm"], block=["pirate"])
    job.stage("a boat", "a pirate", "a storm", "a ship")
    assert job.run() == 0
    assert job.states() == ["done", "failed", "failed", "done"]
    assert job.results[1]["reason"] == "NVIDIA's guardrail blocked it"
    assert "says the stand-in about: a storm" in job.results[2]["reason"]
    assert job.results[2]["attempts"] == 2 and job.rounds() == 3


def test_item_that_fails_once_is_done_at_its_second_attempt(job: Job) -> None:
    job.cosmos.behave(fail=["storm"], once=str(job.cosmos.once))
    job.stage("a storm", "a boat")
    assert job.run() == 0
    assert [record["attempts"] for record in job.results] == [2, 1]


def test_it_gives_up_when_round_after_round_gives_no_video(job: Job) -> None:
    job.cosmos.behave(fail=["a "])
    job.stage(*(f"a boat {n}" for n in range(5)))
    assert job.run() == 7
    assert "3 rounds in a row gave no video" in job.end["reason"] and job.rounds() == 3


def test_arguments_that_the_script_refuses_are_7_with_its_own_words(job: Job) -> None:
    job.record["argv"] += ["--blur_strength", "hard"]
    job.stage("a boat")
    assert job.run() == 7
    assert job.end["state"] == "load_failed" and "hard" in job.end["reason"]


def test_torchrun_that_is_not_there_is_7_and_named(job: Job) -> None:
    job.record["argv"][0] = "/nowhere/torchrun"
    job.stage("a boat")
    assert job.run() == 7
    assert "/nowhere/torchrun" in job.end["reason"]


def test_several_gpus_are_several_processes_and_one_video(job: Job) -> None:
    job.record["argv"] = [{"--nproc_per_node=1": "--nproc_per_node=2", "1": "2"}.get(w, w) for w in job.record["argv"]]
    job.stage("a boat", "a ship")
    assert job.run() == 0
    assert job.states() == ["done", "done"]


@pytest.mark.vllm
@pytest.mark.skipif(not REAL.exists(), reason="VLLM_PYTHON names no interpreter with torchrun beside it")
def test_real_torchrun_takes_our_command_and_leaves_no_process_when_it_is_stopped(job: Job) -> None:
    job.record["argv"] = [{"--nproc_per_node=1": "--nproc_per_node=2", "1": "2"}.get(w, w) for w in job.record["argv"]]
    job.record["argv"][0] = str(REAL)
    job.record["env"] |= {"HOME": str(job.folder)}
    job.stage("a boat", "a ship")
    job.cosmos.hold.touch()
    process = job.start()
    wait_for(lambda: len(job.cosmos.processes()) >= 3)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert job.cosmos.processes() == []
    process = job.start()
    wait_for(lambda: len(job.cosmos.processes()) >= 3)
    process.kill()
    wait_for(lambda: job.cosmos.processes() == [])
    job.cosmos.hold.unlink()
    assert job.run() == 0
    assert job.states() == ["done", "done"]


def test_second_runner_of_a_job_refuses(job: Job) -> None:
    job.cosmos.hold.touch()
    job.stage("a boat")
    first = job.start()
    wait_for(lambda: bool(job.cosmos.processes()))
    assert job.run() == 75
    job.cosmos.hold.unlink()
    assert first.wait(timeout=60) == 0


def test_asked_to_stop_it_keeps_whole_videos_and_leaves_no_process(job: Job) -> None:
    job.cosmos.behave(delay_s=0.4)
    job.stage(*(f"a boat {n}" for n in range(5)))
    process = job.start()
    wait_for(lambda: len(job.results) >= 1)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert job.end["state"] == "cancelled" and job.end["not_started"]
    assert job.cosmos.processes() == []
    job.cosmos.behave()
    assert job.run() == 0
    assert job.states() == ["done"] * 5 and job.rounds() == 2


def test_time_limit_is_124_and_whole_videos_stay(job: Job) -> None:
    job.cosmos.behave(delay_s=0.5)
    job.record["time_limit_s"] = 1.5
    job.stage(*(f"a boat {n}" for n in range(9)))
    assert job.run() == 124
    assert job.end["state"] == "timeout" and "failed" not in job.states()


def test_killed_runner_takes_its_processes_with_it_and_the_next_takes_over_what_is_whole(job: Job) -> None:
    job.cosmos.behave(delay_s=0.3)
    job.stage(*(f"a boat {n}" for n in range(4)))
    process = job.start()
    wait_for(lambda: len(job.results) >= 1)
    processes = job.cosmos.processes()
    process.kill()
    process.wait()
    wait_for(lambda: all(map(has_ended, processes)))
    job.cosmos.behave()
    assert job.run() == 0
    assert job.states() == ["done"] * 4 and job.rounds() == 2


def test_process_that_outlives_torchrun_and_runner_is_ended_by_the_next(job: Job) -> None:
    job.stage("a boat")
    stray = subprocess.Popen(["sleep", "60"], env={**os.environ, transfer_round.MARK: str(job.folder)})
    job.processes.append(stray)  # type: ignore[arg-type]
    assert job.run() == 0
    assert stray.wait(timeout=10) == -signal.SIGKILL


def test_video_that_was_whole_when_the_runner_died_is_not_made_again(job: Job) -> None:
    job.stage("a boat", "a ship")
    assert job.run() == 0
    first, second = job.results
    folder = job.folder / "rounds" / "000" / "videos" / "video_1"
    shutil.move(job.folder / second["file"], folder / "output.mp4")
    (job.folder / "results.jsonl").write_text(json.dumps(first) + "\n")
    assert job.run() == 0
    assert job.results[1]["sha256"] == second["sha256"] and job.rounds() == 1
