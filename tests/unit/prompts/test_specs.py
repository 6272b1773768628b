"""Items of prompt files: paths and names, problems by file, item and field, and which files `prompts=` names."""

from __future__ import annotations

import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError, SpecError
from src.prompts.fields import Reading
from src.prompts.specs import prompt_files, read_specs
from tests.unit.prompts.conftest import TEXT_FORMATS, TWO, Items, Write, as_lines, problems, specs

# Paths and names


def test_video_path_is_relative_to_its_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (spec,) = specs(write('[{"prompt": "a", "video_path": "../clips/a.mp4"}]', "in/prompts.json"))
    assert spec.video == tmp_path / "clips" / "a.mp4"
    assert spec.video_path == "../clips/a.mp4"


def test_folders_may_have_equal_relative_paths(write: Write, tmp_path: Path) -> None:
    one = write('[{"name": "x", "prompt": "a", "video_path": "v.mp4"}]', "a/p.json")
    two = write('[{"name": "y", "prompt": "a", "video_path": "v.mp4"}]', "b/p.json")
    assert [s.video for s in specs(one, two)] == [tmp_path / "a" / "v.mp4", tmp_path / "b" / "v.mp4"]


def test_absolute_and_home_paths_are_kept(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = write('[{"prompt": "a", "video_path": "/data/a.mp4"}, {"prompt": "b", "video_path": "~/b.mp4"}]')
    assert [s.video for s in specs(file)] == [Path("/data/a.mp4"), tmp_path / "home" / "b.mp4"]


def test_slug_is_a_safe_file_name(write: Write) -> None:
    (spec,) = specs(write('[{"name": "../../etc/passwd", "prompt": "a"}]'))
    assert spec.name == "../../etc/passwd"
    assert "/" not in spec.slug


def test_slugs_are_unique_ignoring_case(write: Write) -> None:
    found = specs(write(json.dumps([{"name": n, "prompt": "a"} for n in ("Robot", "robot", "ROBOT")])))
    assert len({s.slug.lower() for s in found}) == 3


def test_replacement_slug_is_unique_too(write: Write) -> None:
    found = specs(write(json.dumps([{"name": n, "prompt": "a"} for n in ("a", "A-2", "A")])))
    assert len({s.slug.lower() for s in found}) == 3


@pytest.mark.parametrize("path", ["~tmp.mp4", "~no_such_user/a.mp4"])
def test_tilde_without_user_is_a_file_name(write: Write, tmp_path: Path, path: str) -> None:
    (spec,) = specs(write(json.dumps([{"prompt": "a", "video_path": path}])))
    assert spec.video == tmp_path / path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spec.json", '{"prompt": "a", "input_video_path": "v.mp4"}'),
        ("batch.jsonl", '{"prompt": "a", "visual_input": "v.mp4"}\n{"prompt": "b", "visual_input": "v.mp4"}\n'),
    ],
    ids=["controlnet specs in folders", "batch files over one clip"],
)
def test_default_names_are_unique(write: Write, name: str, content: str) -> None:
    found = specs(write(content, f"a/{name}"), write(content, f"b/{name}"))
    assert len({s.name for s in found}) == len(found)


