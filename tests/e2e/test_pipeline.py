"""task=pipeline: upsampling and inference on this machine and over SSH. A STAND-IN for NVIDIA's script makes the videos."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cosmos import Cosmos
from tests.harness.pages import Page
from tests.harness.pipeline import Pipeline
from tests.harness.processes import has_ended
from tests.harness.program import logged, program, quoted, results_of, wait_for
from tests.harness.remote import Remote


@pytest.fixture
def local(tmp_path: Path, clips: Path, cache_dir: Path, small: str) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path, Cosmos(tmp_path / "cosmos"), clips, cache_dir, small)
    yield pipeline
    pipeline.close()


@pytest.mark.parametrize("engine", ["transfer1", "transfer2_5", "cosmos3"])
def test_engine_blocks_fails_and_resumes_on_two_gpus(
    tmp_path: Path, clips: Path, cache_dir: Path, small: str, engine: str
) -> None:
    """A blocked prompt fails alone, one that cannot be made fails twice, one that no engine has a word for is never sent."""
    local = Pipeline(tmp_path, Cosmos(tmp_path / "cosmos", engine=engine), clips, cache_dir, small)
    local.cosmos.behave(fail=["storm"], block=["pirate"])
    no_home = {"prompt": "a car", "shift": 3.0} if engine != "cosmos3" else {"prompt": "a car", "keypoint": {}}
    prompts = local.prompts("a boat", "a pirate", "another pirate", "a storm", no_home, {"prompt": "a ship", "seed": 5})
    try:
        common = (prompts, "pipeline.upsample=false", "inference.num_gpus=2", "inference.keep_controls=true")
        preview = local.to_its_end(*common, "inference.dry_run=true")
        assert preview.code == 3 and "has no such" in preview.out and "--standalone" in preview.out, preview.out
        assert not list(local.run.glob("*.json"))
        end = local.to_its_end(*common)
        assert end.code == 3, end.err
        assert local.states() == ["done", "failed", "failed", "failed", "skipped", "done"], local.rows()
        _, pirate, other, storm, car, ship = local.rows()
        assert pirate["reason"] == other["reason"] == "blocked by NVIDIA's guardrail"
        assert storm["reason"].startswith("RuntimeError: CUDA out of memory, says the stand-in about: ")
        assert "[patch]" not in storm["reason"] and storm["attempts"] == 2
        assert "Cosmos" in car["reason"]
        assert (local.run / ship["controls"]["edge"]).stat().st_size > 0
        shown = [tag for tag, _ in Page(local.run / "videos.html").tags].count("video")
        assert shown == 2 * 3 + 3 * 1  # clip, control and video of two; the clips of three that failed
        loads = local.calls()
        assert loads <= (2 + 2 + 2 if engine == "transfer1" else 1 + 2 + 1)
        local.cosmos.behave()
        assert local.resumed().code == 3
        assert local.states() == ["done", "done", "done", "done", "skipped", "done"]
    finally:
        local.close()


def test_one_command_upsamples_and_makes_videos(local: Pipeline) -> None:
    end = local.to_its_end(local.prompts("a boat", "a ship", "a boat"), "inference.num_gpus=2", "output.report=true")
    assert end.code == 0, end.err
    local.assert_videos()
    upsampled = [row["upsampled_prompt"] for row in results_of(local.run)]
    assert [row["prompt"] for row in local.rows()] == upsampled and all(upsampled)
    assert {row["prompt_from"] for row in local.rows()} == {"upsampled"}
    assert local.calls() == 1 and local.finished() == 2  # the same item twice is one video, under both names
    assert ("a", {"href": "videos.html"}) in Page(local.run / "report.html").tags
    assert "3 videos, 0 failed, 0 " in end.out


def test_pipeline_without_upsampling_keeps_prompts(local: Pipeline) -> None:
    """Its resume does not upsample either; the next one is estimated and names the options that a resume ignores."""
    prompts = local.prompts("a boat", {"prompt": "a ship", "upsampled_prompt": "a ship at dusk"})
    end = local.to_its_end(prompts, "pipeline.upsample=false")
    assert end.code == 0, end.err
    local.assert_videos()
    assert [(row["prompt"], row["prompt_from"]) for row in local.rows()] == [
        ("a boat", "original"),
        ("a ship at dusk", "spec"),
    ]
    before = local.rows()
    assert local.resumed().code == 0
    assert local.rows() == before and not (local.run / "results.json").exists()
    second = f"hydra.run.dir={quoted(local.folder / 'second')}"
    again = local.to_its_end(local.prompts("a car"), "pipeline.upsample=false", second)
    assert again.code == 0, again.err
    assert "Estimated time" not in again.err and ", took" not in again.out  # it takes seconds
    resumed = local.resumed("inference=depth", "inference.require_upsampled=true")
    assert resumed.code == 0 and "inference=depth inference.require_upsampled=true" in resumed.err


def test_later_call_adds_videos_to_run(local: Pipeline) -> None:
    assert local.to_its_end(local.prompts("a boat"), "pipeline.inference=false").code == 0
    assert not (local.run / "inference.json").exists() and not (local.run / "pipeline.json").exists()
    before = (local.run / "results.json").read_bytes()
    end = local.resumed(*local.cosmos.overrides, "inference=depth", "inference.seed=5")
    assert end.code == 0, end.err
    local.assert_videos()
    assert (local.run / "results.json").read_bytes() == before  # nothing was asked again
    (local.run / "inference.json").unlink()
    status = program("task=status", f"run={quoted(local.run)}").out
    assert re.search(r"resume +python -m src\.run 'resume=", status), status


def test_upscaler_takes_the_videos_of_a_run(local: Pipeline) -> None:
    assert local.to_its_end(local.prompts("a boat", "a ship")).code == 0
    first, local.run = local.run, local.folder / "upscaled"
    end = local.to_its_end(f"prompts={quoted(first / 'videos')}", "pipeline.upsample=false", "inference=upscale")
    assert end.code == 0, end.err
    local.assert_videos()
    made = {row["name"]: row for row in json.loads((first / "inference.json").read_text())}
    assert {row["name"]: row["prompt"] for row in local.rows()} == {name: row["prompt"] for name, row in made.items()}
    [job] = local.run.glob("inference/*/job.json")
    [group] = json.loads(job.read_text())["groups"]
    assert group["upscale"] == {"control_weight": 0.5} and group["num_steps"] == 10


def test_pipeline_upscales_its_videos_and_resumes(local: Pipeline) -> None:
    local.cosmos.behave(fail=["storm"])
    end = local.to_its_end(local.prompts("a boat", "a storm"), "pipeline.upsample=false", "pipeline.upscale=true")
    assert end.code == 3, end.err
    upscaled = local.run / "upscaled"
    assert [row["name"] for row in json.loads((upscaled / "inference.json").read_text())] == ["take 0"]
    local.cosmos.behave()
    assert local.resumed().code == 0
    rows = json.loads((upscaled / "inference.json").read_text())
    assert [(row["name"], row["state"]) for row in rows] == [("take 0", "done"), ("take 1", "done")]
    groups = [json.loads(job.read_text())["groups"] for job in upscaled.glob("inference/*/job.json")]
    assert all(group == [{"upscale": {"control_weight": 0.5}, "num_steps": 10}] for group in groups)
    assert sum(len(json.loads(line)) > 0 for f in upscaled.glob("inference/*/results.jsonl") for line in f.open()) == 2


def test_missing_parts_are_reported_before_start(local: Pipeline) -> None:
    prompts = local.prompts("a boat")
    for missing in ("checkpoint_dir", "repository", "torchrun"):
        end = local.to_its_end(prompts, f"inference.{missing}=/no/such/place")
        assert end.code == 2 and "/no/such/place" in end.err, end.err
    assert local.to_its_end(prompts, "pipeline.upsample=false", "pipeline.inference=false").code == 2
    assert not (local.run / "plan.json").exists()


def test_failing_item_leaves_other_videos_alone(local: Pipeline) -> None:
    local.cosmos.behave(fail=["storm"], block=["pirate"])
    prompts = local.prompts("a boat", "a storm", "a pirate", "a ship", {"prompt": "no clip", "video_path": None})
    end = local.to_its_end(prompts, "pipeline.upsample=false")
    assert end.code == 3, end.err
    assert local.states() == ["done", "failed", "failed", "done", "skipped"]
    storm, pirate, clipless = (local.rows()[n] for n in (1, 2, 4))
    assert "says the stand-in about: a storm" in storm["reason"] and storm["attempts"] == 2
    assert "guardrail" in pirate["reason"]
    assert "no video" in clipless["reason"]
    assert local.calls() == 4  # the storm ended two of them, the pirate one
    local.cosmos.behave()
    assert local.resumed().code == 3  # a resume tries again what failed
    assert local.states() == ["done", "done", "done", "done", "skipped"]
    assert local.finished() == 4 + 2


def test_inference_that_cannot_start_is_7(local: Pipeline) -> None:
    (local.cosmos.checkpoints / "standin.json").unlink()
    end = local.to_its_end(local.prompts("a boat"), "pipeline.upsample=false")
    assert end.code == 7, end.err
    assert "standin.json" in end.err and "Traceback (most recent" not in end.err.split("error:")[0]
    assert local.states() == ["unfinished"]
    local.cosmos.behave()
    assert local.resumed().code == 0
    local.assert_videos()


def test_kept_prompts_are_used_unless_forbidden(local: Pipeline) -> None:
    prompts = local.prompts(
        "a boat", {"prompt": "a broken clip", "video_path": str(local.clips / "text.mp4")}, "a boat " * 1500
    )
    end = local.to_its_end(prompts)
    assert end.code == 3, end.err
    assert [row["state"] for row in results_of(local.run)] == ["upsampled", "kept", "kept"]
    assert [(row["state"], row["prompt_from"]) for row in local.rows()] == [
        ("done", "upsampled"), ("skipped", "original"), ("done", "original"),
    ]  # fmt: skip
    end = local.resumed(*local.cosmos.overrides, "inference.require_upsampled=true", "pipeline.again=true")
    assert end.code == 3, end.err
    assert local.states() == ["done", "skipped", "skipped"]
    assert "its prompt was not upsampled: " in local.rows()[2]["reason"]
    assert local.calls() == 1  # the video of the first is there


def test_killed_controller_makes_no_video_twice(local: Pipeline) -> None:
    local.cosmos.behave(delay_s=0.4)
    process = local.first(local.prompts(*(f"a boat {n}" for n in range(4))), "pipeline.upsample=false")
    wait_for(lambda: local.finished() >= 1)
    local.cosmos.hold.touch()
    process.kill()
    assert not has_ended(local.runner())
    process = local.start(f"resume={quoted(local.run)}")
    wait_for(lambda: logged(local.run, "job_found_running"))
    local.cosmos.hold.unlink()
    end = process.ended()
    assert end.code == 0, end.err
    local.assert_videos()
    assert (local.finished(), local.calls()) == (4, 1)
    (local.run / local.rows()[1]["video"]).write_bytes(b"half")  # and a damaged one is made again
    end = local.resumed()
    assert end.code == 0 and "3 videos are there already" in end.err
    local.assert_videos()
    assert (local.finished(), local.calls()) == (5, 2)


def test_ctrl_c_ends_local_inference(local: Pipeline) -> None:
    local.cosmos.hold.touch()
    process = local.first(local.prompts("a boat", "a ship"), "pipeline.upsample=false")
    wait_for(local.cosmos.processes)
    process.interrupt()
    end = process.ended()
    assert end.code == 130, end.err
    assert "resume=" in end.err
    assert local.cosmos.processes() == []
    local.cosmos.hold.unlink()
    assert local.resumed().code == 0
    local.assert_videos()


# ------------------------------------------------------------------------------------------------------- over SSH


@pytest.fixture
def far(tmp_path: Path, remote: Remote, clips: Path, cache_dir: Path, small: str) -> Iterator[Pipeline]:
    """Pipelines with both stages behind a real sshd."""
    pipeline = Pipeline(tmp_path, Cosmos(tmp_path / "cosmos"), clips, cache_dir, small, remote)
    yield pipeline
    pipeline.close()


def test_both_stages_run_over_ssh(far: Pipeline, remote: Remote) -> None:
    end = far.to_its_end(far.prompts("a boat", "a ship"))
    assert end.code == 0, end.err
    far.assert_videos()
    assert {row["prompt_from"] for row in far.rows()} == {"upsampled"}
    assert remote.jobs() == []
    media = {p.suffix for p in (remote.root / "frames").iterdir()}
    assert media == {".png", ".mp4"}  # kept for a week, so that they do not travel again
    [log] = far.run.glob("inference/*/server.log")
    assert "Saved video to" in log.read_text()


def test_killed_controller_resends_nothing_over_ssh(far: Pipeline, remote: Remote) -> None:
    far.cosmos.behave(delay_s=0.4)
    process = far.first(far.prompts(*(f"a boat {n}" for n in range(4))), "pipeline.upsample=false")
    wait_for(lambda: far.finished() >= 1)
    process.kill()
    remote.sshd.kill()
    remote.sshd.start()
    stored = {p.name: p.stat().st_ino for p in (remote.root / "frames").iterdir()}
    end = far.resumed()
    assert end.code == 0, end.err
    far.assert_videos()
    assert (far.finished(), far.calls()) == (4, 1)
    assert {p.name: p.stat().st_ino for p in (remote.root / "frames").iterdir()} == stored
    assert remote.jobs() == []


def test_inference_over_ssh_detaches_and_resumes(far: Pipeline) -> None:
    far.cosmos.hold.touch()
    process = far.first(far.prompts("a boat", "a ship"), "pipeline.upsample=false")
    wait_for(lambda: far.calls() == 1 and far.cosmos.processes())
    process.interrupt()
    end = process.ended()
    assert end.code == 130, end.err
    assert re.search(r"reattach: +python -m src\.run '?resume=", end.err), end.err
    assert re.search(r"cancel: +python -m src\.run task=cancel '?run=", end.err), end.err
    assert far.cosmos.processes()
    status = program("task=status", f"run={quoted(far.run)}")
    assert "running" in status.out and "0 of 2" in status.out, status.out + status.err
    cancel = program("task=cancel", f"run={quoted(far.run)}")
    assert cancel.code == 0, cancel.err
    wait_for(lambda: not far.cosmos.processes())
    far.cosmos.hold.unlink()
    assert json.loads((far.run / "inference.json").read_text())
    assert far.resumed().code == 0
    far.assert_videos()
