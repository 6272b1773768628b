"""Sweeps whose points run in other processes: several on this machine, and as jobs of a real Slurm."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness.processes import children_of, command_lines
from tests.harness.program import journal_ids, plan_of, program, quoted, results_of, start, wait_for, write_prompts
from tests.harness.slurm import Slurm

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
INSTALL = "pip install hydra-joblib-launcher hydra-submitit-launcher"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "svep, två"


@pytest.fixture
def overrides(tmp_path: Path, clips: Path, cache_dir: Path, sweep: Path) -> tuple[str, ...]:
    """What every sweep is started with: two small prompts, a cache, and the folder."""
    prompts = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 2)
    return ("--multirun", f"prompts={prompts}", f"cache_dir={cache_dir}", f"hydra.sweep.dir={quoted(sweep)}")


def table_of(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "sweep.csv").open(encoding="utf-8")))


def planned(sweep: Path) -> list[str]:
    return sorted(path.parent.name for path in sweep.glob("*/plan.json"))


# ---------------------------------------------------------------------------------- several processes of this machine


def test_points_run_in_processes_and_folders(sweep: Path, overrides: tuple[str, ...]) -> None:
    """A bad point stops no other, and the exit code is of this sweep and of none before it in the same folder."""
    end = program(*overrides, *JOBLIB, "task=plan", "upsample=safe_320,best_fit", "budget.max_model_len=4096,10")
    assert end.code == 2, end.err
    assert planned(sweep) == ["0", "2"]
    assert "leaves no room for a prompt" in end.err
    assert "Traceback" not in end.err
    assert end.out.count("2 of 2 items fit") == 2  # what a point prints is seen
    assert [row["exit_code"] for row in table_of(sweep)] == ["0", "2", "0", "2"]
    again = program(*overrides, "task=plan", "upsample=safe_320,best_fit", "budget=4k,8k")
    assert again.code == 0, again.err
    assert planned(sweep) == ["0", "1", "2", "3"]
    assert [plan_of(sweep / n)["budget"]["max_model_len"] for n in "0123"] == [4096, 8192, 4096, 8192]


def test_sweep_of_two_points_compares_them(sweep: Path, tmp_path: Path, clips: Path, cache_dir: Path) -> None:
    """Two clips of the same shots: other videos under the same names."""
    files = [write_prompts(tmp_path / f"{name}.json", clips / f"{name}.mp4", 2) for name in ("wide", "other")]
    given = (f"prompts={files[0]},{files[1]}", f"cache_dir={cache_dir}", f"hydra.sweep.dir={quoted(sweep)}")
    end = program("--multirun", *given, "pair_by=name")
    assert end.code == 0, end.err
    assert "2 items in both" in end.out
    assert [row["prompts"] for row in table_of(sweep)] == [str(file) for file in files]
    assert [(row["state"], row["upsampled"]) for row in table_of(sweep)] == [("complete", "2")] * 2
    assert re.search(r'<a href="1/report.html">', (sweep / "index.html").read_text())
    assert (sweep / "compare.csv").read_text().count("\n") == 3 and (sweep / "compare.html").is_file()


@pytest.mark.parametrize(
    ("victim", "number", "code"),
    [("point", signal.SIGKILL, 1), ("sweep", signal.SIGINT, 130)],
    ids=["killed", "Ctrl-C"],
)
def test_broken_sweep_leaves_resumable_points(
    sweep: Path, overrides: tuple[str, ...], victim: str, number: signal.Signals, code: int
) -> None:
    process = start(*overrides, *JOBLIB, "upsample=safe_320,best_fit", "engine.item_delay_s=3", "engine.in_flight=1")
    wait_for(lambda: journal_ids(sweep / "0"))  # the other one may start late
    os.kill(process.pid if victim == "sweep" else wait_for(lambda: points_of(process.pid))[0], number)
    end = process.ended()
    assert end.code == code, end.err
    assert "Traceback" not in end.err
    assert ("resume=" in end.err) == (victim == "sweep")
    wait_for(lambda: program(f"resume={quoted(sweep / '0')}").code != 75, step_s=0.5)  # its worker may outlive it
    assert {row["state"] for row in results_of(sweep / "0")} == {"upsampled"}


def points_of(pid: int) -> list[int]:
    """Processes in which the points of a sweep run."""
    children = children_of(pid)
    return [n for n, words in command_lines() if n in children and any(b"popen_loky" in word for word in words)]


def test_missing_launcher_names_what_to_install(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    (tmp_path / "empty" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "empty" / "hydra_plugins" / "__init__.py").touch()  # hides the installed ones
    env = os.environ | {"PYTHONPATH": str(tmp_path / "empty")}
    for launcher in ("joblib", "slurm"):
        end = program(*overrides, f"hydra/launcher={launcher}", "task=plan", env=env, fresh=True)
        assert end.code == 2, end.err
        assert INSTALL in end.err


# --------------------------------------------------------------------------------------------------------- a real Slurm


def printed(sweep: Path) -> str:
    """What the points wrote on their node."""
    return "".join(log.read_text(encoding="utf-8") for log in sweep.glob(".submitit/*/*_log.out"))


def test_points_are_jobs_of_slurm(slurm: Slurm, sweep: Path, overrides: tuple[str, ...]) -> None:
    """With Hydra's own launcher; a bad one stops no other."""
    launcher = ("hydra/launcher=submitit_slurm", f"hydra.launcher.partition={slurm.partition}")
    end = program(*overrides, *launcher, "task=plan", "budget.max_model_len=4096,10", env=slurm.environment)
    assert end.code == 2, end.err
    assert planned(sweep) == ["0"]
    assert [row["exit_code"] for row in table_of(sweep)] == ["0", "2"]
    assert "2 of 2 items fit" in printed(sweep)


def test_bundled_slurm_config_runs_a_point(slurm: Slurm, sweep: Path, overrides: tuple[str, ...]) -> None:
    end = program(
        *overrides, "hydra/launcher=slurm", "engine=offline", "hydra.launcher.timeout_min=5", env=slurm.environment
    )
    assert end.code == 0, end.err
    assert [row["state"] for row in results_of(sweep / "0")] == ["upsampled", "upsampled"]
    assert "2 upsampled, 0 kept original, 0 failed" in printed(sweep)


def test_errors_of_slurm_are_shown(slurm: Slurm, overrides: tuple[str, ...]) -> None:
    """A partition that it refuses, and no Slurm at all."""
    launcher = ("hydra/launcher=slurm", "task=plan")
    end = program(*overrides, *launcher, "hydra.launcher.partition=nope", env=slurm.environment)
    assert end.code == 1
    assert "invalid partition specified: nope" in end.err
    assert "Traceback" not in end.err
    end = program(*overrides, *launcher, env=os.environ | {"PATH": str(Path(subprocess.__file__).parent)})
    assert end.code == 1
    assert "srun" in end.err
    assert "Traceback" not in end.err
