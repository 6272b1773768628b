"""videos.html: the videos of a run, or of several, each under an address that leads to it."""

from __future__ import annotations

import csv
from pathlib import Path
from urllib.parse import unquote

import pytest

from src.errors import InputError
from src.reports.videos import Choice, check_choices, write_videos
from tests.harness.pages import Page
from tests.harness.rows import made_videos


@pytest.mark.parametrize("count", [1, 2])
def test_every_video_is_found_from_the_page(tmp_path: Path, count: int) -> None:
    clip = tmp_path / "a clip.mp4"
    clip.touch()
    runs = [made_videos(tmp_path / f"run {n}", clip, "<a>", "b") for n in range(count)]
    page = tmp_path / "pages" / "videos.html"
    page.parent.mkdir()
    write_videos(runs, page)
    read = Page(page)
    videos = [attributes for tag, attributes in read.tags if tag == "video"]
    assert len(videos) == 2 * (1 + 2 * count)
    assert all((page.parent / unquote(video["src"] or "")).is_file() for video in videos)
    assert not [tag for tag, _ in read.tags if tag in ("b", "i", "a")]


def test_run_without_videos_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"inference\.json"):
        write_videos([tmp_path], tmp_path / "videos.html")


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [made_videos(tmp_path / f"run {n}", tmp_path / "clip.mp4", "a", "b") for n in range(2)]


def test_choices_are_on_page_and_table(two: list[Path], tmp_path: Path) -> None:
    best = check_choices([Choice("b", str(two[1]), "run 1 1")], two)
    write_videos(two, tmp_path / "videos.html", best)
    buttons = [tag for _, tag in Page(tmp_path / "videos.html").tags if "data-choice" in tag]
    assert [button["aria-pressed"] for button in buttons] == ["false", "false", "false", "true"]
    table = list(csv.DictReader((tmp_path / "videos.csv").open()))
    assert [row["best"] for row in table] == ["", "2", ""]
    assert table[0]["asked_1"] == "edge control_weight 0.5 · seed 7, engine transfer1"


def test_each_wrong_choice_is_named(two: list[Path]) -> None:
    first = str(two[0])
    given = [
        Choice("a", first, "run 0 0"),
        Choice("a", first, ""),
        Choice("b", first, "other"),
        Choice("none", first, ""),
    ]
    with pytest.raises(InputError) as e:
        check_choices([*given, Choice("b", "elsewhere", "")], two)
    found = [line.strip() for line in str(e.value).splitlines()[1:]]
    assert [line.split(": ")[0] for line in found] == ["- a", "- b", "- none", "- b"]
    for line, words in zip(
        found, ("two choices", "another video", "no video of it", "not among the runs"), strict=True
    ):
        assert words in line
