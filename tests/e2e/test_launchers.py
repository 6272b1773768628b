"""The launcher by hand starts the worker of a job folder as the program itself does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.hosts.docker import run_argv
from src.planning.resolve import resolve
from src.planning.settings import Settings
from src.worker.protocol import PROTOCOL
from tests.conftest import Configure

LAUNCHER = Path(__file__).resolve().parents[2] / "launchers" / "run_job.sh"


def launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LAUNCHER), *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def settings(configure: Configure, tmp_path: Path) -> Settings:
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "a boat"}]')
    return resolve(
        configure(
            "engine=vllm", "image=vllm", "image.reference=some/image", "model.checkpoint=/models/pixtral",
            f'prompts="{tmp_path / "prompts.json"}"',
        )
    ).settings  # fmt: skip


@pytest.fixture
def job(tmp_path: Path) -> Path:
    folder = tmp_path / "root" / "jobs" / "0123456789abcdef"
    (folder / "batches").mkdir(parents=True)
    (folder / "frames").mkdir()
    engine = {
        "name": "endpoint", "base_url": "http://127.0.0.1:9/v1", "in_flight": 1, "api_key_file": "", "api_key_env": "",
        "request_timeout_s": 5.0, "max_attempts": 1, "grace_s": 1.0,
    }  # fmt: skip
    record = {
        "protocol": PROTOCOL,
        "engine": engine,
        "model": {"name": "x"},
        "temperature": 0.6,
        "linger_s": 0.0,
    }
    (folder / "job.json").write_text(json.dumps(record))
    return folder


def test_as_a_process_the_worker_runs_and_says_how_it_ended(job: Path) -> None:
    done = launch(str(job), PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 30
    while not (job / "exit.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    end = json.loads((job / "exit.json").read_text())
    assert end["state"] == "load_failed" and "cannot be reached" in end["reason"]  # nobody listens there


def test_in_docker_it_asks_for_what_the_program_asks_for(job: Path, tmp_path: Path, settings: Settings) -> None:
    docker = tmp_path / "bin" / "docker"  # a stand-in that writes down what it was asked
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path / "asked"}"\n')
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    done = launch(str(job), "some/image", "/models/pixtral", PATH=path, PYTHON="python3")
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().split("\n")
    root = str(tmp_path / "root")
    user = f"{os.getuid()}:{os.getgid()}"
    ours = run_argv(settings, "run", str(job), root, user)
    for option in (
        "--user",
        "--cap-drop",
        "--security-opt",
        "--tmpfs",
        "--shm-size",
        "--network",
        "--gpus",
        "--pids-limit",
    ):
        assert asked[asked.index(option) + 1] == ours[ours.index(option) + 1], option
    assert {"--detach", "--init", "--read-only"} <= set(asked)
    for option in ("--mount", "--env"):
        assert values(asked, option) == values(list(ours), option)
    assert [word for word in asked if word][-4:] == list(ours)[-4:]


def values(argv: list[str], option: str) -> list[str]:
    return sorted(argv[n + 1] for n, word in enumerate(argv[:-1]) if word == option)


def test_without_a_job_it_says_how_it_is_used(tmp_path: Path) -> None:
    done = launch(str(tmp_path))
    assert done.returncode == 2
    assert "run_job.sh JOB" in done.stderr