# Problems


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"prompt": 5}, "item 1, prompt: is a number, not text"),
        ({"prompt": ["a"]}, "item 1, prompt: is a list, not text"),
        ({"prompt": True}, "item 1, prompt: is true or false, not text"),
        ({"prompt": "a", "name": {"x": 1}}, "item 1, name: is an object, not text"),
        ({"prompt": "a", "video_path": 1.5}, "item 1, video_path: is a number, not text"),
        ({"prompt": "a", "metadata": [1]}, "item 1, metadata: is a list, not an object"),
        ({"prompt": "a", "upsampling_params": 7}, "item 1, upsampling_params: is a number, not an object"),
        ({"prompt": ""}, "item 1, prompt: is empty, and there is no video_path either"),
        ({"prompt": " \n"}, "item 1, prompt: is empty, and there is no video_path either"),
        ({"prompt": None}, "item 1, prompt: is empty, and there is no video_path either"),
        ({"video_path": ""}, "item 1, prompt: is empty, and there is no video_path either"),
        ({}, "item 1, prompt: is empty, and there is no video_path either"),
        ({"prompt": "a", "video_path": "a\0b.mp4"}, "item 1, video_path: contains a NUL character"),
        ({"prompt": "a\ud800"}, "item 1, prompt: contains half of a surrogate pair"),
        ({"prompt": "a", "video_path": "\udfff.mp4"}, "item 1, video_path: contains half of a surrogate pair"),
        ({"prompt": "a", "name": "n" * 201}, "item 1, name: is 201 characters long, more than 200"),
        (
            {"prompt": "a", "video_path": "a.mp4", "visual_input": "b.mp4"},
            "item 1, video_path and visual_input: name different videos",
        ),
        (None, "item 1, the whole item: is null, not an object"),
        ("text", "item 1, the whole item: is text, not an object"),
        ([], "item 1, the whole item: is a list, not an object"),
        (3, "item 1, the whole item: is a number, not an object"),
    ],
)
def test_problem_names_file_item_and_field(write: Write, item: Any, expected: str) -> None:
    (problem,) = problems(write(json.dumps([item])))
    assert problem.startswith(f"prompts.json, {expected}")


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "", "video_path": "a.mp4"},
        {"prompt": None, "video_path": "a.mp4"},
        {"video_path": "a.mp4", "visual_input": "a.mp4"},
        {"prompt": "a", "video_path": None, "metadata": None},
        {"prompt": "a", "name": "n" * 200},
        {"prompt": "a", "metadata": "as a CSV has it"},
    ],
)
def test_unusual_valid_item_is_accepted(write: Write, item: dict[str, Any]) -> None:
    assert len(specs(write(json.dumps([item])))) == 1


@pytest.mark.parametrize(
    ("item", "field", "meant"),
    [
        ({"promt": "a boat", "video_path": "a.mp4"}, "promt", "prompt"),
        ({"prompt": "a boat", "video_pth": "a.mp4"}, "video_pth", "video_path"),
    ],
)
def test_misspelled_field_is_a_problem(write: Write, item: dict[str, str], field: str, meant: str) -> None:
    [problem] = problems(write(json.dumps([item])))
    assert f"{field}: unknown field; did you mean {meant}?" in problem


def test_other_fields_may_have_similar_names(write: Write) -> None:
    item = {"prompt": "a", "prompts": "b", "video_path": "a.mp4", "video_paths": [], "shot": 1}
    assert len(specs(write(json.dumps([item])))) == 1


@pytest.mark.parametrize(
    "field", ['"x": "\\ud800"', '"x": {"y": ["\\udc00"]}', '"\\ud800": 1'], ids=["text", "deep", "key"]
)
def test_half_a_surrogate_pair_is_a_problem(write: Write, field: str) -> None:
    (problem,) = problems(write(f'[{{"prompt": "a", {field}}}]'))
    assert problem.startswith("prompts.json, item 1")


def test_problems_of_all_files_are_listed(write: Write) -> None:
    one = write('[{"prompt": 5, "video_path": 6}, {"prompt": "fine"}, {"prompt": ""}, {"prompt": "a"}', "1.json")
    two = write('{"prompt": "a"}\n{"prompt": \n{"name": 7}\nnull\n', "2.jsonl")
    three = write("", "3.json")
    four = write('{"prompt": "b"}', "4.json")
    missing = one.with_name("5.json")
    found = problems(one, two, three, four, missing)
    assert [p.split(": ")[0] for p in found] == [
        "1.json, item 1, prompt",
        "1.json, item 1, video_path",
        "1.json, item 3, prompt",
        "1.json:1:85",
        "2.jsonl:2:11",
        "2.jsonl, line 4, the whole item",
        "2.jsonl",
        "3.json",
        "5.json",
    ]


@TEXT_FORMATS
def test_repeated_name_is_reported_with_both_places(write: Write, form: Callable[[Items], str]) -> None:
    (problem,) = problems(write(form([TWO[0], TWO[1], TWO[0]])))
    assert '"one" is also the name of' in problem
    places = {"list": ("item 3", "item 1"), "lines": ("line 3", "line 1"), "csv": ("line 4", "line 2")}
    assert any(all(place in problem for place in pair) for pair in places.values())


def test_message_lists_50_problems(write: Write) -> None:
    with pytest.raises(SpecError) as caught:
        specs(write(json.dumps([{"prompt": n} for n in range(120)])))
    assert len(caught.value.problems) == 120
    assert str(caught.value).count("not text") == 50
    assert "120 problems" in str(caught.value)
    assert "and 70 more" in str(caught.value)


def test_foreign_text_in_messages_is_short(write: Write) -> None:
    (problem,) = problems(write('[{"prompt": "a"} "\\u001b' + "x" * 5000 + '"]'))
    assert len(problem) < 300
    bad = problems(write(json.dumps([{"name": "a\x1b[2J", "prompt": "a"}] * 2)))
    assert "\x1b" not in "".join(bad)


