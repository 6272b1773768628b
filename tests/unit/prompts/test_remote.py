"""Clips and prompt files at addresses, of a storage in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError, SpecError, VideoError
from src.planning.resolve import resolve
from src.prompts import remote
from tests.conftest import Configure

fsspec: Any = pytest.importorskip("fsspec", reason="the extra remote_files is not installed")


@pytest.fixture
def storage() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.rm("/", recursive=True)


def test_file_is_fetched_once_for_each_version(storage: Any, tmp_path: Path) -> None:
    storage.pipe("/bucket/a b.txt", b"one")
    first = remote.fetched("memory://bucket/a b.txt", tmp_path)
    first.write_bytes(b"kept")
    assert remote.fetched("memory://bucket/a b.txt", tmp_path).read_bytes() == b"kept"
    storage.pipe("/bucket/a b.txt", b"another")
    assert remote.fetched("memory://bucket/a b.txt", tmp_path).read_bytes() == b"another"


def test_prompts_and_clips_are_planned(storage: Any, configure: Configure, clips: Path, tmp_path: Path) -> None:
    items = [
        {"name": name, "prompt": "x", "video_path": path}
        for name, path in (
            ("near", "clips/a.mp4"),
            ("far", "memory://other/a.mp4"),
            ("gone", "memory://other/gone.mp4"),
        )
    ]
    storage.pipe("/bucket/prompts.json", json.dumps(items).encode())
    for place in ("/bucket/clips/a.mp4", "/other/a.mp4"):
        storage.pipe(place, (clips / "wide.mp4").read_bytes())
    config = configure()
    config.prompts = "memory://bucket/prompts.json"
    near, far, gone = resolve(config).items
    assert near.video and far.video and near.video.sha256 == far.video.sha256 and Path(far.video.path).is_file()
    assert far.video_path == "memory://other/a.mp4" and "there is no such object" in gone.problem


@pytest.mark.parametrize(
    "address", ["s3://name:password@bucket/a.mp4", "https://host/a.mp4?X-Amz-Signature=abc", "https://h/a?x=1&token=t"]
)
def test_secret_in_an_address_is_refused(configure: Configure, tmp_path: Path, address: str) -> None:
    config = configure()
    config.prompts = str(tmp_path / "prompts.json")
    Path(config.prompts).write_text(json.dumps([{"prompt": "x", "video_path": address}]))
    with pytest.raises(SpecError, match="password or a signature") as e:
        resolve(config)
    assert address.partition("://")[2] not in str(e.value)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(VideoError, match="a remote file needs s3fs here, which is not installed") as e:
        remote.fetched("s3://bucket/a.mp4", tmp_path)
    assert "pip install s3fs" in (e.value.hint or "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Access Denied"), "no credentials"),
        (OSError("reset\nby peer"), "cannot be fetched: OSError: reset"),
    ],
)
def test_failed_fetch_is_worded(
    storage: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, words: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    storage.pipe("/a.mp4", b"x")
    monkeypatch.setattr(type(storage), "get_file", fail)
    with pytest.raises(VideoError, match=words):
        remote.fetched("memory://a.mp4", tmp_path)
    assert not list((tmp_path / "remote").iterdir())


def test_clip_over_the_limit_is_not_fetched(storage: Any, tmp_path: Path) -> None:
    storage.pipe("/a.mp4", b"12345")
    with pytest.raises(VideoError, match=r"video\.max_bytes=4"):
        remote.fetched("memory://a.mp4", tmp_path, 4)


def test_unknown_kind_of_address_is_refused(configure: Configure) -> None:
    config = configure()
    config.prompts = "gopher://host/prompts.json"
    with pytest.raises(InputError, match="of a kind that is not read"):
        resolve(config)
