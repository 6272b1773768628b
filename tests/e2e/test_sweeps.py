"""Sweeps whose points run in other processes: several on this machine, and as jobs of a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness.program import (
    ended,
    journalled,
    plan_of,
    program,
    quoted,
    results_of,
    start,
    wait_for,
    write_prompts,
)
from tests.harness.slurm import Slurm

pytestmark = pytest.mark.e2e

JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
TOO_SMALL = "budget.max_model_len=4096,10"  # the second point has no room for any prompt


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "svep, två"


@pytest.fixture
def given(tmp_path: Path, clips: Path, cache_dir: Path, sweep: Path) -> tuple[str, ...]:
    """What every sweep is started with: two small prompts, a cache, and the folder."""
    prompts = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 2)
    return ("--multirun", f"prompts={prompts}", f"cache_dir={cache_dir}", f"hydra.sweep.dir={quoted(sweep)}")


def planned(sweep: Path) -> list[str]:
    return sorted(path.parent.name for path in sweep.glob("*/plan.json"))


# ---------------------------------------------------------------------------------- several processes of this machine


def test_every_point_runs_in_a_process_of_its_own_and_has_a_folder(sweep: Path, given: tuple[str, ...]) -> None:
    end = program(*given, *JOBLIB, "task=plan", "upsample=safe_320,best_fit", "budget=4k,8k")
    assert end.code == 0, end.err
    assert planned(sweep) == ["0", "1", "2", "3"]
    assert [plan_of(sweep / n)["budget"]["max_model_len"] for n in "0123"] == [4096, 8192, 4096, 8192]
    assert end.out.count("2 of 2 items fit") == 4  # what a point says is seen
    assert end.out.count("exit code 0") == 4


def test_a_bad_point_stops_no_other_and_its_exit_code_is_that_of_the_sweep(sweep: Path, given: tuple[str, ...]) -> None:
    end = program(*given, *JOBLIB, "task=plan", "budget.max_model_len=4096,10,8192,16384")
    assert end.code == 2, end.err
    assert planned(sweep) == ["0", "2", "3"]
    assert "leaves no room for a prompt" in end.err
    assert "Traceback" not in end.err


def test_the_exit_code_is_of_this_sweep_and_of_none_before_in_the_same_folder(given: tuple[str, ...]) -> None:
    assert program(*given, "task=plan", TOO_SMALL).code == 2
    assert program(*given, "task=plan", "budget=4k").code == 0


@pytest.mark.parametrize(
    ("who", "sent", "code"), [("point", signal.SIGKILL, 1), ("sweep", signal.SIGINT, 130)], ids=["killed", "Ctrl-C"]
)
def test_a_sweep_that_loses_a_point_ends_with_1_and_with_ctrl_c_130_and_what_it_made_can_be_taken_up(
    sweep: Path, given: tuple[str, ...], who: str, sent: signal.Signals, code: int
) -> None:
    process = start(*given, *JOBLIB, "upsample=safe_320,best_fit", "engine.item_delay_s=1", "engine.in_flight=1")
    wait_for(lambda: all((sweep / n / "journal.jsonl").exists() and journalled(sweep / n) for n in "01"))
    os.kill(process.pid if who == "sweep" else points_of(process.pid)[0], sent)
    end = ended(process)
    assert end.code == code, end.err
    assert "Traceback" not in end.err
    assert ("resume=" in end.err) == (who == "sweep")
    wait_for(lambda: program(f"resume={quoted(sweep / '0')}").code != 75, step_s=0.5)  # its worker may outlive it
    assert {row["state"] for row in results_of(sweep / "0")} == {"upsampled"}


def points_of(pid: int) -> list[int]:
    """Processes in which the points of a sweep run."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


def test_a_launcher_that_is_not_installed_is_2_and_says_what_to_install(tmp_path: Path, given: tuple[str, ...]) -> None:
    (tmp_path / "empty" / "hydra_plugins").mkdir(parents=True)
    (tmp_path / "empty" / "hydra_plugins" / "__init__.py").touch()  # stands before the installed ones
    env = os.environ | {"PYTHONPATH": str(tmp_path / "empty")}
    for launcher in ("joblib", "slurm"):
        end = program(*given, f"hydra/launcher={launcher}", "task=plan", env=env)
        assert end.code == 2, end.err
        assert "pip install hydra-joblib-launcher hydra-submitit-launcher" in end.err


# --------------------------------------------------------------------------------------------------------- a real Slurm


def said(sweep: Path) -> str:
    """What the points wrote on their node."""
    return "".join(log.read_text(encoding="utf-8") for log in sweep.glob(".submitit/*/*_log.out"))


def test_points_are_jobs_of_slurm_and_a_bad_one_stops_no_other(
    slurm: Slurm, sweep: Path, given: tuple[str, ...]
) -> None:
    launcher = ("hydra/launcher=submitit_slurm", f"hydra.launcher.partition={slurm.partition}")
    end = program(*given, *launcher, "task=plan", TOO_SMALL, env=slurm.environment)
    assert end.code == 2, end.err
    assert planned(sweep) == ["0"]
    assert f"point 0: exit code 0  {sweep / '0'}" in end.out
    assert f"point 1: exit code 2  {sweep / '1'}" in end.out
    assert "2 of 2 items fit" in said(sweep)


def test_our_own_slurm_config_runs_a_point_to_its_results(slurm: Slurm, sweep: Path, given: tuple[str, ...]) -> None:
    end = program(
        *given, "hydra/launcher=slurm", "engine=offline", "hydra.launcher.timeout_min=5", env=slurm.environment
    )
    assert end.code == 0, end.err
    assert [row["state"] for row in results_of(sweep / "0")] == ["upsampled", "upsampled"]
    assert "2 upsampled, 0 kept, 0 failed" in said(sweep)


def test_a_partition_that_slurm_refuses_is_told_in_its_words(slurm: Slurm, given: tuple[str, ...]) -> None:
    end = program(
        *given, "hydra/launcher=slurm", "hydra.launcher.partition=nope", "task=plan", env=slurm.environment
    )  # fmt: skip
    assert end.code == 1
    assert "invalid partition specified: nope" in end.err
    assert "Traceback" not in end.err


def test_no_slurm_at_all_is_told(given: tuple[str, ...]) -> None:
    env = os.environ | {"PATH": str(Path(subprocess.__file__).parent)}
    end = program(*given, "hydra/launcher=slurm", "task=plan", env=env)
    assert end.code == 1
    assert "srun" in end.err
    assert "Traceback" not in end.err
