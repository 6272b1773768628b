"""Names that become file names, and files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.files import is_safe_name, open_atomic, safe_name, write_atomic
from src.run_folder import RunPaths

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
    "ends with a blank": "robot ",
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
def test_safe_name_of_a_hostile_name_is_one_plain_file_name(name: str) -> None:
    safe = safe_name(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", safe)
    assert safe.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}
    assert not safe.endswith((".", " ", "\n"))


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_file_of_a_hostile_name_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "specs"
    write_atomic(folder / f"{safe_name(name)}.json", "{}")
    assert [p.parent for p in folder.iterdir()] == [folder]
    assert [p.name for p in tmp_path.iterdir()] == ["specs"]


def test_hostile_names_get_distinct_safe_names() -> None:
    assert len({safe_name(name).lower() for name in HOSTILE.values()}) == len(HOSTILE)


@settings(max_examples=100)
@given(names=st.lists(st.text(max_size=30), min_size=2, max_size=20, unique=True))
def test_distinct_names_get_distinct_safe_names(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("one", "other"), [("a/b", "a b"), ("a/b", "a-b"), ("é", "è"), ("\ud800", "\ud801"), ("x" * 101, "x" * 102)]
)
def test_names_that_look_alike_once_cleaned_stay_apart(one: str, other: str) -> None:
    assert safe_name(one) != safe_name(other)


@settings(max_examples=300)
@given(name=st.text())
def test_safe_name_is_safe_and_the_same_every_time(name: str) -> None:
    assert is_safe_name(safe_name(name))
    assert safe_name(name) == safe_name(name)
    assert safe_name(safe_name(name)) == safe_name(name)


@pytest.mark.parametrize("name", ["robot_arm", "clip-01.take2", "A", "0", "x" * 100, "console", "com10x"])
def test_safe_name_keeps_a_name_that_is_safe_already(name: str) -> None:
    assert safe_name(name) == name


def test_safe_name_keeps_what_people_recognise() -> None:
    assert safe_name("Robot arm: take 2").startswith("Robot-arm-take-2-")


@pytest.mark.parametrize("data", ["", "text\r\nwith\nlines\r", "红色🚗\u2028", b"", b"\x00\xff\r\n"], ids=repr)
def test_write_atomic_writes_exactly_these_bytes(tmp_path: Path, data: bytes | str) -> None:
    write_atomic(tmp_path / "new" / "folder" / "file", data)
    expected = data.encode() if isinstance(data, str) else data
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == expected
    assert os.listdir(tmp_path / "new" / "folder") == ["file"]


def test_write_atomic_replaces_an_older_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("older and longer")
    before = file.stat().st_ino
    with open(file) as reader:
        write_atomic(file, "new")
        assert reader.read() == "older and longer"  # who reads the old file reads all of it
    assert file.read_text() == "new"
    assert file.stat().st_ino != before


def test_failed_write_leaves_the_older_file_and_no_part(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "older")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "file", "half a pair: \ud800")
    assert (tmp_path / "file").read_text() == "older"
    assert os.listdir(tmp_path) == ["file"]


def test_write_onto_a_folder_fails_and_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=lambda e: e.__name__)
def test_block_that_ends_badly_leaves_no_file_and_no_part(tmp_path: Path, error: type[BaseException]) -> None:
    def half_way() -> None:
        with open_atomic(tmp_path / "plan.json") as f:
            f.write("{")
            raise error

    with pytest.raises(error):
        half_way()
    assert os.listdir(tmp_path) == []


def test_file_is_not_there_while_it_is_written(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "plan.json") as f:
        f.write("{}")
        f.flush()
        assert not (tmp_path / "plan.json").exists()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".")  # hidden, and no suffix that prompt folders look for
        assert part.suffix != ".json"
    assert (tmp_path / "plan.json").read_text() == "{}"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "file") as one, open_atomic(tmp_path / "file") as other:
        one.write("one")
        other.write("other")
    assert (tmp_path / "file").read_text() == "one"  # whole, and of the writer that ended last
    assert os.listdir(tmp_path) == ["file"]


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", "text")
    (tmp_path / "plain").write_text("text")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_run_paths_are_distinct_lie_in_the_run_folder_and_are_not_made(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    found = [getattr(paths, name) for name in dir(RunPaths) if isinstance(getattr(RunPaths, name), property)]
    assert len(set(found)) == len(found) >= 11
    assert all(path.parent == paths.root for path in found)
    assert not paths.root.exists()
