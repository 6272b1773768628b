"""task=compare of pipelines: their videos, with what a reviewer chose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from src.choices import PairBy
from src.errors import InputError
from src.tasks.compare import compare
from tests.harness.rows import made_videos


def test_pipelines_without_upsampling_compare_videos(tmp_path: Path) -> None:
    folders = [str(made_videos(tmp_path / f"run {n}", tmp_path / "clip.mp4", "a")) for n in range(3)]
    choices = tmp_path / "choices.json"
    choices.write_text(json.dumps([{"name": "a", "run": folders[2], "sha256": "run 2 0", "at": ""}]))
    out = Console(record=True, width=200)
    compare(folders, PairBy.input, tmp_path, out, str(choices))
    assert "1 best videos chosen: first 0, second 0, third 1" in out.export_text()
    assert (tmp_path / "videos.html").is_file() and (tmp_path / "videos.csv").is_file()
    assert not (tmp_path / "compare.html").exists()


def test_choices_need_runs_with_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not all of these runs have videos"):
        compare([str(tmp_path), str(tmp_path / "other")], PairBy.input, tmp_path, Console(), "choices.json")
