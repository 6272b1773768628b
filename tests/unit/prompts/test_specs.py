"""Prompt files in: every format, by content; every problem, by file, item and field."""

from __future__ import annotations

import csv
import io
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import ExitCode, InputError, SpecError
from src.prompts.specs import PromptSpec, prompt_files, read_specs

Write = Callable[..., Path]
Items = list[dict[str, Any]]
TWO: Items = [
    {"name": "one", "prompt": "A red car", "video_path": "clips/one.mp4"},
    {"name": "two", "prompt": "Ein blaues Auto, 红色", "video_path": "clips/two.mp4"},
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a prompt file and gives its path."""

    def written(content: str | bytes, name: str = "prompts.json") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return written


def specs(*files: Path) -> list[PromptSpec]:
    return list(read_specs(list(files)))


def problems(*files: Path) -> list[str]:
    """What is wrong, without the path in front."""
    with pytest.raises(SpecError) as caught:
        specs(*files)
    assert caught.value.exit_code is ExitCode.INPUT
    return [problem.replace(f"{files[0].parent}/", "") for problem in caught.value.problems]


def as_lines(items: Items) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def as_csv(items: Items) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(items[0]))
    writer.writeheader()
    writer.writerows(items)
    return out.getvalue()


# Formats


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt"])
@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (json.dumps(TWO), "list"),
        (json.dumps(TWO, indent=2, ensure_ascii=False), "list"),
        (as_lines(TWO), "lines"),
        (as_lines(TWO).replace("\n", "\r\n"), "lines"),
        ("\n\n" + as_lines(TWO).replace("\n", "\n\n") + "\n", "lines"),
        (as_csv(TWO), "csv"),
        (as_csv(TWO).replace("\r\n", "\n"), "csv"),
    ],
    ids=["list", "indented list", "lines", "lines of Windows", "lines with blank lines", "csv", "csv of Unix"],
)
def test_format_is_recognised_by_content_not_by_suffix(write: Write, content: str, shape: str, suffix: str) -> None:
    file = write(content, f"prompts{suffix}")
    found = specs(file)
    assert [(s.name, s.prompt, s.video_path) for s in found] == [
        (item["name"], item["prompt"], item["video_path"]) for item in TWO
    ]
    assert {s.shape for s in found} == {shape}


@pytest.mark.parametrize("indent", [None, 4])
def test_object_over_the_whole_file_is_one_spec_named_by_its_file(write: Write, indent: int | None) -> None:
    file = write(json.dumps({"prompt": "A red car", "metadata": {"a": [1, {}]}}, indent=indent), "robot.json")
    (spec,) = specs(file)
    assert (spec.name, spec.prompt, spec.shape, spec.video) == ("robot", "A red car", "object", None)


def test_controlnet_spec_of_nvidia_gives_prompt_and_video(write: Write) -> None:
    spec = {"prompt": "A car", "input_video_path": "assets/in.mp4", "edge": {"control_weight": 1.0}, "sigma_max": 70}
    (found,) = specs(write(json.dumps(spec, indent=4), "edge.json"))
    assert (found.prompt, found.video_path, found.name) == ("A car", "assets/in.mp4", "edge")
    assert found.raw == spec


def test_batch_lines_of_nvidia_give_prompt_and_video(write: Write) -> None:
    line = {"visual_input": "a.mp4", "prompt": "A car", "control_overrides": {"depth": {"control_weight": 0.5}}}
    (one, two) = specs(write(as_lines([line, line | {"visual_input": "b.mp4"}]), "batch.jsonl"))
    assert (one.video_path, one.prompt, one.raw) == ("a.mp4", "A car", line)
    assert (one.name, two.name) == ("a-0001", "b-0002")


def test_updated_spec_of_an_earlier_run_is_read_again(write: Write) -> None:
    spec = TWO[0] | {"upsampled_prompt": None, "upsampled_at": None, "upsampling_params": {}, "metadata": {"x": 1}}
    assert specs(write(json.dumps(spec)))[0].raw == spec


@pytest.mark.parametrize("content", [json.dumps(TWO), as_lines(TWO), as_csv(TWO)], ids=["list", "lines", "csv"])
def test_byte_order_mark_is_left_out(write: Write, content: str) -> None:
    assert [s.name for s in specs(write(b"\xef\xbb\xbf" + content.encode()))] == ["one", "two"]


@pytest.mark.parametrize(
    "space", ["\u2028", "\u2029", "\u0085", "\x0b", "\u00a0", "\ufeff"], ids=lambda c: f"U+{ord(c):04X}"
)
@pytest.mark.parametrize("form", [json.dumps, as_lines, as_csv], ids=["list", "lines", "csv"])
def test_unusual_line_ends_inside_a_text_stay_in_it(write: Write, form: Callable[[Items], str], space: str) -> None:
    text = f"before{space}after"
    found = specs(write(form([{"prompt": text}, {"prompt": "next"}])))
    assert [s.prompt for s in found] == [text, "next"]
    if form is as_lines:
        raw = json.dumps({"prompt": "x"}) + "\n"
        unescaped = f'{{"prompt": "{text}"}}\n' if space not in "\x0b" else raw
        assert len(specs(write(unescaped + raw))) == 2


def test_csv_keeps_quotes_commas_and_newlines_inside_a_text(write: Write) -> None:
    text = 'A sign says "STOP", a car waits;\nthen it turns.\r\nThe end.'
    found = specs(write(as_csv([{"prompt": text, "video_path": "a,b.mp4"}, {"prompt": "x", "video_path": ""}])))
    assert [(s.prompt, s.video_path) for s in found] == [(text, "a,b.mp4"), ("x", None)]


def test_csv_with_columns_missing_or_in_another_order_is_read(write: Write) -> None:
    found = specs(write("visual_input, prompt ,mood\na.mp4,A car,grim\n,A dog\nb.mp4\n"))
    assert [(s.prompt, s.video_path) for s in found] == [("A car", "a.mp4"), ("A dog", None), ("", "b.mp4")]
    assert [s.raw for s in found] == [  # an empty cell is no field
        {"visual_input": "a.mp4", "prompt": "A car", "mood": "grim"},
        {"prompt": "A dog"},
        {"visual_input": "b.mp4"},
    ]


def test_unknown_fields_are_kept_as_they_are(write: Write) -> None:
    extra = {"weights": [1, 2.5, None, True], "nested": {"ключ": "значение"}, "big": 2**70, "Prompt": "other"}
    assert specs(write(json.dumps([TWO[0] | extra])))[0].raw == TWO[0] | extra


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    items=st.lists(
        st.fixed_dictionaries(
            {"prompt": st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)},
            optional={"video_path": st.just("a.mp4"), "note": JSON_VALUES, "深": JSON_VALUES},
        ),
        min_size=2,
        max_size=6,
    ),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
)
def test_list_and_lines_give_what_json_loads_gives(
    write: Write, items: Items, ascii_only: bool, indent: int | None
) -> None:
    # Half a surrogate pair can only stand in a file as an escape.
    as_list = json.dumps(items, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "backslashreplace")
    lines = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in items).encode("utf-8", "backslashreplace")
    for content in (as_list, lines):
        assert [s.raw for s in specs(write(content))] == items


def test_items_are_whole_wherever_the_blocks_of_reading_end(write: Write) -> None:
    for padding in range(65_500, 65_560, 1):
        found = specs(write(f'[{{"prompt": "{"x" * padding}"}}, {{"prompt": "é"}} ,\n {{"prompt": "c"}}]'))
        assert [s.prompt[-1] for s in found] == ["x", "é", "c"]


def test_one_item_of_a_megabyte_is_read(write: Write) -> None:
    long = "é" * 1_000_000
    assert [len(s.raw.get("note", "")) for s in specs(write(json.dumps([{"prompt": "a", "note": long}, TWO[0]])))] == [
        1_000_000,
        0,
    ]


# Paths and names


def test_relative_video_path_is_relative_to_its_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (spec,) = specs(write('[{"prompt": "a", "video_path": "../clips/a.mp4"}]', "in/prompts.json"))
    assert spec.video == tmp_path / "clips" / "a.mp4"
    assert spec.video_path == "../clips/a.mp4"


def test_same_relative_path_in_two_folders_is_two_videos(write: Write, tmp_path: Path) -> None:
    one = write('[{"name": "x", "prompt": "a", "video_path": "v.mp4"}]', "a/p.json")
    two = write('[{"name": "y", "prompt": "a", "video_path": "v.mp4"}]', "b/p.json")
    assert [s.video for s in specs(one, two)] == [tmp_path / "a" / "v.mp4", tmp_path / "b" / "v.mp4"]


def test_absolute_and_home_paths_stay(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = write('[{"prompt": "a", "video_path": "/data/a.mp4"}, {"prompt": "b", "video_path": "~/b.mp4"}]')
    assert [s.video for s in specs(file)] == [Path("/data/a.mp4"), tmp_path / "home" / "b.mp4"]


def test_slug_is_a_safe_file_name(write: Write) -> None:
    (spec,) = specs(write('[{"name": "../../etc/passwd", "prompt": "a"}]'))
    assert spec.name == "../../etc/passwd"
    assert "/" not in spec.slug


def test_names_that_differ_in_case_only_have_slugs_that_differ_in_more(write: Write) -> None:
    found = specs(write(json.dumps([{"name": n, "prompt": "a"} for n in ("Robot", "robot", "ROBOT")])))
    assert len({s.slug.lower() for s in found}) == 3


def test_slug_given_instead_of_a_taken_one_is_free(write: Write) -> None:
    found = specs(write(json.dumps([{"name": n, "prompt": "a"} for n in ("a", "A-2", "A")])))
    assert len({s.slug.lower() for s in found}) == 3


@pytest.mark.parametrize("path", ["~tmp.mp4", "~no_such_user/a.mp4"])
def test_path_that_starts_with_a_tilde_and_names_no_user_is_a_file_name(
    write: Write, tmp_path: Path, path: str
) -> None:
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
def test_items_without_a_name_never_collide(write: Write, name: str, content: str) -> None:
    found = specs(write(content, f"a/{name}"), write(content, f"b/{name}"))
    assert len({s.name for s in found}) == len(found)


# Problems


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "prompts.json: is empty"),
        (" \n\t ", "prompts.json: is empty"),
        ("[]", "prompts.json: holds no prompts"),
        ("[ \n ]", "prompts.json: holds no prompts"),
        ("prompt,video_path\n", "prompts.json: holds no prompts"),
        ('[{"prompt": "a"}', "prompts.json, after item 1: is not JSON: it ends inside the list"),
        ('[{"prompt": "a"},', "prompts.json, after item 1: is not JSON: it ends inside the list"),
        ('[{"prompt": "a"}, {"prom', "prompts.json, item 2: is not JSON: Unterminated string"),
        ('[{"prompt": "a"},]', "prompts.json, after item 1: is not JSON: a comma before the closing ]"),
        ('[{"prompt": "a",}]', "prompts.json, item 1: is not JSON: "),
        (
            '[{"prompt": "a"} {"prompt": "b"}]',
            "prompts.json, after item 1: is not JSON: a comma or ] is missing before",
        ),
        ('[{"prompt": "a"}] {}', 'prompts.json: is not JSON: text after the closing ]: "{}"'),
        ("[{'prompt': 'a'}]", "prompts.json, item 1: is not JSON: "),
        ('{"prompt": "a"', "prompts.json: is not JSON: "),
        ('{"prompt": "a",\n "x": }', "prompts.json: is not JSON: Expecting value"),
        ("hello", "prompts.json: is neither JSON nor CSV with a header"),
        ("name,text\na,b\n", "prompts.json: is neither JSON nor CSV with a header"),
        ("prompt;video_path\na;b\n", "prompts.json: is neither JSON nor CSV with a header"),
        ('"just text"', "prompts.json: is neither JSON nor CSV with a header"),
        ("null", "prompts.json: is neither JSON nor CSV with a header"),
        ("prompt,video_path\na,b,c\n", "prompts.json, line 2, the whole item: has 3 values for 2 columns"),
        ('prompt\n"open\n', "prompts.json, line 1: is not CSV: unexpected end of data"),
        ('[{"prompt": "a", "x": NaN}]', "prompts.json, item 1, the whole item: holds NaN, which is no JSON number"),
        ('{"prompt": "a", "x": -Infinity}', "prompts.json: holds -Infinity, which is no JSON number"),
    ],
)
def test_file_that_cannot_be_read_is_named_with_what_is_wrong(write: Write, content: str, expected: str) -> None:
    (problem,) = problems(write(content))
    assert expected in problem


@pytest.mark.parametrize(
    "content",
    [
        '[{"prompt": "café"}]'.encode("latin-1"),
        '[{"prompt": "a"}]'.encode("utf-16"),
        as_lines(TWO).encode() + b"\xff\n",
        as_csv(TWO).encode() + b"caf\xe9,b,c\n",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00\xff\xfe",
    ],
    ids=["latin-1", "utf-16", "line", "csv", "video"],
)
def test_file_that_is_not_utf_8_is_named(write: Write, content: bytes) -> None:
    (problem,) = problems(write(content))
    assert problem.startswith("prompts.json: is not UTF-8")


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
        ({"prompt": "a", "video_path": "a\0b.mp4"}, "item 1, video_path: holds a NUL character"),
        ({"prompt": "a\ud800"}, "item 1, prompt: holds half of a surrogate pair"),
        ({"prompt": "a", "video_path": "\udfff.mp4"}, "item 1, video_path: holds half of a surrogate pair"),
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
def test_item_that_cannot_be_used_is_named_by_file_item_and_field(write: Write, item: Any, expected: str) -> None:
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
def test_item_that_can_be_used_is_no_problem(write: Write, item: dict[str, Any]) -> None:
    assert len(specs(write(json.dumps([item])))) == 1


@pytest.mark.parametrize(
    ("item", "field", "meant"),
    [
        ({"promt": "a boat", "video_path": "a.mp4"}, "promt", "prompt"),
        ({"Prompt": "a boat", "video_path": "a.mp4"}, "Prompt", "prompt"),
        ({"prompt": "a boat", "video_pth": "a.mp4"}, "video_pth", "video_path"),
    ],
)
def test_field_that_looks_like_one_that_is_missing_is_a_problem(
    write: Write, item: dict[str, str], field: str, meant: str
) -> None:
    [problem] = problems(write(json.dumps([item])))
    assert f"{field}: is no field that is read; is {meant} meant?" in problem


def test_other_fields_may_have_any_name_beside_ours(write: Write) -> None:
    item = {"prompt": "a", "prompts": "b", "video_path": "a.mp4", "video_paths": [], "shot": 1}
    assert len(specs(write(json.dumps([item])))) == 1


def test_clip_in_place_of_a_list_is_told_what_makes_specs(write: Write, clips: Path) -> None:
    [problem] = problems(clips / "wide.mp4")
    assert "is a clip, not a list of prompts; task=spec" in problem


def test_all_problems_of_all_files_are_listed_at_once(write: Write) -> None:
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
        "1.json, after item 4",
        "2.jsonl, line 2, the whole item",
        "2.jsonl, line 3, name",
        "2.jsonl, line 3, prompt",
        "2.jsonl, line 4, the whole item",
        "3.json",
        "5.json",
    ]


def test_line_that_is_not_json_does_not_hide_the_lines_after_it(write: Write) -> None:
    found = problems(write('{"prompt": "a",}\n{"prompt": "b"}\n{"prompt": 3}\n{"prompt": "c", "x": NaN}\n'))
    assert [p.split(":")[0] for p in found] == [
        "prompts.json, line 1, the whole item",
        "prompts.json, line 3, prompt",
        "prompts.json, line 4, the whole item",
    ]


@pytest.mark.parametrize("form", [json.dumps, as_lines, as_csv], ids=["list", "lines", "csv"])
def test_name_used_twice_is_a_problem_that_names_both_places(write: Write, form: Callable[[Items], str]) -> None:
    (problem,) = problems(write(form([TWO[0], TWO[1], TWO[0]])))
    assert '"one" is also the name of' in problem
    places = {"list": ("item 3", "item 1"), "lines": ("line 3", "line 1"), "csv": ("line 4", "line 2")}
    assert any(all(place in problem for place in pair) for pair in places.values())


def test_message_shows_50_problems_and_counts_the_others(write: Write) -> None:
    with pytest.raises(SpecError) as caught:
        specs(write(json.dumps([{"prompt": n} for n in range(120)])))
    assert len(caught.value.problems) == 120
    assert str(caught.value).count("not text") == 50
    assert "120 problems" in str(caught.value)
    assert "and 70 more" in str(caught.value)


def test_foreign_text_in_a_message_is_short_and_cannot_move_the_cursor(write: Write) -> None:
    (problem,) = problems(write('[{"prompt": "a"} "\\u001b' + "\x7f" * 0 + "x" * 5000 + '"]'))
    assert len(problem) < 300
    bad = problems(write(json.dumps([{"name": "a\x1b[2J", "prompt": "a"}] * 2)))
    assert "\x1b" not in "".join(bad)


@pytest.mark.parametrize("char", ["\x9b", "\x7f", "\u202e", "\u2066"], ids=lambda c: f"U+{ord(c):04X}")
def test_foreign_text_in_a_message_holds_only_printable_characters(write: Write, char: str) -> None:
    (problem,) = problems(write(json.dumps([{"name": f"a{char}b", "prompt": "a"}] * 2)))
    assert problem.isprintable()


# Things that must be problems of the file, not of ours


@pytest.mark.parametrize("before", ["[", "", '{"prompt": "a"}\n'], ids=["list", "object", "line"])
@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000 + "]" * 100_000], ids=["5,000 digits", "100,000 deep"])
def test_json_that_python_does_not_take_is_a_problem_of_its_item(write: Write, before: str, value: str) -> None:
    item = '{"prompt": "b", "x": ' + value + "}"
    assert len(problems(write(before + item + ("]" if before == "[" else "\n")))) == 1


@pytest.mark.parametrize("number", ["1e999", "-1e400"])
def test_number_too_large_to_be_written_again_is_a_problem(write: Write, number: str) -> None:
    (problem,) = problems(write(f'[{{"prompt": "a", "x": [{number}]}}]'))
    assert problem.startswith("prompts.json, item 1")


@pytest.mark.parametrize(
    "field", ['"x": "\\ud800"', '"x": {"y": ["\\udc00"]}', '"\\ud800": 1'], ids=["text", "deep", "key"]
)
def test_half_a_surrogate_pair_anywhere_in_an_item_is_a_problem(write: Write, field: str) -> None:
    (problem,) = problems(write(f'[{{"prompt": "a", {field}}}]'))
    assert problem.startswith("prompts.json, item 1")


def test_object_with_a_brace_at_the_start_of_its_second_line_is_one_spec(write: Write) -> None:
    assert len(specs(write('{ "edge":\n  {"control_weight": 1.0},\n  "prompt": "a"}'))) == 1


def test_nan_in_a_list_is_a_problem_of_its_item(write: Write) -> None:
    found = problems(write('[{"prompt": "a"}, {"prompt": "b", "x": NaN}, {"prompt": 3}]'))
    assert [p.split(":")[0] for p in found] == ["prompts.json, item 2, the whole item", "prompts.json, item 3, prompt"]


def test_csv_row_with_too_many_values_does_not_hide_the_rows_after_it(write: Write) -> None:
    found = problems(write("prompt,video_path\na,b,c\n,\nd,e\n1,2,3\n"))
    assert [p.split(":")[0].split(", ")[1] for p in found] == ["line 2", "line 3", "line 5"]


def test_csv_text_may_be_as_long_as_a_json_text(write: Write) -> None:
    assert len(specs(write("prompt\n" + "x" * 200_000 + "\n"))[0].prompt) == 200_000


@pytest.mark.parametrize("content", ["prompt,prompt\na,b\n", '[{"prompt": "a", "prompt": "b"}]'], ids=["csv", "json"])
def test_field_given_twice_is_a_problem(write: Write, content: str) -> None:
    assert len(problems(write(content))) == 1


def test_indented_object_is_one_spec_whatever_its_file_is_called(write: Write) -> None:
    assert len(specs(write(json.dumps(TWO[0], indent=2), "prompt.jsonl"))) == 1


def test_repeated_field_among_thousands_is_found_at_once(write: Write) -> None:
    fields = ",".join(f'"{n}": 1' for n in [*range(10_000), 9_999])
    started = time.process_time()
    assert len(problems(write('[{"prompt": "a", ' + fields + "}]"))) == 1
    assert time.process_time() - started < 1


def test_one_line_in_a_file_of_lines_is_a_line(write: Write) -> None:
    assert specs(write('{"prompt": "a"}\n', "batch.jsonl"))[0].shape == "lines"


# Many


def peak_of_reading(file: Path) -> tuple[int, int]:
    """Items of a file, and the most bytes in use while they were read one by one."""
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_specs([file]))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def many_rows(file: Path, count: int) -> Path:
    prompt = "word " * 140
    file.write_text("name,prompt\n" + "".join(f"item {n},{prompt}\n" for n in range(count)))
    return file


def test_100_000_items_are_read_in_seconds(tmp_path: Path) -> None:
    file = many_rows(tmp_path / "prompts.csv", 100_000)
    started = time.process_time()
    assert sum(1 for _ in read_specs([file])) == 100_000
    assert time.process_time() - started < 8


def test_items_are_streamed_in_less_memory_than_half_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # names and places are remembered, and places hold the path
    file = many_rows(Path("prompts.csv"), 20_000)
    count, peak = peak_of_reading(file)
    assert count == 20_000
    assert peak < file.stat().st_size / 2


@pytest.mark.parametrize("form", [json.dumps, as_lines, as_csv], ids=["list", "lines", "csv"])
def test_memory_does_not_grow_with_the_length_of_the_prompts(write: Write, form: Callable[[Items], str]) -> None:
    peaks = []
    for words in (10, 500):
        file = write(form([{"name": f"item {n}", "prompt": "word " * words} for n in range(2000)]))
        peaks.append(peak_of_reading(file)[1])
    assert peaks[1] - peaks[0] < 500_000 < file.stat().st_size / 8


def test_broken_last_item_is_found_after_all_the_others_were_streamed(write: Write) -> None:
    text = json.dumps([{"name": f"n{n}", "prompt": "a"} for n in range(5000)])
    stream = read_specs([write(text[:-1] + ', {"prompt": }]')])
    assert next(stream).name == "n0"
    with pytest.raises(SpecError, match="item 5001"):
        list(stream)


# Which files


def test_file_folder_and_glob_name_prompt_files(write: Write, tmp_path: Path) -> None:
    for name in ("b.json", "a.jsonl", "c.CSV", "d.ndjson", "clip.mp4", "notes.txt", "deep/e.json"):
        write("x", name)
    (tmp_path / "folder.json").mkdir()

    def named(pattern: Path) -> list[str]:
        return [str(p.relative_to(tmp_path)) for p in prompt_files(str(pattern))]

    assert named(tmp_path / "notes.txt") == ["notes.txt"]
    assert named(tmp_path) == ["a.jsonl", "b.json", "c.CSV", "d.ndjson"]
    assert named(tmp_path / "*.json") == ["b.json"]
    assert named(tmp_path / "**" / "*.json") == ["b.json", "deep/e.json"]


def test_file_with_the_signs_of_a_glob_in_its_name_is_that_file(write: Write) -> None:
    file = write("x", "take [1]*?.json")
    write("x", "take 1xy.json")
    assert prompt_files(str(file)) == [file]


def test_pattern_that_names_nothing_is_an_input_error_that_says_what_to_do(tmp_path: Path) -> None:
    for pattern in (str(tmp_path / "none.json"), str(tmp_path / "*.json"), "a\0b", "["):
        with pytest.raises(InputError, match="matches nothing") as caught:
            prompt_files(pattern)
        assert caught.value.hint
    with pytest.raises(InputError, match="no prompt file"):
        prompt_files(str(tmp_path))


@pytest.mark.parametrize("pattern", ["x" * 300, "~no_such_user/prompts.json"], ids=["long", "no such user"])
def test_pattern_that_no_system_takes_is_an_input_error(pattern: str) -> None:
    with pytest.raises(InputError):
        prompt_files(pattern)


def test_hidden_files_of_a_folder_are_not_prompt_files(write: Write, tmp_path: Path) -> None:
    write("x", "prompts.json")
    write(b"\x00\x05\x16\x07", "._prompts.json")
    assert [p.name for p in prompt_files(str(tmp_path))] == ["prompts.json"]
