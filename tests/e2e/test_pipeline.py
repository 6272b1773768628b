"""task=pipeline from end to end: the program in a process of its own, inference on this machine and over a real sshd. What
makes the videos is a STAND-IN for NVIDIA's transfer.py, under a stand-in for torchrun; no model is loaded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from src.worker.journal import read_records
from tests.e2e.test_remote import Rig, ended, has_ended, wait_for
from tests.harness import sshd
from tests.harness.cosmos import Cosmos
from tests.harness.program import Ended, program, quoted

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
QUIET = ("hints.video=false", "output.report=false", "output.specs=none", "console.progress=lines")


@pytest.fixture
def cosmos(tmp_path: Path) -> Iterator[Cosmos]:
    made = Cosmos(tmp_path / "cosmos")
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


class Local:
    """Pipelines on this machine, in one run folder."""

    def __init__(self, folder: Path, cosmos: Cosmos, clips: Path, cache: Path, tokenizer: str) -> None:
        self.folder, self.cosmos, self.clips, self.run = folder, cosmos, clips, folder / "run, the first"
        self.given = (f"cache_dir={quoted(cache)}", f"model.tokenizer={quoted(tokenizer)}", *QUIET)
        self.processes: list[subprocess.Popen[str]] = []

    def prompts(self, *items: dict[str, Any] | str) -> str:
        full = [{"prompt": i} if isinstance(i, str) else i for i in items]
        full = [{"name": f"take {n}", "video_path": str(self.clips / "wide.mp4")} | i for n, i in enumerate(full)]
        file = self.folder / "prompts.json"
        file.write_text(json.dumps([{k: v for k, v in item.items() if v is not None} for item in full]))
        return f"prompts={quoted(file)}"

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "src.run", "task=pipeline", *overrides], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.processes.append(process)
        return process

    def first(self, *overrides: str) -> subprocess.Popen[str]:
        return self.start(f"hydra.run.dir={quoted(self.run)}", *self.given, *self.cosmos.overrides, *overrides)

    def go(self, *overrides: str) -> Ended:
        return ended(self.first(*overrides))

    def back(self, *overrides: str) -> Ended:
        return ended(self.start(f"run={quoted(self.run)}", *overrides))

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.run / "inference.json").read_text())
        return rows

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]

    def calls(self) -> int:
        """How often transfer.py was called."""
        events = [e for file in self.run.glob("inference/*/events.jsonl") for e in read_records(file)]
        return sum(1 for e in events if e["event"] == "phase" and e["phase"] == "loading")

    def made(self) -> int:
        """How many videos the runner has written down."""
        return sum(1 for file in self.run.glob("inference/*/results.jsonl") for _ in read_records(file))

    def runner(self) -> int:
        [lock] = self.run.glob("inference/*/lock")
        return int(lock.read_text())

    def assert_videos(self) -> None:
        """Every item has a video that plays."""
        assert set(self.states()) == {"done"}, self.rows()
        for row in self.rows():
            with av.open(str(self.run / row["video"])) as video:
                assert sum(1 for _ in video.decode(video=0)) == 4


@pytest.fixture
def local(tmp_path: Path, cosmos: Cosmos, clips: Path, cache_dir: Path, small: str) -> Iterator[Local]:
    made = Local(tmp_path, cosmos, clips, cache_dir, small)
    yield made
    cosmos.hold.unlink(missing_ok=True)
    for process in made.processes:
        process.kill()
        process.communicate()


# -------------------------------------------------------------------------------------------------------- on this machine


def test_one_command_upsamples_and_makes_a_video_of_each_item(local: Local) -> None:
    end = local.go(local.prompts("a boat", "a ship", "a boat"), "inference.num_gpus=2")
    assert end.code == 0, end.err
    local.assert_videos()
    upsampled = [row["upsampled_prompt"] for row in json.loads((local.run / "results.json").read_text())]
    assert [row["prompt"] for row in local.rows()] == upsampled and all(upsampled)
    assert {row["prompt_from"] for row in local.rows()} == {"upsampled"}
    assert local.calls() == 1 and local.made() == 2  # the same item twice is one video, under both names
    assert "3 videos, 0 failed, 0 left out" in end.out


def test_same_prompts_without_upsampling_go_as_they_are(local: Local) -> None:
    end = local.go(
        local.prompts("a boat", {"prompt": "a ship", "upsampled_prompt": "a ship at dusk"}), "pipeline.upsample=false"
    )
    assert end.code == 0, end.err
    local.assert_videos()
    assert [(row["prompt"], row["prompt_from"]) for row in local.rows()] == [
        ("a boat", "original"),
        ("a ship at dusk", "spec"),
    ]
    assert not (local.run / "results.json").exists()


def test_without_inference_it_is_the_ordinary_task_and_a_later_call_makes_the_videos(local: Local) -> None:
    assert local.go(local.prompts("a boat"), "pipeline.inference=false").code == 0
    assert not (local.run / "inference.json").exists() and not (local.run / "pipeline.json").exists()
    before = (local.run / "results.json").read_bytes()
    end = local.back(*local.cosmos.overrides, "inference=depth", "inference.seed=5")
    assert end.code == 0, end.err
    local.assert_videos()
    assert (local.run / "results.json").read_bytes() == before  # its prompts were taken over, not asked again


def test_pipeline_begun_without_upsampling_is_not_upsampled_by_a_resume(local: Local) -> None:
    assert local.go(local.prompts("a boat"), "pipeline.upsample=false").code == 0
    before = local.rows()
    end = program(f"resume={quoted(local.run)}")
    assert end.code == 2 and "task=pipeline" in end.err
    assert local.rows() == before and not (local.run / "results.json").exists()


def test_status_of_a_pipeline_whose_videos_are_to_come_names_the_pipeline(local: Local) -> None:
    assert local.go(local.prompts("a boat"), "pipeline.inference=false").code == 0
    (local.run / "pipeline.json").write_text(
        '{"version": 1, "upsample": true, "inference": {}}'
    )  # as when it was killed
    said = program("task=status", f"run={quoted(local.run)}").out
    assert re.search(r"go on +python -m src\.run task=pipeline 'run=", said)


def test_a_second_pipeline_says_how_long_it_may_take_and_what_it_does_not_hear(local: Local) -> None:
    assert local.go(local.prompts("a boat"), "pipeline.upsample=false").code == 0
    again = local.go(
        local.prompts("a ship"), "pipeline.upsample=false", f"hydra.run.dir={quoted(local.folder / 'second')}"
    )
    assert again.code == 0, again.err
    assert re.search(
        r"may take about .* by the last (?:run|\d+ runs) with inference=edge, 1 GPU on local \(.*videos", again.err
    )
    assert re.search(r"estimated .* took .* %\)", again.out)
    back = local.back("inference=depth", "inference.require_upsampled=true")
    assert back.code == 0 and "inference=depth inference.require_upsampled=true" in back.err


@pytest.mark.parametrize("missing", ["checkpoint_dir", "repository", "torchrun"])
def test_what_inference_needs_and_is_not_there_is_said_before_anything_starts(local: Local, missing: str) -> None:
    end = local.go(local.prompts("a boat"), f"inference.{missing}=/no/such/place")
    assert end.code == 2, end.err
    assert "/no/such/place" in end.err and "is not there" in end.err
    assert not (local.run / "plan.json").exists()


def test_leaving_both_stages_out_is_refused(local: Local) -> None:
    assert local.go(local.prompts("a boat"), "pipeline.upsample=false", "pipeline.inference=false").code == 2


def test_failing_item_is_given_up_after_its_attempts_and_the_others_get_their_videos(local: Local) -> None:
    local.cosmos.behave(fail=["storm"], block=["pirate"])
    prompts = local.prompts("a boat", "a storm", "a pirate", "a ship", {"prompt": "no clip", "video_path": None})
    end = local.go(prompts, "pipeline.upsample=false")
    assert end.code == 3, end.err
    assert local.states() == ["done", "failed", "failed", "done", "skipped"]
    storm, pirate, clipless = (local.rows()[n] for n in (1, 2, 4))
    assert "says the stand-in about: a storm" in storm["reason"] and storm["attempts"] == 2
    assert pirate["reason"] == "NVIDIA's guardrail blocked it"
    assert "no video" in clipless["reason"]
    assert local.calls() == 3  # the storm ended two of them
    local.cosmos.behave()
    assert local.back().code == 3  # what failed is tried anew by whoever comes back
    assert local.states() == ["done", "done", "done", "done", "skipped"]
    assert local.made() == 4 + 2


def test_inference_that_cannot_start_is_7_with_its_own_words(local: Local) -> None:
    (local.cosmos.checkpoints / "standin.json").unlink()
    end = local.go(local.prompts("a boat"), "pipeline.upsample=false")
    assert end.code == 7, end.err
    assert "standin.json" in end.err and "Traceback (most recent" not in end.err.split("error:")[0]
    assert local.states() == ["unfinished"]
    local.cosmos.behave()
    assert local.back().code == 0
    local.assert_videos()


def test_kept_prompts_go_as_they_were_unless_upsampled_ones_are_required(local: Local) -> None:
    prompts = local.prompts(
        "a boat", {"prompt": "a broken clip", "video_path": str(local.clips / "text.mp4")}, "a boat " * 1500
    )
    end = local.go(prompts)
    assert end.code == 3, end.err
    states = [row["state"] for row in json.loads((local.run / "results.json").read_text())]
    assert states == ["upsampled", "kept", "kept"]
    assert [(row["state"], row["prompt_from"]) for row in local.rows()] == [
        ("done", "upsampled"), ("skipped", "original"), ("done", "original"),
    ]  # fmt: skip
    end = local.back(*local.cosmos.overrides, "inference.require_upsampled=true", "pipeline.again=true")
    assert end.code == 3, end.err
    assert local.states() == ["done", "skipped", "skipped"]
    assert "its prompt was not upsampled: " in local.rows()[2]["reason"]
    assert local.calls() == 1  # the video of the first is there


# --------------------------------------------------------------------------------------------------------- coming back


def test_controller_that_is_killed_is_taken_up_by_the_next_and_no_video_is_made_twice(local: Local) -> None:
    local.cosmos.behave(delay_s=0.4)
    process = local.first(local.prompts(*(f"a boat {n}" for n in range(4))), "pipeline.upsample=false")
    wait_for(lambda: local.made() >= 1)
    local.cosmos.hold.touch()
    process.kill()
    process.wait()
    assert not has_ended(local.runner())
    process = local.start(f"run={quoted(local.run)}")
    wait_for(lambda: "job_found_running" in (local.run / "log.jsonl").read_text())
    local.cosmos.hold.unlink()
    end = ended(process)
    assert end.code == 0, end.err
    local.assert_videos()
    assert (local.made(), local.calls()) == (4, 1)
    (local.run / local.rows()[1]["video"]).write_bytes(b"half")  # and a damaged one is made again
    end = local.back()
    assert end.code == 0 and "videos=3" in end.err
    local.assert_videos()
    assert (local.made(), local.calls()) == (5, 2)


def test_ctrl_c_ends_a_runner_of_this_machine_and_says_how_to_come_back(local: Local) -> None:
    local.cosmos.hold.touch()
    process = local.first(local.prompts("a boat", "a ship"), "pipeline.upsample=false")
    wait_for(lambda: bool(local.cosmos.processes()))
    process.send_signal(signal.SIGINT)
    end = ended(process)
    assert end.code == 130, end.err
    assert "task=pipeline" in end.err and "run=" in end.err
    assert local.cosmos.processes() == []
    local.cosmos.hold.unlink()
    assert local.back().code == 0
    local.assert_videos()


# ------------------------------------------------------------------------------------------------- on another machine

over_ssh = pytest.mark.skipif(bool(sshd.missing()), reason=sshd.missing())


class Far(Local):
    """Pipelines with the worker and inference behind a real sshd; prompts are answered by a server that is not real."""

    rig: Rig

    def first(self, *overrides: str) -> subprocess.Popen[str]:
        engine = ("engine=endpoint", f"engine.base_url={self.rig.fake.url}", "engine.grace_s=1")
        python = (f"inference.python={quoted(sys.executable)}",)
        return super().first(*engine, *python, *self.rig.host, *overrides)


@pytest.fixture
def far(local: Local, tmp_path: Path, cache_dir: Path, small: str, clips: Path) -> Iterator[Far]:
    made = Far(tmp_path, local.cosmos, clips, cache_dir, small)
    (tmp_path / "rig").mkdir()
    made.rig = Rig(tmp_path / "rig", cache_dir, small, clips)
    yield made
    local.cosmos.hold.unlink(missing_ok=True)
    for process in made.processes:
        process.kill()
        process.communicate()
    made.rig.close()


@pytest.fixture
def expect(far: Far) -> Callable[[str], None]:
    """Tells the server that is not real how many tokens each prompt has, from a plan."""

    def told(prompts: str) -> None:
        run = far.folder / "planned"
        command = [sys.executable, "-m", "src.run", "task=plan", f"hydra.run.dir={quoted(run)}", *far.given, prompts]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        items = json.loads((run / "plan.json").read_text())["items"]
        far.rig.fake.expected = {item["text"]: item["tokens"]["prompt"] for item in items}

    return told


@over_ssh
def test_over_ssh_both_stages_run_there_and_the_videos_come_here(far: Far, expect: Callable[[str], None]) -> None:
    prompts = far.prompts("a boat", "a ship")
    expect(prompts)
    end = far.go(prompts)
    assert end.code == 0, end.err
    far.assert_videos()
    assert {row["prompt_from"] for row in far.rows()} == {"upsampled"}
    assert far.rig.jobs() == []
    media = {p.suffix for p in (far.rig.root / "frames").iterdir()}
    assert media == {".png", ".mp4"}  # kept for a week, so that they do not travel again
    [log] = far.run.glob("inference/*/server.log")
    assert "Saved video to" in log.read_text()


@over_ssh
def test_over_ssh_a_killed_controller_is_taken_up_and_only_what_is_missing_travels(far: Far) -> None:
    far.cosmos.behave(delay_s=0.4)
    process = far.first(far.prompts(*(f"a boat {n}" for n in range(4))), "pipeline.upsample=false")
    wait_for(lambda: far.made() >= 1)
    process.kill()
    process.wait()
    far.rig.sshd.kill()
    far.rig.sshd.start()
    stored = {p.name: p.stat().st_ino for p in (far.rig.root / "frames").iterdir()}
    end = far.back()
    assert end.code == 0, end.err
    far.assert_videos()
    assert (far.made(), far.calls()) == (4, 1)
    assert {p.name: p.stat().st_ino for p in (far.rig.root / "frames").iterdir()} == stored
    assert far.rig.jobs() == []


@over_ssh
def test_over_ssh_ctrl_c_leaves_the_job_which_can_be_looked_at_cancelled_and_taken_up(far: Far) -> None:
    far.cosmos.hold.touch()
    process = far.first(far.prompts("a boat", "a ship"), "pipeline.upsample=false")
    wait_for(lambda: far.calls() == 1 and bool(far.cosmos.processes()))
    process.send_signal(signal.SIGINT)
    end = ended(process)
    assert end.code == 130, end.err
    assert re.search(r"come back:  python -m src.run task=pipeline '?run=", end.err)
    assert far.cosmos.processes()
    command = [sys.executable, "-m", "src.run", f"run={quoted(far.run)}"]
    status = subprocess.run(
        [*command, "task=status"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "running" in status.stdout and "0 of 2" in status.stdout, status.stdout + status.stderr
    cancel = subprocess.run(
        [*command, "task=cancel"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert cancel.returncode == 0, cancel.stderr
    wait_for(lambda: far.cosmos.processes() == [])
    far.cosmos.hold.unlink()
    assert far.back().code == 0
    far.assert_videos()