@pytest.mark.parametrize("char", ["\x9b", "\x7f", "\u202e", "\u2066"], ids=lambda c: f"U+{ord(c):04X}")
def test_messages_have_only_printable_characters(write: Write, char: str) -> None:
    (problem,) = problems(write(json.dumps([{"name": f"a{char}b", "prompt": "a"}] * 2)))
    assert problem.isprintable()


# Names and shapes of other tools


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "A car", "vision_path": "a.mp4"},
        {"Video Path": "a.mp4", "TEXT": "A car"},
        {"video-prompt": "A car", "inputVideo": "a.mp4"},
        {"file_name": "a.mp4", "text": "A car"},
        {"caption": "A car", "path": "a.mp4"},
        {"prompt_en": "A car", "video": {"path": "a.mp4"}, "prompt_path": "ignored.txt"},
        {"videos": ["a.mp4"], "messages": [{"role": "user", "content": "<video>A car"}]},
    ],
)
def test_fields_of_other_tools_are_read(write: Write, item: dict[str, Any]) -> None:
    (spec,) = specs(write(json.dumps(item)))
    assert (spec.prompt, spec.video_path) == ("A car", "a.mp4")


def test_usual_names_count_before_others(write: Write) -> None:
    item = {"caption": "b", "prompt": "a", "filename": "b.mp4", "video_path": "a.mp4", "fps": 24}
    (spec,) = specs(write(json.dumps([item])))
    assert (spec.prompt, spec.video_path) == ("a", "a.mp4")
    assert spec.unused == ("caption", "filename", "fps")


@pytest.mark.parametrize("field", ["file", "path", "filename", "media"])
def test_common_words_name_a_clip_only_by_its_suffix(write: Write, field: str) -> None:
    (spec,) = specs(write(json.dumps([{"prompt": "a", field: "take 3"}])))
    assert (spec.video, spec.unused) == (None, (field,))


def test_columns_name_unusual_fields(write: Write) -> None:
    file = write("Shot,Words,prompt\na.mp4,A car,b\n", "list.csv")
    (spec,) = read_specs([file], Reading(video_column="shot", prompt_column="words"))
    assert (spec.prompt, spec.video_path, spec.unused) == ("A car", "a.mp4", ("prompt",))
    with pytest.raises(SpecError, match=r"columns.video=Take: no item has such a field; there are Shot, Words, prompt"):
        list(read_specs([file], Reading(video_column="Take")))


def test_unknown_fields_are_one_problem_per_file(write: Write) -> None:
    (problem,) = problems(write(as_lines([{"alpha": "a", "beta": n} for n in range(40)]), "p.jsonl"))
    assert "40 items name neither a prompt nor a clip (the first: line 1)" in problem
    assert "alpha, beta" in problem and "columns.prompt=NAME" in problem


def test_existing_clip_in_an_unused_field_is_refused(write: Write) -> None:
    write(b"x", "a.mp4")
    (problem,) = problems(write('[{"prompt": "a", "my_take": "a.mp4"}]'))
    assert "item 1, my_take: names the clip" in problem
    for item in ({"mask_video": "a.mp4"}, {"my_take": "b.mp4"}, {"my_take": "./a.mp4", "video": "a.mp4"}):
        assert len(specs(write(json.dumps([{"prompt": "a", **item}])))) == 1


def test_field_with_a_very_long_text_names_no_clip(write: Write) -> None:
    (spec,) = specs(write(json.dumps([{"prompt": "a", "notes": "x" * 300 + " clip.mp4"}])))
    assert spec.video is None


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [value], lambda value: {"path": value}])
def test_wrapped_values_are_checked_like_plain_ones(write: Write, wrap: Callable[[str], object]) -> None:
    """A list of one, or a dataset's file."""
    for field, value, wrong in (
        ("video_url", "https://u:pw@host/x.mp4", "address with a password"),
        ("video", "a\0.mp4", "NUL character"),
        ("prompt_file", "a\0", "NUL character"),
    ):
        (problem,) = problems(
            write(json.dumps([{"prompt": "" if field == "prompt_file" else "a", field: wrap(value)}]))
        )
        assert wrong in problem


def test_column_named_by_the_user_must_be_text(write: Write) -> None:
    file = write('[{"caption": "x", "captions": ["a", "b"]}]')
    with pytest.raises(SpecError) as caught:
        list(read_specs([file], Reading(prompt_column="captions")))
    assert "captions: is a list, not text" in caught.value.problems[0]


