"""A job that makes videos: rounds of transfer.py, failures, what a killed worker leaves.

`FAKE_TRANSFER` is a shell script that writes the same files in the same order; two tests use the stand-ins of
tests/harness, which parse what NVIDIA's script parses, and one a real torchrun.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.worker import transfer_round
from src.worker.__main__ import main
from src.worker.journal import write_json
from src.worker.protocol import InferItem, InferJob
from tests.harness.cosmos import Cosmos
from tests.harness.fake_engine import exit_record, wait_until
from tests.harness.processes import wait_for_build
from tests.harness.records import journal_lines, write_lines

EDGE: dict[str, Any] = {"edge": {"control_weight": 1.0}}
# A prompt "storm" ends it while the file `fail` exists, "pirate" is blocked, "late" waits while the file `hold` exists.
FAKE_TRANSFER = """
videos=$1 spec=$2 batch=$3 n=0
cd "$4" && [ -e "$spec" ] || exit 9
while IFS= read -r line; do
  mkdir -p "$videos/video_$n"
  case $line in
    *late*) while [ -e hold ]; do sleep 0.01; done ;;
    *storm*) [ ! -e fail ] || { [ ! -e once ] || rm fail; echo "RuntimeError: out of memory: $line"; exit 1; } ;;
    *pirate*) echo "Guardrail blocked generation for entire batch."; n=$((n + 1)); continue ;;
  esac
  printf %s "$line" > "$videos/video_$n/output.mp4"
  : > "$videos/video_$n/prompt.txt"
  n=$((n + 1))
done < "$batch"
"""


class Job:
    """A staged job folder. controls: the folder of the files that control `FAKE_TRANSFER`."""

    def __init__(self, folder: Path, controls: Path) -> None:
        self.folder, self.controls = folder, controls
        controls.mkdir()
        argv = ("sh", "-c", FAKE_TRANSFER, "sh", "{videos}", "{spec}", "{batch}", str(controls))
        self.record = InferJob(1, argv, str(controls), {}, (EDGE,), 2, 3, 5.0, 0.0)
        self.pids: list[int] = []

    def stage(self, *prompts: str) -> None:
        (self.folder / "frames").mkdir(parents=True)
        (self.folder / "frames" / "clip.mp4").write_bytes(b"a clip")
        items = [InferItem(f"{n:016x}", 0, prompt, "frames/clip.mp4", {}) for n, prompt in enumerate(prompts)]
        write_lines(self.folder / "batches" / "00000.jsonl", items)

    def run(self) -> int:
        write_json(self.folder / "job.json", self.record)
        return main(["worker.pyz", str(self.folder)])

    def start(self) -> int:
        """Run it in a forked process; its process id."""
        pid = os.fork()
        if pid == 0:
            os._exit(self.run())
        self.pids.append(pid)
        return pid

    def wait(self, pid: int) -> int:
        self.pids.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @property
    def results(self) -> list[dict[str, Any]]:
        return sorted(journal_lines(self.folder / "results.jsonl"), key=lambda r: str(r["id"]))

    def states(self) -> list[str]:
        return [record["state"] for record in self.results]

    def rounds(self) -> int:
        return len(list((self.folder / "rounds").iterdir()))

    def processes(self) -> list[int]:
        """Every live process of the job's rounds."""
        mark = f"{transfer_round.MARK}={self.folder}".encode()
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if mark in environment_of(pid)]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setattr(transfer_round, "POLL_S", 0.003)
    made = Job(tmp_path / "a job, 'quoted'", tmp_path / "controls")
    yield made
    for pid in [*made.pids, *made.processes()]:
        os.kill(pid, signal.SIGKILL)
    for pid in made.pids:
        os.waitpid(pid, 0)


# ------------------------------------------------------------------------------------------------------------ rounds


