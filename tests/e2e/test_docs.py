"""Every command in the README and the guides is run as it is written, in a fresh copy of the project."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cosmos import SCRIPTS, Cosmos
from tests.harness.program import ROOT, close_fork_server, program, start, wait_for
from tests.harness.smollm2 import gguf_or_skip
from tests.harness.sshd import missing as missing_sshd
from tests.harness.tiny_mmproj import write_mmproj

PAGES = sorted((ROOT / "docs").glob("*.md"))
GUIDES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
COMMAND = re.compile(r"^(?: {4})?(python -m src\.run[^\n]*)$", re.MULTILINE)
NEEDS_MORE = (
    "engine=vllm",
    "engine=endpoint",
    "engine=cosmos",
    "engine=llamacpp",
    "model=smollm2_135m",
)  # an engine that is not here: planned, not run
ASKS = ("task=trust", "task=clean")
SHOWN_FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = [(guide.name, command) for guide in GUIDES for command in COMMAND.findall(guide.read_text())]
    first: dict[str, str] = {}  # a command that several guides show is run once
    for name, command in found:
        first.setdefault(re.sub(r"\s+#.*", "", command).strip(), name)
    return [(name, command) for command, name in first.items()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A copy of the project on a path with spaces and letters beyond ASCII, in which one run has been made."""
    copy = tmp_path_factory.mktemp("docs") / "ett försök, kopia"
    for name in ("conf", "src", "launchers", "examples"):
        ignore = shutil.ignore_patterns("__pycache__", "defaults.yaml")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    (copy / "outputs").mkdir()
    if not missing_sshd():  # the host of the guides
        box, folder = request.getfixturevalue("sshd"), copy.parent / "gpu_box"
        folder.mkdir()
        (folder / "known_hosts").write_text(box.known_hosts_line)
        (copy / "conf" / "host" / "gpu_box.yaml").write_text(
            f"name: gpu_box\nkind: ssh\naddress: 127.0.0.1\nport: {box.port}\nuser: root\nkey_file: {box.key}\n"
            f"known_hosts: {folder}/known_hosts\nroot: {folder}/root\n"
        )
    for engine in SCRIPTS:  # stand-ins for NVIDIA's, for the pipelines
        Cosmos(copy.parent / engine, engine=engine)
    for guide in GUIDES:
        for name, text in SHOWN_FILE.findall(guide.read_text()):
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_text(text)
    subprocess.run([sys.executable, "tour/make.py"], cwd=copy, check=True)
    end = program(cwd=copy, project=copy, fresh=True)
    assert end.code == 0, end.err
    items = json.loads((copy / "examples" / "prompts.json").read_text())
    items = [item | {"video_path": f"examples/{item['video_path']}"} for item in items[:2]]
    for name in ("rgb.json", "depth.json"):  # the two lists of a sweep in the guides
        (copy / name).write_text(json.dumps(items))
    yield copy
    close_fork_server(copy)


def finished_run(checkout: Path) -> Path:
    return next(p.parent for p in sorted((checkout / "outputs").glob("*/*/results.json")))


@pytest.mark.parametrize(("guide", "command"), commands(), ids=lambda value: value.removeprefix("python -m src.run "))
def test_guide_command_works(guide: str, command: str, checkout: Path, request: pytest.FixtureRequest) -> None:
    command = command.replace("outputs/DATE/TIME", str(finished_run(checkout).relative_to(checkout)))
    if "model.gguf=/models" in command:
        models = checkout.parent / "models"
        models.mkdir()
        (models / "qwen.gguf").symlink_to(gguf_or_skip())
        write_mmproj(models / "mmproj.gguf", models / "qwen.gguf")
        command = command.replace("/models", str(models))
    arguments = shlex.split(command)[3:]
    if any(word in command for word in ("gpu_box", "host=farm")) and missing_sshd():
        pytest.skip(missing_sshd())
    if "experiment=" in command:  # the points are planned; an engine would prove them
        arguments += ["engine=offline", "image=none", "host=local", "quick=true"]
    elif "task=stage" in command:
        arguments += ["engine=offline"]
    elif "task=collect" in command:  # the line between the two, without a container
        job = checkout / "outputs" / "parcel"
        launcher = [str(checkout / "launchers" / "run_job.sh"), str(job)]
        subprocess.run(launcher, env=os.environ | {"PYTHON": sys.executable}, check=True)
        wait_for((job / "exit.json").exists)
    elif any(word in command for word in NEEDS_MORE) and "task=doctor" not in command:
        if "smollm2" in command:
            gguf_or_skip()
        arguments = [word for word in arguments if word != "task=pipeline"] + ["task=plan"]
    elif "inference.repository" in command:
        engine = next((word.split("=")[1] for word in arguments if word.startswith("inference/engine=")), "transfer1")
        arguments += stand_in(checkout.parent / engine)
    if any(word in command for word in ASKS):
        arguments += ["yes=true"]
    cluster = request.getfixturevalue("slurm").environment if "launcher=slurm" in command else None
    running = start(*arguments, cwd=checkout, project=checkout, env=cluster)
    if "serve=true" in command:
        wait_for(lambda: "Ctrl-C" in running.out)
        running.interrupt()
    end = running.ended()
    # 3: something cannot be served, which some of the examples are there to show, or was rejected in another guide's
    # review. 4: the doctor finds no GPU and no checkpoint on the machine of the tests.
    allowed = {0}
    if "task=plan" in arguments or "resume=" in command or "task=pipeline" in arguments:
        allowed |= {3}
    if "task=doctor" in arguments:
        allowed |= {4}
    assert end.code in allowed, end.out + end.err
    assert "Traceback" not in end.err


def stand_in(cosmos: Path) -> list[str]:
    """Overrides that put the stand-in in place of NVIDIA's script and checkpoints, after those of the guide."""
    models = "checkpoint_dir" if cosmos.name == "transfer1" else "hf_home"
    names = {"repository": "cosmos transfer1", models: "checkpoints", "torchrun": "torchrun"}
    return [f'inference.{field}="{cosmos / name}"' for field, name in names.items()]


def test_start_page_shows_the_real_plan(checkout: Path) -> None:
    page = (ROOT / "docs" / "start.md").read_text()
    (shown,) = re.findall(r"^```text\n( +\d+  items .*?)^```$", page, re.MULTILINE | re.DOTALL)
    planned = program("task=plan", "prompts=mine/prompts.json", cwd=checkout, project=checkout).out
    assert shown.splitlines() == [line.rstrip() for line in planned.splitlines()][: len(shown.splitlines())]
