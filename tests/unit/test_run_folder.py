"""The files of a run folder, and its lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import RunLocked
from src.run_folder import RunPaths, locked


def test_paths_are_distinct_and_not_created(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    found = [getattr(paths, name) for name in dir(RunPaths) if isinstance(getattr(RunPaths, name), property)]
    assert len(set(found)) == len(found) >= 11
    assert all(path.is_relative_to(paths.root) for path in found)
    assert not paths.root.exists()


def test_run_folder_has_one_user(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    with locked(paths), pytest.raises(RunLocked, match="another process uses this run folder"), locked(paths):
        pass


def test_lock_is_released_by_an_error(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), locked(paths):
        raise ZeroDivisionError
    with locked(paths):
        pass


HOLDER = """
import fcntl, sys
f = open(sys.argv[1], "w")
fcntl.flock(f, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_death_of_the_holder_frees_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLDER, str(paths.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunLocked), locked(paths):
        pass
    holder.kill()
    holder.communicate()
    with locked(paths):
        pass
