"""The lock of a run folder: held by one process, freed with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import RunLocked
from src.run_folder import RunPaths, locked

HOLDER = """
import fcntl, sys
f = open(sys.argv[1], "w")
fcntl.flock(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def test_folder_is_held_by_one_process(paths: RunPaths) -> None:
    paths.root.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLDER, str(paths.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunLocked, match="another process"), locked(paths):
        pytest.fail("the folder was given twice")
    other.kill()
    other.communicate()
    with locked(paths):  # the death of its holder frees it
        pass


def test_error_frees_the_folder(paths: RunPaths) -> None:
    with pytest.raises(ZeroDivisionError), locked(paths):
        raise ZeroDivisionError
    with locked(paths):
        pass


def test_second_lock_in_this_process_is_refused(paths: RunPaths) -> None:
    with locked(paths), pytest.raises(RunLocked), locked(paths):
        pytest.fail("the folder was given twice")
