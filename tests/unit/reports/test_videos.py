"""videos.html: the videos of a run, or of several, each under an address that leads to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from src.errors import InputError
from src.reports.videos import write_videos
from tests.harness.pages import Page


def run(root: Path, clip: Path, *names: str) -> Path:
    """A run folder with a video, and a control video, for each of these items."""
    rows: list[dict[str, Any]] = []
    for n, name in enumerate(names):
        files = {"video": f"videos/{n}, 雨.mp4", "edge": f"controls/{n}/edge.mp4"}
        for file in files.values():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        rows.append(
            {"name": name, "state": "done", "reason": "", "prompt": f"A <b>boat</b> {n}", "clip": str(clip),
             "video": files["video"], "controls": {"edge": files["edge"]}}
        )  # fmt: skip
    rows.append(
        {"name": "none", "state": "failed", "reason": "blocked <i>", "prompt": "x", "clip": None, "video": None}
    )
    (root / "inference.json").write_text(json.dumps(rows))
    return root


@pytest.mark.parametrize("count", [1, 2])
def test_every_video_is_found_from_the_page(tmp_path: Path, count: int) -> None:
    clip = tmp_path / "a clip.mp4"
    clip.touch()
    runs = [run(tmp_path / f"run {n}", clip, "<a>", "b") for n in range(count)]
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
