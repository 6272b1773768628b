"""Runs in containers: what a container may do, what is missing, several at once, stale containers, inference."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from src.planning.plan_file import read_plan
from tests.harness.cosmos import Cosmos
from tests.harness.docked import Docked
from tests.harness.program import quoted, results_of, wait_for
from tests.harness.remote import RemoteRun, take
from tests.harness.tiny_server import LIGHT


def test_container_may_write_only_job_and_cache(docked: Docked) -> None:
    run = RemoteRun(docked, 6, 'image.user="0:54321"')
    process, name = docked.container_after(run)
    found = docked.daemon.inspect(name)
    plan = read_plan(run.folder / "plan.json")
    [job] = (run.folder / "job").iterdir()
    host, config = found["HostConfig"], found["Config"]
    assert host["NetworkMode"] == "host"  # the engine is a server elsewhere
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"]
    assert config["User"] == "0:54321"
    assert config["Labels"] == {
        "prompt-upsampler.job": job.name,
        "prompt-upsampler.run": plan.run_id,
        "prompt-upsampler.root": str(docked.root),
    }
    assert {m["Source"]: m["RW"] for m in found["Mounts"]} == {
        str(job): True, str(job / "frames"): False, str(docked.root / "cache"): True,
    }  # fmt: skip
    status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    docked.server.allow()
    run.assert_whole(process.ended())
    assert docked.daemon.names() == []
    files = [p for p in run.folder.rglob("*") if p.is_file()]
    assert any(p.name == "results.jsonl" for p in files)
    assert {p.stat().st_uid for p in files} == {os.getuid()}


def test_worker_runs_as_unnamed_user(docked: Docked) -> None:
    run = RemoteRun(docked, 2, 'image.user="54321:54321"')
    job = run.folder / "job" / docked.planned_job(run)
    for folder in (job, docked.root / "cache" / "home"):
        folder.mkdir(parents=True)
        os.chown(folder, 54321, 54321)
    run.assert_whole(run.resumed())
    assert (job / "results.jsonl").stat().st_uid == 54321


def test_offline_engine_runs_behind_ssh(far: Docked) -> None:
    far.root = far.folder / "root of 'mine', \"quoted\""
    run = RemoteRun(far, 4, "engine.item_delay_s=0.5", "engine.in_flight=1", offline=True)
    process = run.start()
    [name] = wait_for(far.daemon.names)
    found = far.daemon.inspect(name)
    assert {m["Source"] for m in found["Mounts"]} > {str(far.root / "cache")}
    assert found["HostConfig"]["NetworkMode"] == "none"
    run.assert_whole(process.ended())
    assert far.frames()
    assert list((far.root / "jobs").iterdir()) == []
    assert far.daemon.names() == []


def test_missing_parts_are_reported_before_staging(docked: Docked) -> None:
    started = time.monotonic()
    cases = {
        "image.reference=no-such-image:v1": ("no-such-image:v1", "image.pull"),
        'host.docker=[docker,-H,"unix:///nowhere/docker.sock"]': ("Docker", "/nowhere/docker.sock"),
        "host.docker=[no-such-docker]": ("no-such-docker",),
    }
    for override, words in cases.items():
        run = RemoteRun(docked, 2, override)
        end = run.to_its_end()
        assert end.code == 4 and all(word in end.err for word in words), end.err
        assert not list(run.folder.glob("job/*/batches/*"))
    end = RemoteRun(docked, 2, "image.mounts=[/no/such/folder]").to_its_end()
    assert end.code == 4 and "/no/such/folder" in end.err and "image.mounts" in end.err, end.err
    assert docked.server.asked == []
    assert docked.daemon.names() == []
    assert time.monotonic() - started < 30


# ------------------------------------------------------------------------------------------- the real vLLM, inference


@pytest.mark.vllm
def test_vllm_runs_without_network_behind_ssh(far: Docked, installed_vllm: str) -> None:
    folders = {Path(installed_vllm).parent.parent, Path(os.path.realpath(installed_vllm)).parent.parent}
    mounts = folders | {Path(LIGHT["PYTHONPATH"])}
    run = RemoteRun(
        far, 14, "engine=vllm", "model=tiny_random", "image.shm_size=2g", f"image.python={quoted(installed_vllm)}",
        f"image.mounts=[{','.join(quoted(folder) for folder in mounts)}]", "budget.max_output_tokens=32",
        f"image.env=[{','.join(quoted(f'{name}={value}') for name, value in LIGHT.items())}]",
        "model.tokenizer=tekken_240911.json",
    )  # fmt: skip
    process = run.start()
    [name] = wait_for(far.daemon.names)
    assert far.daemon.inspect(name)["HostConfig"]["NetworkMode"] == "none"
    run.assert_whole(process.ended(timeout_s=600))
    tokens = [row["tokens"] for row in results_of(run.folder)]
    assert len(tokens) == 14
    assert [t["predicted"] for t in tokens] == [t["measured"] for t in tokens]
    assert far.daemon.names() == []


def test_inference_runs_in_container_behind_ssh(far: Docked, tmp_path: Path) -> None:
    """NVIDIA's script and torchrun are stand-ins; container, runner and link are real."""
    cosmos = Cosmos(tmp_path / "cosmos", python="python3")
    prompts, run = tmp_path / "prompts.json", tmp_path / "run"
    prompts.write_text(json.dumps([take(n, far.clips) for n in range(3)]))
    fields = (
        f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", "pipeline.upsample=false", *far.common, *far.host,
        *cosmos.overrides, f"image.mounts=[{quoted(cosmos.folder)}]",
    )  # fmt: skip
    cosmos.hold.touch()
    process = far.start("task=pipeline", *fields)
    [name] = wait_for(lambda: [name for name in far.daemon.names() if far.daemon.running(name)])
    found = far.daemon.inspect(name)
    assert found["HostConfig"]["NetworkMode"] == "none" and found["HostConfig"]["ReadonlyRootfs"]
    process.kill()
    cosmos.hold.unlink()
    end = far.program(f"resume={quoted(run)}")
    assert end.code == 0, end.err
    rows = json.loads((run / "inference.json").read_text())
    assert [row["state"] for row in rows] == ["done"] * 3
    assert all((run / row["video"]).stat().st_size for row in rows)
    assert far.daemon.names() == [] and far.jobs() == []
