"""What task=doctor says of the files that inference needs, on a host that is this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import HostError
from src.hosts.connect import connect
from src.hosts.host import Host
from src.planning.configure import host_settings
from src.tasks.doctor import _checkpoint, _inference
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


def checkpoint_in(folder: Path, *names: str) -> Path:
    """A checkpoint as the hub's cache has it: a snapshot of links."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0123"
    for made in (blobs, snapshot):
        made.mkdir(parents=True)
    for name in names:
        (blobs / name).write_text("{}" if name.endswith(".json") else "weights")
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return snapshot


def test_links_of_a_hub_cache_are_files(host: Host, configure: Configure, tmp_path: Path) -> None:
    snapshot = checkpoint_in(tmp_path, "config.json", "tokenizer.json", "model.safetensors")
    config = configure("engine=vllm", "model=qwen3_vl_8b", f"model.checkpoint={snapshot}")
    assert _checkpoint(host, config).startswith(f"{snapshot}: 1 weight files")


def test_index_of_the_other_format_does_not_count(host: Host, configure: Configure, tmp_path: Path) -> None:
    """A download that left out the files of the format that is not loaded."""
    snapshot = checkpoint_in(tmp_path, "params.json", "tekken.json", "consolidated.safetensors")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "1 weight files" in _checkpoint(host, configure("engine=vllm", f"model.checkpoint={snapshot}"))


def test_every_index_counts(host: Host, configure: Configure, tmp_path: Path) -> None:
    snapshot = checkpoint_in(tmp_path, "config.json", "tokenizer.json", "a.safetensors")
    for folder, weights in ((snapshot, "a"), (snapshot / "more", "b")):
        folder.mkdir(exist_ok=True)
        index = {"weight_map": {"layer": f"{weights}.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = configure("engine=vllm", "model=qwen3_vl_8b", f"model.checkpoint={snapshot}")
    with pytest.raises(HostError, match=r"lacks b\.safetensors"):
        _checkpoint(host, config)


def test_checkpoint_below_home_is_found(
    host: Host, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_in(tmp_path, "config.json", "tokenizer.json", "model.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = configure("engine=vllm", "model=qwen3_vl_8b", "model.checkpoint=~/snapshots/0123")
    assert "1 weight files" in _checkpoint(host, config)


def test_format_of_transformers_is_named(host: Host, configure: Configure, tmp_path: Path) -> None:
    snapshot = checkpoint_in(tmp_path, "config.json", "tokenizer.json", "model.safetensors")
    with pytest.raises(HostError, match="it is in the format of transformers"):
        _checkpoint(host, configure("engine=vllm", f"model.checkpoint={snapshot}"))
