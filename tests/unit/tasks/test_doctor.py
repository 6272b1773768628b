"""What task=doctor says of the files that inference needs, on a host that is this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import HostError
from src.hosts.connect import connect
from src.hosts.host import Host
from src.planning.configure import host_settings
from src.tasks.doctor import _inference
from tests.conftest import Configure
from tests.harness.program import quoted


@pytest.fixture
def host(configure: Configure) -> Iterator[Host]:
    found = connect(host_settings(configure().host))
    yield found
    found.close()


def test_missing_models_and_checkouts_are_named(host: Host, configure: Configure, tmp_path: Path) -> None:
    models, hub = tmp_path / "models", tmp_path / "the hub"
    config = configure(
        "inference=depth", f"inference.repository={quoted(tmp_path)}", f"inference.checkpoint_dir={quoted(models)}",
        f"inference.hf_home={quoted(hub)}",
    )  # fmt: skip
    depth = hub / "hub" / "models--depth-anything--Depth-Anything-V2-Small-hf"
    with pytest.raises(HostError, match=f"missing: {models}, {hub}, {depth}\n"):
        _inference(host, config)
    for folder in (models, depth):
        folder.mkdir(parents=True)
    assert _inference(host, config).startswith("Cosmos-Transfer1: ")


def test_container_without_network_needs_a_cache(host: Host, configure: Configure, tmp_path: Path) -> None:
    given = (f"inference.repository={quoted(tmp_path)}", f"inference.checkpoint_dir={quoted(tmp_path)}")
    with pytest.raises(HostError, match="the container has no network, and facebook/sam2-hiera-large"):
        _inference(host, configure("inference=seg", "image.reference=cosmos", *given))
    assert _inference(host, configure("inference=edge", "image.reference=cosmos", *given))
