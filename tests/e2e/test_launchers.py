"""The launcher of staged jobs: task=stage, run_job.sh by hand, task=collect."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from src.hosts.docker import run_argv
from src.hosts.launch import Launch
from src.planning.resolve import resolve
from tests.conftest import ROOT, Configure
from tests.harness.program import program, quoted, results_of, wait_for, write_prompts


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "launchers" / "run_job.sh"), *arguments], env=os.environ | environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def test_staged_job_runs_and_is_collected(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> None:
    job, run = tmp_path / "a job", tmp_path / "run"
    prompts = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 2)
    staged = program(
        "task=stage", f"job={quoted(job)}", f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", *common
    )
    assert staged.code == 0, staged.err
    [printed] = [line.removeprefix("collect").strip() for line in staged.out.splitlines() if line.startswith("collect")]
    assert launch(str(tmp_path)).returncode == 2  # no job: how it is used
    launched = launch(str(job), PYTHON=sys.executable)
    assert launched.returncode == 0, launched.stderr
    wait_for((job / "exit.json").exists)
    end = program(*shlex.split(printed)[3:])  # as printed: the path of the job has a space
    assert end.code == 0, end.out + end.err
    assert {row["state"] for row in results_of(run)} == {"upsampled"}


def test_docker_launch_equals_own_container(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "a boat"}]')
    plan = resolve(
        configure(
            "engine=vllm", "image=vllm", "image.reference=some/image", "model.checkpoint=/models/pixtral",
            f'prompts="{tmp_path / "prompts.json"}"',
        )
    )  # fmt: skip
    job, root = tmp_path / "root" / "jobs" / "0123456789abcdef", str(tmp_path / "root")
    job.mkdir(parents=True)
    for name in ("job.json", "worker.pyz"):
        (job / name).write_text("{}")
    docker = tmp_path / "bin" / "docker"  # a stand-in that writes down its arguments
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path / "arguments"}"\n')
    docker.chmod(0o755)
    path = f"{docker.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = launch(str(job), "some/image", "/models/pixtral", PATH=path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "arguments").read_text().splitlines()
    own = run_argv(Launch.of(plan.settings, "by-hand"), str(job), root, f"{os.getuid()}:{os.getgid()}")[1:]
    assert found == list(own)
