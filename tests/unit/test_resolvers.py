"""Run folders: a new one named by the clock, or the one to resume; and where Hydra keeps its record."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from src.choices import HostKind, TaskName
from src.config import HostConf
from src.resolvers import hydra_subdir, members, run_folder

UPSAMPLE = TaskName.upsample


def test_folder_of_all_runs_may_not_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "outputs").symlink_to(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        run_folder(None, None, UPSAMPLE, f"{tmp_path}/outputs/day/run")


def test_existing_run_folder_is_never_used(tmp_path: Path) -> None:
    found = [Path(run_folder(None, None, UPSAMPLE, f"{tmp_path}/run")) for _ in range(3)]
    assert [folder.name for folder in found] == ["run", "run-2", "run-3"]
    assert all(folder.is_dir() for folder in found)


def test_simultaneous_runs_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: run_folder(None, None, UPSAMPLE, f"{tmp_path}/day/run"), range(64)))
    assert len(set(found)) == 64


def test_run_folder_is_named_by_the_clock(tmp_path: Path) -> None:
    folder = run_folder(None, None, UPSAMPLE, f"{tmp_path}/%Y-%m-%d/%H-%M-%S")
    assert re.fullmatch(r".*/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", folder)


def test_resumed_run_keeps_its_folder(tmp_path: Path) -> None:
    assert run_folder(str(tmp_path), None, UPSAMPLE, "pattern") == str(tmp_path)
    assert run_folder(None, str(tmp_path), TaskName.attach, "pattern") == str(tmp_path)
    assert run_folder(None, str(tmp_path), TaskName.review, "pattern") == str(tmp_path)


def test_later_start_keeps_the_first_record(tmp_path: Path) -> None:
    assert hydra_subdir(UPSAMPLE, str(tmp_path)) == ".hydra"
    (tmp_path / ".hydra").mkdir()
    assert (hydra_subdir(UPSAMPLE, str(tmp_path)) or "").startswith(".hydra/resumed-")


def test_rerun_of_a_review_is_separate(tmp_path: Path) -> None:
    assert run_folder(None, str(tmp_path), TaskName.review, f"{tmp_path}/new", True) == f"{tmp_path}/new"


@pytest.mark.parametrize("task", ["status", "runs", "report", "cancel", "clean", "trust", "doctor"])
def test_task_without_run_leaves_no_folder(tmp_path: Path, task: str) -> None:
    assert run_folder(None, str(tmp_path), TaskName[task], "pattern") == "outputs/.tasks"
    assert hydra_subdir(TaskName[task], str(tmp_path)) is None


def test_members_are_options_or_addresses(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "gpu_a.yaml").write_text("name: gpu_a\nkind: ssh\naddress: 10.0.0.7\nworkers: 2\ngpus: '2'\n")
    fleet = HostConf("fleet", HostKind.fleet, ["gpu_a", "me@10.0.0.8"], root="~/jobs")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        option, address = members(fleet)
    assert (option.name, option.kind, option.address, option.workers) == ("gpu_a", HostKind.ssh, "10.0.0.7", 2)
    assert option.root == HostConf.root  # what its file does not say is as for any host, not as for the fleet
    assert (address.name, address.kind, address.address, address.root) == (
        "me@10.0.0.8", HostKind.ssh, "me@10.0.0.8", "~/jobs",
    )  # fmt: skip
