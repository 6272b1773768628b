"""Specs made from clips, from the command line and from lists, and the files they are written to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.prompts.drafts import (
    Draft,
    clips_of_folder,
    draft_of_line,
    drafts_of_clips,
    files_for,
    unread_clips,
    write_files,
)
from src.prompts.specs import MAX_TEXT_BYTES, prompt_files, read_specs


def clip(path: Path, text: str | bytes | None = None) -> Path:
    """An empty file with the name of a clip, and a text file next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    if text is not None:
        path.with_suffix(".txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read_back(out: Path) -> list[dict[str, Any]]:
    return [{"name": s.name, "prompt": s.prompt, "video": s.video} for s in read_specs(prompt_files(str(out)))]


# From clips


def test_clips_of_a_folder_are_sorted(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "c.webm", "notes.txt", "prompts.json", ".hidden.mp4", "below/d.mp4"):
        clip(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    assert [p.name for p in clips_of_folder(tmp_path)] == ["a.MKV", "b.mp4", "c.webm"]


def test_prompt_comes_from_option_or_text_file(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "a.mp4", "\ufeff A boat,\n at dusk 🚤 \n"), clip(tmp_path / "b.mp4")]
    drafts, problems = drafts_of_clips(clips, None)
    assert [d.prompt for d in drafts] == ["A boat,\n at dusk 🚤", ""]
    assert [d.prompt for d in drafts_of_clips(clips, "given")[0]] == ["given", "given"]
    assert [d.prompt for d in drafts_of_clips(clips, "")[0]] == ["", ""]
    assert problems == []


def test_drafts_have_unique_names(tmp_path: Path) -> None:
    clips = [clip(tmp_path / name) for name in ("a.mp4", "a.mov", "A.mkv", "x/a.mp4")]
    drafts, _ = drafts_of_clips(clips, "p")
    assert [d.name for d in drafts] == ["a", "a-2", "A-3", "a-4"]
    assert [d.video for d in drafts] == clips


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"caf\xe9", "a.txt: is not UTF-8"), (b"x" * (MAX_TEXT_BYTES + 1), "a.txt: is larger than")],
    ids=["latin-1", "large"],
)
def test_invalid_text_file_is_a_problem(tmp_path: Path, text: bytes, expected: str) -> None:
    clips = [clip(tmp_path / "a.mp4", text), clip(tmp_path / "b.mp4")]
    drafts, (problem,) = drafts_of_clips(clips, None)
    assert expected in problem
    assert [d.name for d in drafts] == ["b"]
    assert drafts_of_clips(clips, "given")[1] == []


def test_clip_name_must_be_valid_text(tmp_path: Path) -> None:
    try:
        bad = clip(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    except OSError:
        pytest.skip("the file system refuses names that are not UTF-8")
    _, problems = drafts_of_clips([bad], "p")
    assert problems
    assert all("surrogate" in problem for problem in problems)


# From the command line


def test_command_line_describes_one_spec(tmp_path: Path) -> None:
    video = clip(tmp_path / "boat.mp4", "beside")
    described = [
        draft_of_line("", None, str(video)),
        draft_of_line("x", "given", str(video)),
        draft_of_line("t", "p", ""),
    ]
    assert [problems for _, problems in described] == [[], [], []]
    assert [(d[0].name, d[0].prompt, d[0].video) for d, _ in described] == [
        ("boat", "beside", video),
        ("x", "given", video),
        ("t", "p", None),
    ]


def test_spec_needs_video_or_prompt() -> None:
    _, (problem,) = draft_of_line("x", None, "")
    assert problem == "spec.prompt: is empty, and there is no video_path either"


# Files


@pytest.mark.parametrize("out", ["inputs/prompts", "list.json", "läuft 雨 $1/x.JSON"])
def test_written_specs_are_read_back(tmp_path: Path, out: str) -> None:
    clips = [clip(tmp_path / "clips é" / name, f'"{name}" \\ \u2028 🚗') for name in ("a b.mp4", "con.mp4", "雨.mp4")]
    drafts, _ = drafts_of_clips(clips, None)
    write_files(files_for(drafts, str(tmp_path / out), overwrite=False))
    found = read_back(tmp_path / out)
    assert sorted(found, key=str) == sorted(
        ({"name": d.name, "prompt": d.prompt, "video": d.video} for d in drafts), key=str
    )


def test_written_video_paths_are_relative(tmp_path: Path) -> None:
    drafts, _ = drafts_of_clips([clip(tmp_path / "old" / "clips" / "a.mp4")], "p")
    write_files(files_for(drafts, str(tmp_path / "old" / "prompts"), overwrite=False))
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_back(tmp_path / "new" / "prompts")[0]["video"] == tmp_path / "new" / "clips" / "a.mp4"


def test_files_stay_inside_the_folder(tmp_path: Path) -> None:
    drafts = [Draft.of(name, "p", None) for name in ("../../etc/passwd", "..", "a/b", "a", "A")]
    files = files_for(drafts, str(tmp_path / "out"), overwrite=False)
    assert len({str(file).lower() for file in files}) == len(drafts)
    assert {file.parent for file in files} == {tmp_path / "out"}


@pytest.mark.parametrize("out", ["out", "list.json"])
def test_existing_file_is_overwritten_only_on_request(tmp_path: Path, out: str) -> None:
    first = [Draft.of(name, "first", None) for name in "ab"]
    write_files(files_for(first, str(tmp_path / out), overwrite=False))
    second = [Draft.of(name, "second", None) for name in "abc"]
    with pytest.raises(InputError, match=r"would be overwritten.*nothing was written") as caught:
        files_for(second, str(tmp_path / out), overwrite=False)
    assert "spec.overwrite=true" in str(caught.value)
    assert {found["prompt"] for found in read_back(tmp_path / out)} == {"first"}
    write_files(files_for(second, str(tmp_path / out), overwrite=True))
    assert {found["prompt"] for found in read_back(tmp_path / out)} == {"second"}


def test_file_instead_of_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        files_for([Draft.of("a", "p", None)], str(tmp_path / "out"), overwrite=True)


def test_specs_of_a_list_keep_their_fields(tmp_path: Path) -> None:
    video = clip(tmp_path / "in" / "a.mp4")
    item = {"visual_input": "a.mp4", "prompt": "p", "control_overrides": {"edge": {"control_weight": 1}}}
    (tmp_path / "in" / "batch.jsonl").write_text(json.dumps(item) + "\n" + json.dumps({"prompt": "q"}) + "\n")
    drafts = [Draft.from_spec(spec) for spec in read_specs([tmp_path / "in" / "batch.jsonl"])]
    write_files(files_for(drafts, str(tmp_path / "out"), overwrite=False))
    first, second = read_specs(prompt_files(str(tmp_path / "out")))
    assert (first.name, first.video, first.raw["control_overrides"]) == ("a-0001", video, item["control_overrides"])
    assert (second.name, second.prompt, second.video) == ("batch-0002", "q", None)


def test_clips_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.flv", "c.wmv", ".d.flv", "notes.txt"):
        (tmp_path / name).touch()
    assert unread_clips(tmp_path) == ["b.flv", "c.wmv"]
