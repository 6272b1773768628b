"""Specs made of clips, of the command line and of lists; and the files they become."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.prompts.drafts import (
    MAX_TEXT_BYTES,
    Draft,
    clips_of_folder,
    draft_of_line,
    drafts_of_clips,
    files_for,
    write_files,
)
from src.prompts.specs import prompt_files, read_specs


def clip(path: Path, text: str | bytes | None = None) -> Path:
    """A file that is called as a clip is, and the text beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    if text is not None:
        path.with_suffix(".txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def read_again(out: Path) -> list[dict[str, Any]]:
    return [{"name": s.name, "prompt": s.prompt, "video": s.video} for s in read_specs(prompt_files(str(out)))]


# Made of clips


def test_clips_of_a_folder_are_its_videos_sorted(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "c.webm", "notes.txt", "prompts.json", ".hidden.mp4", "below/d.mp4"):
        clip(tmp_path / name)
    (tmp_path / "folder.mp4").mkdir()
    assert [p.name for p in clips_of_folder(tmp_path)] == ["a.MKV", "b.mp4", "c.webm"]


def test_prompt_is_the_given_one_or_the_text_beside_the_clip_or_empty(tmp_path: Path) -> None:
    clips = [clip(tmp_path / "a.mp4", "\ufeff A boat,\n at dusk 🚤 \n"), clip(tmp_path / "b.mp4")]
    drafts, problems = drafts_of_clips(clips, None)
    assert [d.prompt for d in drafts] == ["A boat,\n at dusk 🚤", ""]
    assert [d.prompt for d in drafts_of_clips(clips, "given")[0]] == ["given", "given"]
    assert [d.prompt for d in drafts_of_clips(clips, "")[0]] == ["", ""]
    assert problems == []


def test_clips_that_share_a_name_get_names_of_their_own(tmp_path: Path) -> None:
    clips = [clip(tmp_path / name) for name in ("a.mp4", "a.mov", "A.mkv", "x/a.mp4")]
    drafts, _ = drafts_of_clips(clips, "p")
    assert [d.name for d in drafts] == ["a", "a-2", "A-3", "a-4"]
    assert [d.video for d in drafts] == clips


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"caf\xe9", "a.txt: is not UTF-8"), (b"x" * (MAX_TEXT_BYTES + 1), "a.txt: is larger than")],
    ids=["latin-1", "large"],
)
def test_text_beside_a_clip_that_is_no_prompt_is_a_problem(tmp_path: Path, text: bytes, expected: str) -> None:
    clips = [clip(tmp_path / "a.mp4", text), clip(tmp_path / "b.mp4")]
    drafts, (problem,) = drafts_of_clips(clips, None)
    assert expected in problem
    assert [d.name for d in drafts] == ["b"]
    assert drafts_of_clips(clips, "given")[1] == []


def test_clip_whose_name_is_no_text_is_a_problem(tmp_path: Path) -> None:
    try:
        bad = clip(tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    except OSError:
        pytest.skip("the file system refuses names that are not UTF-8")
    _, problems = drafts_of_clips([bad], "p")
    assert problems
    assert all("surrogate" in problem for problem in problems)


# Made of the command line


def test_one_spec_is_described_by_its_video_name_and_prompt(tmp_path: Path) -> None:
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


def test_one_spec_without_video_and_prompt_is_a_problem() -> None:
    _, (problem,) = draft_of_line("x", None, "")
    assert problem == "spec.prompt: is empty, and there is no video_path either"


# Files


@pytest.mark.parametrize("out", ["inputs/prompts", "list.json", "läuft 雨 $1/x.JSON"])
def test_what_is_written_is_read_again_as_it_was(tmp_path: Path, out: str) -> None:
    clips = [clip(tmp_path / "clips é" / name, f'"{name}" \\ \u2028 🚗') for name in ("a b.mp4", "con.mp4", "雨.mp4")]
    drafts, _ = drafts_of_clips(clips, None)
    write_files(files_for(drafts, str(tmp_path / out), overwrite=False))
    found = read_again(tmp_path / out)
    assert sorted(found, key=str) == sorted(
        ({"name": d.name, "prompt": d.prompt, "video": d.video} for d in drafts), key=str
    )


def test_video_paths_are_relative_so_that_the_tree_can_move(tmp_path: Path) -> None:
    drafts, _ = drafts_of_clips([clip(tmp_path / "old" / "clips" / "a.mp4")], "p")
    write_files(files_for(drafts, str(tmp_path / "old" / "prompts"), overwrite=False))
    (tmp_path / "old").rename(tmp_path / "new")
    assert read_again(tmp_path / "new" / "prompts")[0]["video"] == tmp_path / "new" / "clips" / "a.mp4"


def test_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    drafts = [Draft.of(name, "p", None) for name in ("../../etc/passwd", "..", "a/b", "a", "A")]
    files = files_for(drafts, str(tmp_path / "out"), overwrite=False)
    assert len({str(file).lower() for file in files}) == len(drafts)
    assert {file.parent for file in files} == {tmp_path / "out"}


@pytest.mark.parametrize("out", ["out", "list.json"])
def test_file_that_is_there_is_not_overwritten_unless_asked(tmp_path: Path, out: str) -> None:
    first = [Draft.of(name, "first", None) for name in "ab"]
    write_files(files_for(first, str(tmp_path / out), overwrite=False))
    second = [Draft.of(name, "second", None) for name in "abc"]
    with pytest.raises(InputError, match=r"would be overwritten.*nothing was written") as caught:
        files_for(second, str(tmp_path / out), overwrite=False)
    assert "spec.overwrite=true" in str(caught.value)
    assert {found["prompt"] for found in read_again(tmp_path / out)} == {"first"}
    write_files(files_for(second, str(tmp_path / out), overwrite=True))
    assert {found["prompt"] for found in read_again(tmp_path / out)} == {"second"}


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        files_for([Draft.of("a", "p", None)], str(tmp_path / "out"), overwrite=True)


def test_specs_of_another_list_keep_their_own_fields(tmp_path: Path) -> None:
    video = clip(tmp_path / "in" / "a.mp4")
    item = {"visual_input": "a.mp4", "prompt": "p", "control_overrides": {"edge": {"control_weight": 1}}}
    (tmp_path / "in" / "batch.jsonl").write_text(json.dumps(item) + "\n" + json.dumps({"prompt": "q"}) + "\n")
    drafts = [Draft.from_spec(spec) for spec in read_specs([tmp_path / "in" / "batch.jsonl"])]
    write_files(files_for(drafts, str(tmp_path / "out"), overwrite=False))
    first, second = read_specs(prompt_files(str(tmp_path / "out")))
    assert (first.name, first.video, first.raw["control_overrides"]) == ("a-0001", video, item["control_overrides"])
    assert (second.name, second.prompt, second.video) == ("batch-0002", "q", None)
