"""Where the path of a clip leads."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from src.prompts.paths import find_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/a b.mp4", "in/sub/c.mp4", "clips/d.mp4", "assets/e.mp4", unicodedata.normalize("NFD", "in/é.mp4")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("written", "found", "note"),
    [
        ("a b.mp4", "in/a b.mp4", ""),
        (" a b.mp4 ", "in/a b.mp4", "blanks"),
        ("sub\\c.mp4", "in/sub/c.mp4", "in place of"),
        ("d.mp4", "clips/d.mp4", "clip found in"),
        ("assets/e.mp4", "assets/e.mp4", "clip found in"),  # a folder above the file
        ("é.mp4", unicodedata.normalize("NFD", "in/é.mp4"), "NFD"),
        ("none.mp4", "in/none.mp4", ""),
    ],
)
def test_clip_is_found_as_it_was_meant(folder: Path, written: str, found: str, note: str) -> None:
    path, said = find_file(folder / "in", written, (str(folder / "clips"),))
    assert path == folder / found
    assert note in said and bool(note) == bool(said)


def test_file_address_is_a_path(folder: Path) -> None:
    assert find_file(Path("/"), f"file://{folder}/in/a%20b.mp4")[0] == folder / "in" / "a b.mp4"


def test_other_addresses_are_no_paths_below() -> None:
    assert str(find_file(Path("/in"), "s3://bucket/a.mp4")[0]) == "s3:/bucket/a.mp4"


def test_file_as_written_comes_first(folder: Path) -> None:
    (folder / "in" / " a b.mp4 ").touch()
    assert find_file(folder / "in", " a b.mp4 ") == (folder / "in" / " a b.mp4 ", "")
