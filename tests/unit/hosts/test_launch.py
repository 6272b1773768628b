"""What starts a worker: which interpreter, with which network and which secret."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import cast

import pytest

from src.hosts.launch import Launch, interpreter
from src.planning.settings import Settings
from tests.harness.fake_host import HOST, LAUNCH
from tests.harness.records import ENGINE, MODEL


class FakeSettings:
    """The settings that a launch depends on."""

    def __init__(self, engine: str, kind: str) -> None:
        self.engine = replace(ENGINE, name=engine, api_key_env="MY_KEY", grace_s=7.0)
        self.model, self.host, self.image, self.python = MODEL, replace(HOST, kind=kind), LAUNCH.image, "/venv/python"


def launch_of(engine: str, kind: str = "ssh") -> Launch:
    return Launch.of(cast(Settings, FakeSettings(engine, kind)), "run")


@pytest.mark.parametrize(
    ("engine", "kind", "python"),
    [
        ("offline", "local", sys.executable),
        ("endpoint", "local", sys.executable),
        ("vllm", "local", "/venv/python"),
        ("cosmos", "local", "/venv/python"),
        ("llamacpp", "local", "/venv/python"),
        ("offline", "ssh", "/venv/python"),
    ],
)
def test_light_engines_use_this_interpreter_here(engine: str, kind: str, python: str) -> None:
    assert launch_of(engine, kind).command("/jobs/a") == (python, "/jobs/a/worker.pyz", "/jobs/a")


def test_llamacpp_runs_here_unless_told_otherwise() -> None:
    assert interpreter("llamacpp", "python3", is_here=True) == sys.executable
    assert (
        interpreter("llamacpp", "python3", is_here=False) == interpreter("vllm", "python3", is_here=True) == "python3"
    )


def test_only_files_of_the_host_are_mounted() -> None:
    settings = FakeSettings("llamacpp", "ssh")
    settings.model = replace(MODEL, gguf="/models/a.gguf", mmproj="package:eyes/b.gguf")
    assert Launch.of(cast(Settings, settings), "run").files == ("/models/a.gguf",)


def test_container_uses_its_own_interpreter() -> None:
    launch = replace(LAUNCH, image=replace(LAUNCH.image, reference="some/image", python="python3"))
    assert launch.command("/jobs/a") == ("python3", "/jobs/a/worker.pyz", "/jobs/a")


@pytest.mark.parametrize(("engine", "needs_network"), [("endpoint", True), ("vllm", False), ("offline", False)])
def test_only_an_endpoint_needs_the_network(engine: str, needs_network: bool) -> None:
    assert launch_of(engine).needs_network is needs_network


def test_settings_are_taken_over() -> None:
    launch = launch_of("vllm")
    assert (launch.checkpoint, launch.grace_s, launch.run_id) == (MODEL.checkpoint, 7.0, "run")
    assert launch.secret_env == "MY_KEY"
