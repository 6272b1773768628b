"""Safe file names, and files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.files import (
    aside_of,
    clear_asides,
    file_sha256,
    folder_atomic,
    is_safe_name,
    link_atomic,
    open_atomic,
    safe_name,
    write_atomic,
)

HOSTILE = {
    "parent": "..",
    "here": ".",
    "climbing": "../../etc/passwd",
    "absolute": "/etc/passwd",
    "windows path": "C:\\Windows\\system32",
    "NUL": "a\0b",
    "newline": "a\nb",
    "ends with a newline": "robot\n",
    "escape": "\x1b[2J",
    "empty": "",
    "blank": "   ",
    "ends with a space": "robot ",
    "dots": "...",
    "hidden": ".hidden",
    "option": "-rf",
    "ends with a dot": "robot.",
    "emoji": "🚗💨",
    "chinese": "红色的汽车",
    "right to left": "gpj\u202eexe",
    "device": "CON",
    "device with suffix": "nul.txt",
    "device in capitals": "Com1",
    "long": "x" * 500,
    "long emoji": "🚗" * 100,
    "half a surrogate pair": "\ud800",
    "shell": "$(reboot); `ls` & | > * ? ' \"",
    "tilde": "~root",
    "alternate stream": "a:b",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_safe_name_is_one_plain_file_name(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", safe)
    assert safe.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    assert not safe.endswith((".", " ", "\n"))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_file_of_safe_name_stays_inside(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    write_atomic(folder / f"{safe_name(name)}.json", "{}")
    assert [p.parent for p in folder.iterdir()] == [folder]
    assert [p.name for p in tmp_path.iterdir()] == ["specs"]


def test_hostile_names_have_distinct_safe_names() -> None:
    assert len({safe_name(name).lower() for name in HOSTILE.values()}) == len(HOSTILE)


@given(names=st.lists(st.text(max_size=30), min_size=2, max_size=20, unique=True))
def test_distinct_names_have_distinct_safe_names(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("one", "other"), [("a/b", "a b"), ("a/b", "a-b"), ("é", "è"), ("\ud800", "\ud801"), ("x" * 101, "x" * 102)]
)
def test_similar_names_have_distinct_safe_names(one: str, other: str) -> None:
    assert safe_name(one) != safe_name(other)


@given(name=st.text())
def test_safe_name_is_safe_and_stable(name: str) -> None:
    assert is_safe_name(safe_name(name))
    assert safe_name(name) == safe_name(name)
    assert safe_name(safe_name(name)) == safe_name(name)


@pytest.mark.parametrize("name", ["robot_arm", "clip-01.take2", "A", "0", "x" * 100, "console", "com10x"])
def test_safe_names_are_not_changed(name: str) -> None:
    assert safe_name(name) == name


def test_safe_name_stays_recognizable() -> None:
    assert safe_name("Robot arm: take 2").startswith("Robot-arm-take-2-")


@pytest.mark.parametrize("data", ["", "text\r\nwith\nlines\r", "红色🚗\u2028", b"", b"\x00\xff\r\n"], ids=repr)
def test_write_atomic_writes_exact_bytes(tmp_path: Path, data: bytes | str) -> None:
    write_atomic(tmp_path / "new" / "folder" / "file", data)
    expected = data.encode() if isinstance(data, str) else data
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected
    assert os.listdir(tmp_path / "new" / "folder") == ["file"]


def test_write_atomic_replaces_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("older and longer")
    before = file.stat().st_ino
    with open(file) as reader:
        write_atomic(file, "new")
        assert reader.read() == "older and longer"  # an open reader keeps the whole old file
    assert file.read_text() == "new"
    assert file.stat().st_ino != before


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "older")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "half a pair: \ud800")
    assert (tmp_path / "file").read_text() == "older"
    assert os.listdir(tmp_path) == ["file"]


def test_failed_write_onto_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=lambda e: e.__name__)
def test_failed_block_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with open_atomic(tmp_path / "plan.json") as f:
            f.write("{")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_file_is_invisible_while_written(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "plan.json") as f:
        f.write("{}")
        f.flush()
        assert not (tmp_path / "plan.json").exists()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".")  # hidden, and without a suffix of prompt files
        assert part.suffix != ".json"
    assert (tmp_path / "plan.json").read_text() == "{}"


def test_parallel_writers_do_not_mix(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "file") as one, open_atomic(tmp_path / "file") as other:
        one.write("one")
        other.write("other")
    assert (tmp_path / "file").read_text() == "one"  # whole, by the writer that ended last
    assert os.listdir(tmp_path) == ["file"]


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "text")
    (tmp_path / "plain").write_text("text")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


# Folders, links, hashes


def test_folder_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with folder_atomic(tmp_path / "dataset") as folder:
            (folder / content).write_text(content)
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["new"]
    assert os.listdir(tmp_path) == ["dataset"]


def test_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with folder_atomic(tmp_path / "dataset") as folder:
        (folder / "old").touch()

    def interrupted() -> None:
        with folder_atomic(tmp_path / "dataset") as folder:
            (folder / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["old"]
    assert os.listdir(tmp_path) == ["dataset"]


@pytest.mark.parametrize("links", [True, False], ids=["link", "copy"])
def test_link_has_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """A copy, on a file system without links."""

    def refuse(*_: object) -> None:
        raise OSError

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "source").write_text("content")
    (tmp_path / "symlink").symlink_to("source")
    link_atomic(tmp_path / "symlink", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_text() == "content"
    assert (tmp_path / "new" / "target").samefile(tmp_path / "source") is links
    assert os.listdir(tmp_path / "new") == ["target"]


def test_link_leaves_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "target").write_text("old")
    link_atomic(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "old"


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_only_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    file, own = tmp_path / "hint.json", aside_of(tmp_path / "hint.json")
    dead = own.with_name(own.name.replace(f"-{os.getpid()}-", "-999999999-"))
    elsewhere = own.with_name(f".hint.json.part-another-host-{os.getpid()}-00000000")
    for path in (file, own, elsewhere):
        path.touch()
    dead.mkdir()
    clear_asides(tmp_path, tmp_path / "nosuch")
    assert sorted(tmp_path.iterdir()) == sorted([file, own, elsewhere])


def test_written_file_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.touch(mode=0o600)
    write_atomic(file, "[]")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_full_disk_is_named_by_its_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as error, open_atomic(tmp_path / "plan.json"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does
    assert error.value.filename == str(tmp_path / "plan.json")


def test_links_of_one_file_do_not_race(tmp_path: Path) -> None:
    """Two hints may share a frame, and be ready at the same time."""
    (tmp_path / "source").write_bytes(b"frame")
    targets = [tmp_path / "frames" / str(n) for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for target in targets:
            list(pool.map(lambda _, to=target: link_atomic(tmp_path / "source", to), range(4)))
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == sorted(target.name for target in targets)
