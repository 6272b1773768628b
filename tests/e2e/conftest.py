"""What the end-to-end tests share: their mark, the order of their files, and servers that a session needs once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cache_with_tokenizers, shared_folder
from tests.harness import slurm as slurm_harness
from tests.harness.docked import Docked
from tests.harness.dockerd import Dockerd
from tests.harness.dockerd import Unavailable as NoDocker
from tests.harness.dockerd import missing as missing_docker
from tests.harness.processes import wait_for_build
from tests.harness.program import quoted
from tests.harness.remote import Remote
from tests.harness.slurm import Slurm
from tests.harness.sshd import Sshd
from tests.harness.sshd import missing as missing_sshd
from tests.harness.tiny_server import LIGHT, TinyServers

HERE = Path(__file__).parent
# How the names of long files begin. The first four processes of `.ci/run` have something to do until what vLLM and
# containers need is built.
LONGEST = (
    "test_docs", "test_measures", "test_pipeline", "test_run_states", "test_vllm", "test_llamacpp", "test_ray", "test_slurm",
    "test_docker", "test_ssh",
)  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.e2e)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that none of them is the last."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        known = (n for n, name in enumerate(LONGEST) if item.path.stem.startswith(name))
        return HERE not in item.path.parents, next(known, len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def common(cache_dir: Path) -> tuple[str, ...]:
    """Overrides of most calls: a cache that the session shares."""
    return (f"cache_dir={quoted(cache_dir)}",)


@pytest.fixture
def own_cache(tmp_path: Path, cache_dir: Path) -> Path:
    """The cache folder of a test that must not see what others leave in theirs."""
    return cache_with_tokenizers(tmp_path / "cache", cache_dir)


@pytest.fixture(scope="session")
def installed_vllm() -> str:
    """The interpreter with vLLM."""
    if not (python := os.environ.get("VLLM_PYTHON", "")):
        pytest.skip("VLLM_PYTHON names no interpreter with vLLM (launchers/vllm_env.sh builds one)")
    wait_for_build("VLLM_BUILD_PID")
    return python


@pytest.fixture(scope="module")
def vllm_python(installed_vllm: str) -> Iterator[str]:
    """The interpreter with vLLM, in an environment in which it takes few CPU seconds."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in LIGHT.items():
            environment.setenv(name, value)
        yield installed_vllm


@pytest.fixture(scope="session")
def tiny_servers(installed_vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServers]:
    """Starts real vLLM servers with tiny random models."""
    servers = TinyServers(installed_vllm, shared_folder(tmp_path_factory, "tiny_servers"))
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A Docker daemon with an image."""
    if reason := missing_docker():
        pytest.skip(reason)
    try:
        daemon = Dockerd(tmp_path_factory.mktemp("dk"))
    except NoDocker as e:
        pytest.skip(str(e))
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A real Slurm of one node; what needs it is skipped where there can be none."""
    if reason := slurm_harness.missing():
        pytest.skip(reason)
    try:
        cluster = Slurm(tmp_path_factory.mktemp("slurm") / "slurm")
    except slurm_harness.Unavailable as e:
        pytest.skip(str(e))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if reason := missing_sshd():
        pytest.skip(reason)
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.kill()


@pytest.fixture
def remote(tmp_path: Path, sshd: Sshd, cache_dir: Path, small: str, clips: Path) -> Iterator[Remote]:
    """A host reached by SSH, and a fake server that answers."""
    remote = Remote(tmp_path, sshd, cache_dir, small, clips)
    yield remote
    remote.close()


@pytest.fixture
def docked(tmp_path: Path, sshd: Sshd, cache_dir: Path, small: str, clips: Path, daemon: Dockerd) -> Iterator[Docked]:
    """The Docker of this machine, and a fake server that answers."""
    docked = Docked(tmp_path, sshd, cache_dir, small, clips, daemon)
    yield docked
    docked.close()


@pytest.fixture
def far(docked: Docked) -> Docked:
    """As `docked`, behind SSH."""
    docked.behind_ssh = True
    return docked