def test_prompt_may_be_in_a_file(write: Write) -> None:
    write(b"\xef\xbb\xbfA train.\n", "texts/train.txt")
    (spec,) = specs(write('{"prompt_path": "texts/train.txt", "video_path": "a.mp4"}'))
    assert spec.prompt == "A train."
    (problem,) = problems(write('{"prompt_path": "texts/none.txt"}'))
    assert "prompt_path" in problem and "none.txt cannot be read" in problem


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (
            '{"samples": {"one": {"prompt": "A"}, "two": {"prompt": "B"}}, "seed": 1, "metadata": {"a": {"path": "m"}}}',
            "s.json",
            [("one", "A"), ("two", "B")],
        ),
        ('{"data": [{"name": "x", "caption": "A"}]}', "d.json", [("x", "A")]),
        ('{"items": [\n{"name": "x", "prompt": "A"}\n]}', "d.json", [("x", "A")]),
        ('{"prompt":\n"A"\n}', "d.json", [("d", "A")]),
        ('{"a.mp4": "A", "b.mp4": "B"}', "captions.json", [("a-0001", "A"), ("b-0002", "B")]),
        (
            "A car.\n\n  A dog, running.\n",
            "prompts.txt",
            [("prompts-0001", "A car."), ("prompts-0002", "A dog, running.")],
        ),
        ("[wide] A car.\nA dog.", "prompts.txt", [("prompts-0001", "[wide] A car."), ("prompts-0002", "A dog.")]),
        ("name;prompt\nx;A, with a comma\n;;\n", "e.csv", [("x", "A, with a comma")]),
        ("name\tprompt\t\nx\tA\t\n", "e.tsv", [("x", "A")]),
        ("name\tprompt\nx\tA ü\n".encode("utf-16"), "unicode.csv", [("x", "A ü")]),
        ("name,prompt\nx,Ein Käse\n".encode("cp1252"), "old.csv", [("x", "Ein Käse")]),
    ],
)
def test_shapes_of_other_tools_are_read(write: Write, content: str | bytes, name: str, expected: list[Any]) -> None:
    assert [(s.name, s.prompt) for s in specs(write(content, name))] == expected


def test_request_gives_its_text(write: Write) -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": "A car"}]
    line = {
        "custom_id": "i",
        "method": "POST",
        "url": "/v1",
        "body": {"messages": [{"role": "user", "content": parts}]},
    }
    (spec,) = specs(write(json.dumps(line) + "\n", "openai_batch.jsonl"))
    assert (spec.name, spec.prompt, spec.unused) == ("i", "A car", ("pictures of the request",))


def test_items_in_two_lists_are_a_problem(write: Write) -> None:
    (problem,) = problems(write('{"train": [{"prompt": "a"}], "val": [{"prompt": "b"}, {"prompt": "c"}], "n": 3}'))
    assert problem == 'prompts.json: has items in "train" and in "val"; keep one of them in a file'


@pytest.mark.parametrize("other", ["validation", "annotations"])
def test_list_beside_samples_is_not_dropped(write: Write, other: str) -> None:
    (problem,) = problems(write(json.dumps({"samples": [{"prompt": "a"}], other: [{"prompt": "b"}]})))
    assert f'has items in "samples" and in "{other}"' in problem


def test_text_of_a_request_may_be_in_a_list(write: Write) -> None:
    line = {"messages": [{"role": "user", "content": [{"type": "text", "text": ["A car"]}]}]}
    (spec,) = specs(write(json.dumps(line) + "\n", "requests.jsonl"))
    assert spec.prompt == "A car"


def changed(file: Path, part: str, old: str, new: str) -> Path:
    """A workbook with one text of one of its parts replaced."""
    with zipfile.ZipFile(file) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    assert old.encode() in parts[part]
    with zipfile.ZipFile(file, "w") as book:
        for name, data in parts.items():
            book.writestr(name, data.replace(old.encode(), new.encode()) if name == part else data)
    return file


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["name", "prompt", "video"], *([f"n{n}", f"A car {n}", f"{n}.mp4"] for n in range(5))):
        book.active.append(row)
    book.save(tmp_path / "list.xlsx")
    return tmp_path / "list.xlsx"


