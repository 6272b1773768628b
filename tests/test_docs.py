"""Every command in the README and the guides is run, as it stands, in a fresh copy of the project."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import sshd
from tests.rig.cosmos import Cosmos

ROOT = Path(__file__).resolve().parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?: {4})?(python -m src\.run[^\n]*)$", re.MULTILINE)
NEEDS_MORE = ("engine=vllm", "engine=endpoint", "engine=cosmos")  # an engine that is not here: planned, not run
ASKS = ("task=trust", "task=clean")


def commands() -> list[tuple[str, str]]:
    found = [(guide.name, command) for guide in GUIDES for command in COMMAND.findall(guide.read_text())]
    return list(dict.fromkeys((name, re.sub(r"\s+#.*", "", command).strip()) for name, command in found))


@pytest.fixture(scope="module")
def gpu_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    server = sshd.Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A copy of the project on a path with spaces and letters beyond ASCII, in which one run has been made."""
    copy = tmp_path_factory.mktemp("docs") / "ett försök, kopia"
    for name in ("conf", "src", "launchers", "examples"):
        ignore = shutil.ignore_patterns("__pycache__", "defaults.yaml")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    (copy / "outputs").mkdir()
    if not sshd.missing():  # the machine of the guides
        box = request.getfixturevalue("gpu_box")
        (copy / "conf" / "host" / "gpu_box.yaml").write_text(
            f"name: gpu_box\nkind: ssh\naddress: 127.0.0.1\nport: {box.port}\nuser: root\nkey_file: {box.key}\n"
            f"known_hosts: {box.folder}/known_hosts\nroot: {box.folder}/root\n"
        )
    Cosmos(copy.parent / "cosmos")  # what a pipeline finds in place of NVIDIA's: a stand-in
    subprocess.run([sys.executable, "-m", "src.run"], cwd=copy, check=True, capture_output=True)
    return copy


def test_there_are_commands_to_run() -> None:
    assert len(commands()) >= 15


@pytest.mark.e2e
@pytest.mark.parametrize(("guide", "command"), commands(), ids=lambda value: value.removeprefix("python -m src.run "))
def test_command_of_the_guide_works(guide: str, command: str, checkout: Path) -> None:
    finished = next(p.parent for p in sorted((checkout / "outputs").glob("*/*/results.json")))
    command = command.replace("outputs/DATE/TIME", str(finished.relative_to(checkout)))
    argv = [sys.executable, *shlex.split(command)[1:]]
    if "host=gpu_box" in command and sshd.missing():
        pytest.skip(sshd.missing())
    if "experiment=" in command:  # the points are planned; an engine would prove them
        argv += ["engine=offline", "image=none", "host=local", "quick=true"]
    elif any(word in command for word in NEEDS_MORE) and "task=doctor" not in command:
        argv = [word for word in argv if word != "task=pipeline"] + ["task=plan"]
    elif "inference.repository" in command:
        argv += stand_in(checkout.parent / "cosmos")
    if any(word in command for word in ASKS):
        argv += ["yes=true"]
    ended = subprocess.run(argv, cwd=checkout, capture_output=True, text=True, timeout=120)
    # task=plan says with 3 that something cannot be served, which some of the examples are there to show.
    # A doctor finds no GPU and no checkpoint on the machine of the tests, and says so with 4.
    allowed = (0, 3) if "task=plan" in argv or "task=pipeline" in argv else (0, 4) if "task=doctor" in argv else (0,)
    assert ended.returncode in allowed, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def stand_in(cosmos: Path) -> list[str]:
    """Overrides that put the stand-in in place of NVIDIA's script and checkpoints, after those of the guide."""
    names = {"repository": "cosmos transfer1", "checkpoint_dir": "checkpoints", "torchrun": "torchrun"}
    return [f'inference.{field}="{cosmos / name}"' for field, name in names.items()]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_of_the_guide_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text()):
        if not target.startswith("http"):
            assert (guide.parent / target).exists(), target
