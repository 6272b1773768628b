"""Completion in a real bash: candidates for `python -m src.run` and `upsample`, and the Tab key on a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")
ASK = 'COMP_LINE=$1; COMP_POINT=${#1}; _prompt_upsampler; printf "%s\\n" "${COMPREPLY[@]}"'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a run needs, on a path with a space, beside a folder with the commands that people type."""
    copy = tmp_path / "a checkout"
    for name in ("conf", "src", "launchers"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "defaults.yaml"))
    script = tmp_path / "bin" / "upsample"  # as pip writes it for [project.scripts]
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'from src.run import main; main()' \"$@\"\n")
    script.chmod(0o755)
    for name in ("python", "python3"):
        (script.parent / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
        (script.parent / name).chmod(0o755)
    return copy


def environment(checkout: Path) -> dict[str, str]:
    commands = checkout.parent / "bin"
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(checkout), "TERM": "dumb"}


def candidates(line: str, checkout: Path) -> set[str]:
    """What the completion function offers for a line, typed up to its end."""
    done = subprocess.run(
        ["bash", "--norc", "-c", f"source launchers/completion.bash; {ASK}", "bash", line],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


RECIPES = {path.stem for path in (ROOT / "conf" / "upsample").glob("*.yaml")}


@pytest.mark.parametrize(
    "program", ["python -m src.run", "python3  -m src.run", sys.executable + " -m src.run", "upsample"]
)
def test_options_of_a_group_are_offered(program: str, checkout: Path) -> None:
    assert candidates(f"{program} upsample=", checkout) == RECIPES


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bud", {"budget=", "budget."}),
        ("budget.max_o", {"budget.max_output_tokens="}),
        ("upsample=b", {"best_fit"}),
        ("task=plan frames=e", {"ends_2", "ends_4"}),
        ("--multirun upsample=safe_320,best_fit budget=4", {"4k"}),
        ("nosuch", set()),
        ("upsample=nosuch", set()),
    ],
)
def test_what_is_typed_is_completed(typed: str, offered: set[str], checkout: Path) -> None:
    assert candidates(f"python -m src.run {typed}", checkout) == offered


@pytest.mark.parametrize("line", ["python other.py upsample=", "python -m pytest up", "python -m src.runner up"])
def test_other_commands_of_python_are_left_alone(line: str, checkout: Path) -> None:
    assert candidates(line, checkout) == set()


def test_asking_for_candidates_leaves_nothing(checkout: Path) -> None:
    before = sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts)
    for typed in ("", "hydra.run.dir=", "resume=", "task="):
        candidates(f"python -m src.run {typed}", checkout)
    assert sorted(p for p in checkout.rglob("*") if "__pycache__" not in p.parts) == before


@pytest.mark.parametrize(
    ("argv", "prepare"),
    [
        (["bash", "--norc", "--noprofile", "-i"], ""),
        (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; "),
    ],
)
def test_tab_completes_on_a_terminal(checkout: Path, argv: list[str], prepare: str) -> None:
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    keys, terminal = pty.openpty()
    env = {**environment(checkout), "PS1": "ready> "}
    shell = subprocess.Popen(
        argv, cwd=checkout, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    try:
        until("ready> ", keys)
        os.write(keys, f"{prepare}source launchers/completion.{argv[0]}; echo rea''dy\n".encode())
        until("ready\r.*ready> ", keys)
        os.write(keys, b"python -m src.run task=pl\t budget=16\t")
        until("task=pl.*an.* budget=16.*k", keys)
    finally:
        shell.kill()
        shell.wait()
        os.close(keys)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("program", ["python -m src.run", "upsample"])
def test_fish_offers_the_same(checkout: Path, program: str) -> None:
    ask = f"source launchers/completion.fish; complete -C '{program} task=plan upsample='"
    done = subprocess.run(
        ["fish", "--no-config", "-c", ask],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert set(done.stdout.split()) == {f"upsample={name}" for name in RECIPES}, done.stderr


def until(pattern: str, terminal: int, patience_s: float = 30.0) -> str:
    """What the terminal shows until it matches."""
    shown, deadline = "", time.monotonic() + patience_s
    while not re.search(pattern, shown, re.DOTALL):
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown
