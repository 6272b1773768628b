"""Render tasks: which hints each renders, and how the controller waits for them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import HostError
from src.media.hint import hint_key
from src.planning.plan_file import write_plan
from src.planning.settings import HostSettings
from src.run_folder import RunPaths
from src.runs import render_tasks
from src.runs.render_tasks import RenderTasks
from src.runs.staging import hint_cache
from tests.unit.runs.conftest import MakePlan


def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> Path:
    """Programs of Slurm's names, which only write down that they are called and print something: a fake."""
    for name, line in programs.items():
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {folder}/calls\n{line}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "calls"


@pytest.fixture
def host(make_plan: MakePlan) -> HostSettings:
    given = make_plan({"a": ("A boat.", None)}).settings.host
    return replace(given, render_tasks=3, render_sbatch=("--partition=cpu",))


def test_each_task_renders_its_share(make_plan: MakePlan, paths: RunPaths, clips: Path) -> None:
    names = ("wide", "tall", "missing")
    plan = make_plan({name: (f"A boat, {name}.", clips / f"{name}.mp4") for name in names}, "video.on_bad_video=keep")
    with open(paths.plan, "w") as out:
        write_plan(plan, out)
    hints = len({item.hint for item in plan.items if item.hint})
    for number in range(2):
        render_tasks.main(paths.root, number, 2)
        assert len(list(hint_cache(plan.settings).iterdir())) == min(number + 1, hints)


def test_tasks_are_submitted_once(host: HostSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = slurm(tmp_path, monkeypatch, squeue="", sbatch="echo 7")
    RenderTasks(tmp_path, host)
    assert "--array=0-2" in calls.read_text() and "--partition=cpu" in calls.read_text()
    slurm(tmp_path, monkeypatch, squeue="echo 7_0", sbatch="echo 8")
    RenderTasks(tmp_path, host)
    assert calls.read_text().count("sbatch") == 1


def test_wait_ends_with_entry_or_tasks(host: HostSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_tasks, "ASK_S", 0.0)
    slurm(tmp_path, monkeypatch, squeue="echo 7_0")
    tasks, entry = RenderTasks(tmp_path, host), tmp_path / "entry"
    threading.Timer(0.2, entry.mkdir).start()
    tasks.wait_for(entry, lambda: False)
    assert entry.exists()
    tasks.wait_for(tmp_path / "another", lambda: True)
    slurm(tmp_path, monkeypatch, squeue="")
    tasks.wait_for(tmp_path / "another", lambda: False)


def test_absent_slurm_is_named(host: HostSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm(tmp_path, monkeypatch, squeue="echo no such cluster >&2; exit 1")
    with pytest.raises(HostError, match="squeue: no such cluster"):
        RenderTasks(tmp_path, host)


def test_busy_slurm_is_asked_again(host: HostSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_tasks, "ASK_S", 0.0)
    slurm(tmp_path, monkeypatch, squeue="echo 7_0")
    tasks, entry = RenderTasks(tmp_path, host), tmp_path / "entry"
    slurm(tmp_path, monkeypatch, squeue="echo timed out >&2; exit 1")
    threading.Timer(0.3, entry.mkdir).start()
    tasks.wait_for(entry, lambda: False)
    assert entry.exists()


def test_nobody_waits_for_what_cannot_be_rendered(
    make_plan: MakePlan,
    paths: RunPaths,
    host: HostSettings,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm(tmp_path, monkeypatch, squeue="echo 7_0")
    (clips / "gone.mp4").write_bytes((clips / "wide.mp4").read_bytes() + b"0")
    plan = make_plan({"gone": ("A boat.", clips / "gone.mp4")})
    (clips / "gone.mp4").unlink()
    with open(paths.plan, "w") as out:
        write_plan(plan, out)
    render_tasks.main(paths.root, 0, 1)
    (item,) = plan.items
    assert item.video and item.hint
    tasks = RenderTasks(paths.root, host)
    tasks.wait_for(hint_cache(plan.settings) / hint_key(item.video, item.hint), lambda: False)


def test_tasks_see_the_paths_of_the_controller(
    host: HostSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's cache and clips may be relative to the folder in which the program was started."""
    calls = slurm(tmp_path, monkeypatch, squeue="", sbatch="")
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    RenderTasks(tmp_path / "run", host)
    assert f"--wrap=cd '{tmp_path}/my work' && exec env " in calls.read_text()
