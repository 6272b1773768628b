"""Fixtures for tests of hosts: a staged job here, and a host with hostile names there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from src.hosts import host_job
from src.hosts.job_folder import JobPaths, open_job
from src.hosts.launch import Launch
from tests.harness.fake_host import HOST, LAUNCH, FakeHost
from tests.harness.records import JOB


@pytest.fixture
def job(tmp_path: Path) -> JobPaths:
    """A job folder here, without batches."""
    paths = JobPaths(tmp_path / "run" / "job" / "0123456789abcdef")
    open_job(paths, JOB)
    return paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """host.root; its name has characters that a shell would interpret."""
    return tmp_path / f"root 'quoted' $(touch {tmp_path}/interpreted) `id`; -x" / "-n"


@pytest.fixture
def launch(root: Path) -> Launch:
    return replace(LAUNCH, host=replace(HOST, root=str(root)))


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost link is tried again at once."""
    monkeypatch.setattr(host_job, "RETRY_MAX_S", 0.0)