@pytest.mark.parametrize("claimed", ["A1", "A1:C3", "A1:B6"])
def test_workbook_is_read_whatever_size_it_claims(workbook: Path, claimed: str) -> None:
    changed(workbook, "xl/worksheets/sheet1.xml", 'ref="A1:C6"', f'ref="{claimed}"')
    assert [(s.name, s.video_path) for s in specs(workbook)] == [(f"n{n}", f"{n}.mp4") for n in range(5)]


def test_workbook_with_damaged_bytes_is_read_or_a_problem(workbook: Path) -> None:
    data, dice, refused = workbook.read_bytes(), random.Random(3), 0
    for _ in range(80):
        damaged = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(4, len(data))] = dice.randrange(256)
        workbook.write_bytes(damaged)
        try:
            specs(workbook)
        except SpecError:
            refused += 1
    assert refused


def test_workbook_with_damaged_parts_is_a_problem(workbook: Path) -> None:
    (problem,) = problems(changed(workbook, "xl/styles.xml", "<fill>", "<fill/><fill>"))
    assert "list.xlsx: is not a readable workbook" in problem


def test_workbook_is_read(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "notes"
    sheet = book.create_sheet("prompts")
    for row in ([None], ["Name", "Prompt", "Video", None], [7, "A car", "a.mp4", None], [None] * 4):
        sheet.append(row)
    book.save(tmp_path / "list.xlsx")
    (spec,) = specs(tmp_path / "list.xlsx")
    assert (spec.name, spec.prompt, spec.video_path, spec.where) == ("7", "A car", "a.mp4", "row 3")


def test_bad_row_is_named_by_its_first_line(write: Write) -> None:
    (problem,) = problems(write('name,prompt\none,"a\nb"\ntwo,"he said "x""\n', "list.csv"))
    assert problem.startswith("list.csv, line 4: is not CSV") and "written twice" in problem


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "<!DOCTYPE html>"])
def test_file_that_is_something_else_is_named(write: Write, content: str) -> None:
    (problem,) = problems(write(content))
    assert "Git LFS" in problem or "a web page" in problem


# Which files


def test_file_folder_and_glob_name_files(write: Write, tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl", "c.CSV", "d.ndjson", "clip.mp4", "notes.txt", "deep/e.json"):
        write("x", name)
    (tmp_path / "folder.json").mkdir()

    def named(pattern: Path) -> list[str]:
        return [str(p.relative_to(tmp_path)) for p in prompt_files(str(pattern))]

    assert named(tmp_path / "notes.txt") == ["notes.txt"]
    assert named(tmp_path) == ["a.jsonl", "b.json", "c.CSV", "d.ndjson"]
    assert named(tmp_path / "*.json") == ["b.json"]
    assert named(tmp_path / "**" / "*.json") == ["b.json", "deep/e.json"]


def test_path_that_is_not_utf_8_is_an_input_error(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "p.json").write_text('[{"prompt": "a"}]')
    with pytest.raises(InputError, match="not valid UTF-8"):
        prompt_files(str(folder))


def test_file_name_may_contain_glob_characters(write: Write) -> None:
    file = write("x", "take [1]*?.json")
    write("x", "take 1xy.json")
    assert prompt_files(str(file)) == [file]


def test_pattern_without_matches_is_an_input_error(tmp_path: Path) -> None:
    for pattern in (str(tmp_path / "none.json"), str(tmp_path / "*.json"), "a\0b", "["):
        with pytest.raises(InputError, match="matches nothing") as caught:
            prompt_files(pattern)
        assert caught.value.hint
    with pytest.raises(InputError, match="no prompt file"):
        prompt_files(str(tmp_path))


@pytest.mark.parametrize("pattern", ["x" * 300, "~no_such_user/prompts.json"], ids=["long", "no such user"])
def test_impossible_pattern_is_an_input_error(pattern: str) -> None:
    with pytest.raises(InputError):
        prompt_files(pattern)


def test_hidden_files_are_skipped(write: Write, tmp_path: Path) -> None:
    write("x", "prompts.json")
    write(b"\x00\x05\x16\x07", "._prompts.json")
    assert [p.name for p in prompt_files(str(tmp_path))] == ["prompts.json"]


def test_equal_names_of_one_day_have_their_timestamps(tmp_path: Path) -> None:
    for hour in (16, 17):
        spec = {"name": "boat", "prompt": "A boat.", "timestamp": f"2025-08-30T{hour}:30:00"}
        (tmp_path / f"boat_{hour}.json").write_text(json.dumps(spec))
    assert [spec.name for spec in read_specs(prompt_files(str(tmp_path)))] == ["boat", "boat_2025-08-30T17:30:00"]
