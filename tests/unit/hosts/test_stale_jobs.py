"""Stale jobs on a host: what is listed, what is removed, what is left alone."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import HostError
from src.hosts import docker
from src.hosts.launch import Launch
from src.hosts.stale_jobs import jobs_on, remove
from src.planning.settings import HostSettings
from tests.harness.fake_docker import Container, FakeDocker
from tests.harness.fake_host import FakeHost

ENDED, RUNNING, CONTAINER = "0123456789abcdef", "fedcba9876543210", "0" * 16
FOREIGN = ("mine", "my notes", "-rf", "0123456789ABCDEF", "0" * 17, f"{ENDED} copy")


@pytest.fixture
def settings(launch: Launch) -> HostSettings:
    return launch.host


@pytest.fixture
def daemon() -> FakeDocker:
    return FakeDocker()


@pytest.fixture
def box(daemon: FakeDocker) -> FakeHost:
    return FakeHost(daemon)


def make_job(root: Path, name: str, results: int = 0) -> Path:
    folder = root / "jobs" / name
    for part in ("batches", "frames"):
        (folder / part).mkdir(parents=True)
    (root / "frames").mkdir(exist_ok=True)
    (folder / "job.json").write_text("{}")
    (folder / "results.jsonl").write_text("{}\n" * results)
    (folder / "lock").touch()
    return folder


def make_container(daemon: FakeDocker, job: str, status: str, root: Path) -> str:
    name = docker.container_name(f"{root}/jobs/{job}")
    labels = {f"{docker.LABEL}.job": job, f"{docker.LABEL}.root": str(root)}
    daemon.containers[name] = Container(status, labels=labels)
    return name


def test_jobs_are_listed_with_their_state(
    box: FakeHost, settings: HostSettings, daemon: FakeDocker, root: Path
) -> None:
    make_job(root, ENDED, results=3)
    lock = os.open(make_job(root, RUNNING) / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    made = make_container(daemon, CONTAINER, "running", root)
    found = {job.job_id: job for job in jobs_on(box, settings)}
    assert list(found) == [CONTAINER, ENDED, RUNNING]
    assert (found[ENDED].status, found[ENDED].answered, found[ENDED].has_folder) == ("ended", 3, True)
    assert (found[RUNNING].status, found[RUNNING].answered) == ("running", 0)
    assert (found[CONTAINER].status, found[CONTAINER].has_folder) == ("running", False)
    assert found[CONTAINER].containers == (made,)
    assert found[ENDED].kib > 0
    os.close(lock)


@pytest.mark.parametrize(
    ("files", "status"),
    [((), "running"), (("jobs/ID/exit.json",), "ended"), (("jobs/ID/cancelled",), "ended"), (("ended/ID",), "ended")],
    ids=["waits for a worker", "has ended", "canceled", "marked as ended"],
)
def test_job_of_a_pool_is_no_stale_one_until_it_ends(
    box: FakeHost, settings: HostSettings, root: Path, files: tuple[str, ...], status: str
) -> None:
    """Its worker starts later, or where its lock is not seen."""
    make_job(root, ENDED)
    for file in files:
        path = root / file.replace("ID", ENDED)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    [found] = jobs_on(box, replace(settings, kind="pool"))
    assert found.status == status


def test_foreign_folders_are_not_listed(box: FakeHost, settings: HostSettings, root: Path) -> None:
    for name in FOREIGN:
        make_job(root, name)
    assert jobs_on(box, settings) == []


def test_containers_of_other_roots_are_not_listed(box: FakeHost, settings: HostSettings, daemon: FakeDocker) -> None:
    make_container(daemon, CONTAINER, "exited", Path("/another/root"))
    daemon.containers["foreign"] = Container("exited")
    assert jobs_on(box, settings) == []


def test_host_without_jobs_has_none(host: FakeHost, settings: HostSettings) -> None:
    assert jobs_on(host, settings) == []


@pytest.mark.parametrize("is_up", [True, False])
def test_absent_docker_has_no_containers(
    box: FakeHost, settings: HostSettings, daemon: FakeDocker, root: Path, is_up: bool
) -> None:
    make_job(root, ENDED)
    make_container(daemon, ENDED, "exited", root)
    daemon.is_up = is_up
    [job] = jobs_on(box, settings)
    assert len(job.containers) == is_up


def test_removal_takes_folder_and_container(
    box: FakeHost, settings: HostSettings, daemon: FakeDocker, root: Path
) -> None:
    folder, other = make_job(root, ENDED), make_job(root, RUNNING)
    make_container(daemon, ENDED, "exited", root)
    made = make_container(daemon, RUNNING, "exited", root)
    remove(box, settings, next(job for job in jobs_on(box, settings) if job.job_id == ENDED))
    assert not folder.exists() and other.exists()
    assert list(daemon.containers) == [made]


def test_running_container_is_not_removed(
    box: FakeHost, settings: HostSettings, daemon: FakeDocker, root: Path
) -> None:
    folder = make_job(root, ENDED)
    make_container(daemon, ENDED, "running", root)
    [job] = jobs_on(box, settings)
    with pytest.raises(HostError, match="container is running"):
        remove(box, settings, job)
    assert folder.exists()
