"""Files to and from a host: whole or not at all, continued after a break, verified by their hash."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from src.errors import FolderGone, HostError, LinkLost
from src.hosts import transfer
from src.hosts.host import CommandResult, Limit, LocalHost
from src.hosts.transfer import fetch, send


class Breaking(LocalHost):
    """This machine over a link that breaks after so many bytes. sent: what went over it."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.after, self.sent = after, 0

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, limit: Limit | None = None) -> CommandResult:
        broken = False

        def counted() -> Iterator[bytes]:
            nonlocal broken
            for piece in feed:
                if self.after is not None and self.sent + len(piece) > self.after:
                    broken = True
                    return
                self.sent += len(piece)
                yield piece

        done = super().run(argv, counted(), limit=limit)
        if broken:
            raise LinkLost("cut")
        return done


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder on the host; its name has characters that a shell would interpret."""
    folder = tmp_path / "there with 'quotes' $(touch pwned) ünï"
    folder.mkdir()
    return folder


def make_files(folder: Path, sizes: dict[str, int]) -> dict[str, Path]:
    files = {}
    for name, size in sizes.items():
        path = folder / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        files[name] = path
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SIZES = {
    "frames/a.png": 30_000,
    "frames/b.png": 0,
    "job.json": 100,
    "deep/er/c": 1,
    "large.bin": transfer.LARGE + 12_345,
}


def test_files_arrive_as_they_are(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, SIZES)
    send(LocalHost(), files, str(there), "key")
    assert contents(there) == {name: path.read_bytes() for name, path in files.items()}
    assert list(there.glob(".incoming*")) == []


def test_fetched_files_are_as_sent(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, SIZES)
    send(LocalHost(), files, str(there), "key")
    fetch(LocalHost(), str(there), {name: file.stat().st_size for name, file in files.items()}, tmp_path / "back")
    assert contents(tmp_path / "back") == {name: path.read_bytes() for name, path in files.items()}


def test_interrupted_file_is_continued(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, {"large.bin": transfer.LARGE + 5})
    whole = transfer.LARGE + 5
    with pytest.raises(LinkLost):
        send(Breaking(after=whole // 2), files, str(there), "key")
    assert not (there / "large.bin").exists()
    again = Breaking()
    send(again, files, str(there), "key")
    assert contents(there) == {"large.bin": files["large.bin"].read_bytes()}
    assert again.sent < whole * 0.6


def test_small_files_are_not_sent_twice(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, {f"frames/{n:03}.png": 30_000 for n in range(100)})
    with pytest.raises(LinkLost):
        send(Breaking(after=2_000_000), files, str(there), "key")
    again = Breaking()
    send(again, files, str(there), "key")
    assert len(contents(there)) == 100
    assert again.sent < 1_800_000


def test_wrong_content_never_appears(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, {"a.png": 1000, "b.png": 1000})
    incoming = there / ".incoming-key"
    incoming.mkdir(parents=True)
    (incoming / "a.png").write_bytes(b"x" * 1000)  # of the right size, and wrong
    with pytest.raises(HostError, match="did not arrive as it was sent"):
        send(LocalHost(), files, str(there), "key")
    assert not (there / "a.png").exists()
    send(LocalHost(), files, str(there), "key")
    assert contents(there) == {name: path.read_bytes() for name, path in files.items()}


def test_stale_incoming_files_are_dropped(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, {"a.png": 1000})
    incoming = there / ".incoming-key"
    incoming.mkdir(parents=True)
    (incoming / "large.bin").write_bytes(b"half")
    send(LocalHost(), files, str(there), "key")
    assert [p.name for p in there.iterdir() if not p.name.startswith(".")] == ["a.png"]


@pytest.mark.parametrize("sizes", [{"frames/a.png": 300_000}, {"large.bin": transfer.LARGE}], ids=["small", "large"])
def test_missing_folder_is_not_created(tmp_path: Path, there: Path, sizes: dict[str, int]) -> None:
    """Another controller may have removed it."""
    there.rmdir()
    with pytest.raises(FolderGone, match="there is no folder"):
        send(LocalHost(), make_files(tmp_path, sizes), str(there), "key")
    assert not there.exists()


@pytest.mark.parametrize("sizes", [{"frames/a.png": 300_000}, {"large.bin": transfer.LARGE}], ids=["small", "large"])
def test_folder_removed_while_it_is_filled_stays_gone(tmp_path: Path, there: Path, sizes: dict[str, int]) -> None:
    def removed_at_once(count: int) -> None:
        if there.exists():
            there.rename(tmp_path / "aside")
            shutil.rmtree(tmp_path / "aside")

    with pytest.raises(FolderGone, match="there is no folder"):
        send(LocalHost(), make_files(tmp_path, sizes), str(there), "key", on_bytes=removed_at_once)
    assert not there.exists()


@pytest.mark.parametrize("sizes", [{"frames/a.png": 300_000}, {"large.bin": transfer.LARGE}], ids=["small", "large"])
def test_folder_replaced_while_it_is_filled_is_gone(tmp_path: Path, there: Path, sizes: dict[str, int]) -> None:
    """Another controller removed it, and this one created it again in another thread."""

    def replaced_at_once(count: int) -> None:
        if not (tmp_path / "aside").exists():
            there.rename(tmp_path / "aside")
            there.mkdir()

    with pytest.raises(FolderGone, match="there is no folder"):
        send(LocalHost(), make_files(tmp_path, sizes), str(there), "key", on_bytes=replaced_at_once)
    assert list(there.iterdir()) == []


def test_names_are_found_whatever_cdpath_says(tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_files(tmp_path, {"large.bin": transfer.LARGE + 5})
    monkeypatch.setenv("CDPATH", f".:{tmp_path}")
    with pytest.raises(LinkLost):
        send(Breaking(after=transfer.LARGE // 2), files, str(there), "key")
    send(LocalHost(), files, str(there), "key")
    assert contents(there) == {"large.bin": files["large.bin"].read_bytes()}


def test_sent_bytes_are_counted(tmp_path: Path, there: Path) -> None:
    files = make_files(tmp_path, SIZES)
    counted: list[int] = []
    send(LocalHost(), files, str(there), "key", on_bytes=counted.append)
    assert sum(counted) >= sum(SIZES.values())
    assert len(counted) > 10


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nosuch"):
        fetch(LocalHost(), str(tmp_path), {"nosuch": 1}, tmp_path / "back")


def test_unrequested_file_is_refused(tmp_path: Path) -> None:
    files = make_files(tmp_path, {"a": 1, "b": 1})

    class Disobedient(LocalHost):
        def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
            return super().stream((*argv, "b"))

    with pytest.raises(HostError, match='"b"'):
        fetch(Disobedient(), str(files["a"].parent), {"a": files["a"].stat().st_size}, tmp_path / "back")
    assert not (tmp_path / "back" / "b").exists()