def test_each_video_is_recorded_with_its_hash(job: Job) -> None:
    job.stage("a boat", "väder, 雨")
    assert job.run() == 0
    assert job.states() == ["done", "done"]
    for record in job.results:
        data = (job.folder / record["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (record["bytes"], record["sha256"])


def test_finished_job_starts_no_round(job: Job) -> None:
    job.stage("a boat")
    assert (job.run(), job.run()) == (0, 0)
    assert job.rounds() == 1
    assert exit_record(job.folder)["state"] == "done"


def test_failing_item_does_not_stop_the_others(job: Job) -> None:
    (job.controls / "fail").touch()
    job.stage("a boat", "a pirate", "a storm", "a ship")
    assert job.run() == 0
    assert job.states() == ["done", "failed", "failed", "done"]
    assert job.results[1]["reason"] == "blocked by NVIDIA's guardrail"
    assert "out of memory" in job.results[2]["reason"] and "a storm" in job.results[2]["reason"]
    assert job.results[2]["attempts"] == 2 and job.rounds() == 3


def test_item_may_succeed_at_its_second_attempt(job: Job) -> None:
    for name in ("fail", "once"):
        (job.controls / name).touch()
    job.stage("a storm", "a boat")
    assert job.run() == 0
    assert [record["attempts"] for record in job.results] == [2, 1]


def test_rounds_without_a_video_end_the_job(job: Job) -> None:
    (job.controls / "fail").touch()
    job.stage(*(f"a storm {n}" for n in range(5)))
    assert job.run() == 7
    assert "6 rounds in a row gave no video" in exit_record(job.folder)["reason"] and job.rounds() == 6


def test_bad_items_at_the_head_hold_up_nothing(job: Job) -> None:
    (job.controls / "fail").touch()
    job.stage("a storm 1", "a storm 2", "a boat", "a ship")
    assert job.run() == 0
    assert job.states() == ["failed", "failed", "done", "done"]


def test_group_that_cannot_be_loaded_fails_alone(job: Job) -> None:
    """A value in its spec that the program refuses; the next group shows that the machine can."""
    refusing = FAKE_TRANSFER.replace(
        "cd ", 'grep -q \'"seed": -1\' "$spec" && { echo "ValueError: seed"; exit 1; }\ncd ', 1
    )
    argv = ("sh", "-c", refusing, *job.record.argv[3:])
    job.record = replace(job.record, argv=argv, groups=({"seed": -1, **EDGE}, {"seed": 1, **EDGE}))
    job.stage("a storm", "a boat")
    file = job.folder / "batches" / "00000.jsonl"
    file.write_text(file.read_text().replace('"group":0', '"group":1').replace('"group":1', '"group":0', 1))
    assert job.run() == 0
    assert job.states() == ["failed", "done"] and "ValueError: seed" in job.results[0]["reason"]


def test_untried_items_of_a_hopeless_group_stay_open(job: Job) -> None:
    """Also where the next group could be made: the worker has not asked them."""
    (job.controls / "fail").touch()
    job.record = replace(job.record, groups=(EDGE, EDGE))
    job.stage(*(f"a storm {n}" for n in range(3)), "a boat", "a ship")
    file = job.folder / "batches" / "00000.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], lines[-1].replace('"group":0', '"group":1')]) + "\n")
    assert job.run() == 7 and job.states() == ["failed"] * 3
    assert len(exit_record(job.folder)["reason"]) > 0


def test_last_group_that_cannot_be_loaded_fails_at_the_second_start(job: Job) -> None:
    """At the first, it may be the machine."""
    refusing = FAKE_TRANSFER.replace(
        "cd ", 'grep -q \'"seed": -1\' "$spec" && { echo "ValueError: seed"; exit 1; }\ncd ', 1
    )
    argv = ("sh", "-c", refusing, *job.record.argv[3:])
    job.record = replace(job.record, argv=argv, groups=({"seed": 1, **EDGE}, {"seed": -1, **EDGE}))
    job.stage("a boat", "a ship")
    file = job.folder / "batches" / "00000.jsonl"
    one, two = file.read_text().splitlines(keepends=True)
    file.write_text(one + two.replace('"group":0', '"group":1'))
    assert job.run() == 7 and job.states() == ["done"]
    assert job.run() == 0 and job.states() == ["done", "failed"]


def test_group_that_was_loaded_before_stays_open(job: Job) -> None:
    """Its program made a video, was ended by the next item, and cannot start again: it is the machine."""
    broken = f"[ ! -e broken ] || {{ echo no driver; exit 1; }}\n{FAKE_TRANSFER}".replace(
        "exit 1; } ;;", "touch broken; exit 1; } ;;"
    )
    argv = ("sh", "-c", broken, *job.record.argv[3:])
    job.record = replace(job.record, argv=argv, cwd=str(job.controls))
    (job.controls / "fail").touch()
    job.stage("a boat", "a storm", "a ship")
    assert job.run() == 7 and job.states() == ["done"]


def test_broken_machine_fails_nothing_at_any_start(job: Job) -> None:
    """Some groups were made; then nothing can be loaded any more, also after a resume."""
    broken = f"[ ! -e broken ] || {{ echo no driver; exit 1; }}\n{FAKE_TRANSFER}"
    argv = ("sh", "-c", f"cd {job.controls.as_posix()!r}\n{broken}", *job.record.argv[3:])
    job.record = replace(job.record, argv=argv, groups=tuple({"seed": n, **EDGE} for n in range(8)))
    job.stage(*(f"a boat {n}" for n in range(8)))
    file = job.folder / "batches" / "00000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line.replace('"group":0', f'"group":{n}') for n, line in enumerate(lines)))
    (job.controls / "hold").touch()
    job.record = replace(
        job.record, argv=(*argv[:2], argv[2].replace("done <", "[ $n -lt 1 ] || touch broken\ndone <"), *argv[3:])
    )
    assert [job.run(), job.run()] == [7, 7] and job.states() == ["done"]
    (job.controls / "broken").unlink()


def test_only_group_that_cannot_be_loaded_stays_open(job: Job) -> None:
    argv = ("sh", "-c", "echo 'no driver'; exit 1")
    job.record = replace(job.record, argv=argv, groups=(EDGE, EDGE, EDGE))
    job.stage("a boat")
    assert job.run() == 7 and job.states() == []


def test_script_that_fails_at_once_is_quoted(job: Job) -> None:
    job.record = replace(job.record, argv=("sh", "-c", "echo 'error: invalid choice: hard'; exit 2"))
    job.stage("a boat")
    assert job.run() == 7
    assert exit_record(job.folder)["state"] == "load_failed"
    assert exit_record(job.folder)["reason"].startswith(
        "error: invalid choice: hard (the program ended with 2 before the first"
    )


def test_missing_program_is_named(job: Job) -> None:
    job.record = replace(job.record, argv=("/nowhere/torchrun",))
    job.stage("a boat")
    assert job.run() == 7
    assert "/nowhere/torchrun" in exit_record(job.folder)["reason"]


# ------------------------------------------------------------------------------------------------- stopped and killed


def test_second_worker_of_a_job_refuses(job: Job) -> None:
    (job.controls / "hold").touch()
    job.stage("a late boat")
    first = job.start()
    wait_until(job.processes)
    assert job.run() == 75
    (job.controls / "hold").unlink()
    assert job.wait(first) == 0


def test_sigterm_keeps_whole_videos(job: Job) -> None:
    (job.controls / "hold").touch()
    job.stage("a boat", *(f"a late boat {n}" for n in range(4)))
    worker = job.start()
    wait_until(lambda: job.results)
    os.kill(worker, signal.SIGTERM)
    assert job.wait(worker) == 143
    assert exit_record(job.folder)["state"] == "cancelled" and exit_record(job.folder)["not_started"]
    assert job.processes() == []
    (job.controls / "hold").unlink()
    assert job.run() == 0
    assert job.states() == ["done"] * 5 and job.rounds() == 2


def test_time_limit_keeps_whole_videos(job: Job) -> None:
    (job.controls / "hold").touch()
    job.record = replace(job.record, time_limit_s=0.5)
    job.stage("a boat", "a late boat")
    assert job.run() == 124
    assert exit_record(job.folder)["state"] == "timeout" and job.states() == ["done"]


def test_killed_worker_leaves_no_process(job: Job) -> None:
    (job.controls / "hold").touch()
    job.stage("a boat", *(f"a late boat {n}" for n in range(3)))
    worker = job.start()
    wait_until(lambda: job.results)
    os.kill(worker, signal.SIGKILL)
    job.wait(worker)
    wait_until(lambda: not job.processes())
    (job.controls / "hold").unlink()
    assert job.run() == 0
    assert job.states() == ["done"] * 4 and job.rounds() == 2


def test_stray_process_is_ended_by_the_next(job: Job) -> None:
    job.stage("a boat")
    stray = subprocess.Popen(["sleep", "60"], env={**os.environ, transfer_round.MARK: str(job.folder)})
    assert job.run() == 0
    assert stray.wait(timeout=10) == -signal.SIGKILL


def test_whole_video_is_not_made_again(job: Job) -> None:
    job.stage("a boat", "a ship")
    assert job.run() == 0
    first, second = job.results
    folder = job.folder / "rounds" / "000" / "videos" / "video_1"
    shutil.move(job.folder / second["file"], folder / "output.mp4")  # as if killed before it was recorded
    (job.folder / "results.jsonl").write_text(json.dumps(first) + "\n")
    assert job.run() == 0
    assert job.results[1]["sha256"] == second["sha256"] and job.rounds() == 1


# --------------------------------------------------------------------------------------------- with the stand-ins


def use_stand_ins(job: Job, cosmos: Cosmos, gpus: int = 1, torchrun: Path | None = None) -> None:
    job.record = replace(
        job.record,
        argv=(
            str(torchrun or cosmos.torchrun), "--standalone", f"--nproc_per_node={gpus}",
            "cosmos_transfer1/diffusion/inference/transfer.py", "--checkpoint_dir", str(cosmos.checkpoints),
            "--video_save_folder", "{videos}", "--controlnet_specs", "{spec}", "--num_gpus", str(gpus),
            "--batch_input_path", "{batch}",
        ),
        cwd=str(cosmos.repository),
        env={"PYTHONPATH": str(cosmos.repository), "CHECKPOINT_DIR": str(cosmos.checkpoints)},
    )  # fmt: skip


def test_controls_and_arguments_reach_the_script(job: Job, tmp_path: Path, clips: Path) -> None:
    use_stand_ins(job, Cosmos(tmp_path / "cosmos"), gpus=2)
    job.record = replace(job.record, groups=({**EDGE, "num_steps": 12}, {"depth": {}, "seed": 9}))
    job.stage()
    shutil.copyfile(clips / "wide.mp4", job.folder / "frames" / "clip.mp4")
    depth = {"depth": {"control_weight": 0.4, "input_control": "frames/clip.mp4"}}
    items = [
        InferItem("a" * 16, 0, "a boat", "frames/clip.mp4", {"edge": {"control_weight": 0.3}}),
        InferItem("f" * 16, 1, "a ship", "frames/clip.mp4", depth),
    ]
    write_lines(job.folder / "batches" / "00001.jsonl", items)
    assert job.run() == 0
    found = [json.loads(file.read_text()) for file in job.folder.rglob("given_video_*.json")]
    given = {line["prompt"]: (controls, arguments) for line, controls, arguments in found}
    controls, arguments = given["a boat"]
    assert controls["edge"]["control_weight"] == 0.3
    assert (arguments["num_steps"], arguments["seed"]) == (12, 1)
    controls, arguments = given["a ship"]
    assert controls["depth"]["control_weight"] == 0.4
    assert controls["depth"]["input_control"] == str(job.folder / "frames" / "clip.mp4")
    assert (arguments["num_steps"], arguments["seed"]) == (35, 9)


@pytest.fixture
def torchrun() -> Path:
    """The one of the interpreter with vLLM, which may still be on its way."""
    wait_for_build("VLLM_BUILD_PID")
    if not (found := Path(os.environ.get("VLLM_PYTHON", "")).parent / "torchrun").exists():
        pytest.skip("VLLM_PYTHON names no interpreter with torchrun beside it")
    return found


@pytest.mark.e2e
@pytest.mark.vllm
def test_real_torchrun_leaves_no_process(job: Job, tmp_path: Path, clips: Path, torchrun: Path) -> None:
    cosmos = Cosmos(tmp_path / "cosmos")
    use_stand_ins(job, cosmos, gpus=2, torchrun=torchrun)
    job.record = replace(job.record, env={**job.record.env, "HOME": str(tmp_path)})
    job.stage("a boat", "a ship")
    shutil.copyfile(clips / "wide.mp4", job.folder / "frames" / "clip.mp4")
    cosmos.hold.touch()
    at_work: Callable[[], bool] = lambda: len(cosmos.processes()) >= 3  # noqa: E731
    worker = job.start()
    wait_until(at_work, 60)
    os.kill(worker, signal.SIGTERM)
    assert job.wait(worker) == 143
    assert cosmos.processes() == []
    worker = job.start()
    wait_until(at_work, 60)
    os.kill(worker, signal.SIGKILL)
    job.wait(worker)
    wait_until(lambda: not cosmos.processes(), 60)
    cosmos.hold.unlink()
    assert job.run() == 0
    assert job.states() == ["done", "done"]
