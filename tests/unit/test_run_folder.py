"""The files of a run folder, and its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from src.errors import InputError, RunLocked
from src.run_folder import File, RunPaths, discard_unused, is_locked, locked, named_run, run_folders


def test_paths_are_distinct_and_not_created(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    found = [getattr(paths, name) for name, value in vars(RunPaths).items() if isinstance(value, File)]
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


def test_lock_is_waited_for_as_configured(tmp_path: Path) -> None:
    paths, held = RunPaths(tmp_path), ExitStack()
    held.enter_context(locked(paths))
    threading.Timer(0.5, held.close).start()
    with structlog.testing.capture_logs() as events, locked(paths, 30.0):
        assert [(event["event"], event["limit_s"]) for event in events] == [("run_folder_waited_for", 30)]


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


def test_lock_can_be_asked_about(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    assert not is_locked(paths)
    with locked(paths):
        assert is_locked(paths)
    assert not is_locked(paths)
    with locked(paths):  # nothing of the question is left
        pass


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of two days, the points of a sweep, and folders that are none of them; the working folder is above."""
    monkeypatch.chdir(tmp_path)
    names = {"day/1": "first", "day/2": "second", "sweeps/day/3/0": "", "sweeps/day/3/1": "first", "mine": None}
    for age, (folder, name) in enumerate(names.items()):
        run = RunPaths(tmp_path / "outputs" / folder)
        run.root.mkdir(parents=True)
        run.plan.touch()
        os.utime(run.plan, (1000 + age, 1000 + age))
        if name is not None:
            run.record.write_text(json.dumps({"name": name}))
    (tmp_path / "outputs/sweeps/day/3/multirun.yaml").touch()
    for hidden in (".cache", ".tasks/probe", "day/1/job", "sweeps/day/3/engines/4096"):
        (tmp_path / "outputs" / hidden).mkdir(parents=True)
        (tmp_path / "outputs" / hidden / "plan.json").touch()
    return tmp_path / "outputs"


def test_runs_are_found_newest_first(outputs: Path) -> None:
    assert [str(folder) for folder in run_folders()] == [
        f"outputs/{name}" for name in ("mine", "sweeps/day/3/1", "sweeps/day/3/0", "day/2", "day/1")
    ]
    assert run_folders(outputs / "nowhere") == []


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("latest", "mine"), ("first", "sweeps/day/3/1"), ("second", "day/2"), ("third", None), ("day/1", "day/1"),
        ("sweeps/day/3", "sweeps/day/3"),
    ],
)  # fmt: skip
def test_name_stands_for_the_newest_run(outputs: Path, value: str, folder: str | None) -> None:
    assert named_run(value) == (Path("outputs") / folder if folder else None)


def test_last_point_is_resumed_with_its_sweep(outputs: Path) -> None:
    (outputs / "mine" / "plan.json").unlink()
    assert named_run("latest", resumes=True) == Path("outputs/sweeps/day/3")
    assert named_run("latest") == Path("outputs/sweeps/day/3/1")


@pytest.mark.parametrize(
    ("files", "stays"),
    [
        ([".hydra/config.yaml", "log.jsonl", ".lock"], False),
        (["multirun.yaml", ".ended/0.json"], False),
        ([], False),
        (["log.jsonl", "plan.json"], True),
        (["notes.txt"], True),
    ],
)
def test_unused_folder_is_removed_with_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], stays: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("outputs/day/run")
    run.mkdir(parents=True)
    for name in files:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    discard_unused(run)
    assert run.exists() == run.parent.exists() == stays
    assert Path("outputs").exists()


def test_other_runs_of_the_day_stay(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "day" / name).mkdir(parents=True)
    discard_unused(tmp_path / "day" / "one")
    discard_unused(tmp_path / "day" / "nowhere")
    assert os.listdir(tmp_path / "day") == ["two"]
    discard_unused(tmp_path / "day" / "two")
    assert os.listdir(tmp_path / "day") == []  # it is somebody's own folder


def test_folder_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(InputError, match="cannot be locked"), locked(RunPaths(tmp_path)):
        pass
    assert not is_locked(RunPaths(tmp_path))
