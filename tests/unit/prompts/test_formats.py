"""Prompt files in text formats: recognized by content, streamed, and named with what is wrong when they cannot be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import SpecError
from src.prompts.specs import read_specs
from tests.harness.growth import assert_linear
from tests.unit.prompts.conftest import (
    TEXT_FORMATS,
    TWO,
    Items,
    Write,
    as_csv,
    as_lines,
    peak_bytes,
    problems,
    specs,
)

Form = Callable[[Items], str]


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
def test_format_is_recognized_by_content(write: Write, content: str, shape: str, suffix: str) -> None:
    found = specs(write(content, f"prompts{suffix}"))
    assert [(s.name, s.prompt, s.video_path) for s in found] == [
        (item["name"], item["prompt"], item["video_path"]) for item in TWO
    ]
    assert {s.shape for s in found} == {shape}


@pytest.mark.parametrize("indent", [None, 4])
def test_whole_file_object_is_one_spec(write: Write, indent: int | None) -> None:
    file = write(json.dumps({"prompt": "A red car", "metadata": {"a": [1, {}]}}, indent=indent), "robot.json")
    (spec,) = specs(file)
    assert (spec.name, spec.prompt, spec.shape, spec.video) == ("robot", "A red car", "object", None)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{ "edge":\n  {"control_weight": 1.0},\n  "prompt": "a"}', "spec.json"),  # its second line starts with a brace
        (json.dumps(TWO[0], indent=2), "prompt.jsonl"),
    ],
    ids=["brace", "suffix"],
)
def test_indented_object_is_one_spec(write: Write, content: str, name: str) -> None:
    assert len(specs(write(content, name))) == 1


def test_single_line_is_no_whole_object(write: Write) -> None:
    assert specs(write('{"prompt": "a"}\n', "batch.jsonl"))[0].shape == "lines"


@pytest.mark.parametrize("content", [json.dumps(TWO), as_lines(TWO), as_csv(TWO)], ids=["list", "lines", "csv"])
def test_byte_order_mark_is_ignored(write: Write, content: str) -> None:
    assert [s.name for s in specs(write(b"\xef\xbb\xbf" + content.encode()))] == ["one", "two"]


@pytest.mark.parametrize(
    "space", ["\u2028", "\u2029", "\u0085", "\x0b", "\u00a0", "\ufeff"], ids=lambda c: f"U+{ord(c):04X}"
)
@TEXT_FORMATS
def test_unusual_line_breaks_stay_in_a_text(write: Write, form: Form, space: str) -> None:
    text = f"before{space}after"
    found = specs(write(form([{"prompt": text}, {"prompt": "next"}])))
    assert [s.prompt for s in found] == [text, "next"]
    if form is as_lines:
        raw = json.dumps({"prompt": "x"}) + "\n"
        unescaped = f'{{"prompt": "{text}"}}\n' if space not in "\x0b" else raw
        assert len(specs(write(unescaped + raw))) == 2


def test_csv_text_keeps_quotes_commas_and_newlines(write: Write) -> None:
    text = 'A sign says "STOP", a car waits;\nthen it turns.\r\nThe end.'
    found = specs(write(as_csv([{"prompt": text, "video_path": "a,b.mp4"}, {"prompt": "x", "video_path": ""}])))
    assert [(s.prompt, s.video_path) for s in found] == [(text, "a,b.mp4"), ("x", None)]


def test_csv_columns_have_any_order(write: Write) -> None:
    """Cells may be missing, too."""
    found = specs(write("visual_input, prompt ,mood\na.mp4,A car,grim\n,A dog\nb.mp4\n"))
    assert [(s.prompt, s.video_path) for s in found] == [("A car", "a.mp4"), ("A dog", None), ("", "b.mp4")]
    assert [s.raw for s in found] == [  # an empty cell is no field
        {"visual_input": "a.mp4", "prompt": "A car", "mood": "grim"},
        {"prompt": "A dog"},
        {"visual_input": "b.mp4"},
    ]


def test_csv_text_may_be_very_long(write: Write) -> None:
    assert len(specs(write("prompt\n" + "x" * 200_000 + "\n"))[0].prompt) == 200_000


def test_unknown_fields_are_kept(write: Write) -> None:
    extra = {"weights": [1, 2.5, None, True], "nested": {"ключ": "значение"}, "big": 2**70, "Prompt": "other"}
    assert specs(write(json.dumps([TWO[0] | extra])))[0].raw == TWO[0] | extra


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
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
def test_items_equal_those_of_json_loads(write: Write, items: Items, ascii_only: bool, indent: int | None) -> None:
    # Half a surrogate pair can only be in a file as an escape.
    as_list = json.dumps(items, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "backslashreplace")
    lines = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in items).encode("utf-8", "backslashreplace")
    for content in (as_list, lines):
        assert [s.raw for s in specs(write(content))] == items


# NVIDIA's formats


def test_controlnet_spec_gives_prompt_and_video(write: Write) -> None:
    spec = {"prompt": "A car", "input_video_path": "assets/in.mp4", "edge": {"control_weight": 1.0}, "sigma_max": 70}
    (found,) = specs(write(json.dumps(spec, indent=4), "edge.json"))
    assert (found.prompt, found.video_path, found.name) == ("A car", "assets/in.mp4", "edge")
    assert found.raw == spec


def test_batch_lines_give_prompt_and_video(write: Write) -> None:
    line = {"visual_input": "a.mp4", "prompt": "A car", "control_overrides": {"depth": {"control_weight": 0.5}}}
    (one, two) = specs(write(as_lines([line, line | {"visual_input": "b.mp4"}]), "batch.jsonl"))
    assert (one.video_path, one.prompt, one.raw) == ("a.mp4", "A car", line)
    assert (one.name, two.name) == ("a-0001", "b-0002")


def test_updated_spec_is_read_again(write: Write) -> None:
    spec = TWO[0] | {"upsampled_prompt": None, "upsampled_at": None, "upsampling_params": {}, "metadata": {"x": 1}}
    assert specs(write(json.dumps(spec)))[0].raw == spec


# Streaming


def test_items_may_span_blocks_of_reading(write: Write) -> None:
    for padding in range(65_500, 65_560):
        found = specs(write(f'[{{"prompt": "{"x" * padding}"}}, {{"prompt": "é"}} ,\n {{"prompt": "c"}}]'))
        assert [s.prompt[-1] for s in found] == ["x", "é", "c"]


def test_item_of_a_megabyte_is_read(write: Write) -> None:
    found = specs(write(json.dumps([{"prompt": "a", "note": "é" * 1_000_000}, TWO[0]])))
    assert [len(s.raw.get("note", "")) for s in found] == [1_000_000, 0]


def rows(count: int, words: int = 140) -> Items:
    return [{"name": f"item {n}", "prompt": "word " * words} for n in range(count)]


@TEXT_FORMATS
def test_reading_time_grows_linearly(write: Write, form: Form) -> None:
    def seconds(count: int) -> float:
        file = write(form(rows(count)))
        started = time.process_time()
        assert sum(1 for _ in read_specs([file])) == count
        return time.process_time() - started

    assert_linear(seconds, 300)


@TEXT_FORMATS
def test_items_are_streamed(write: Write, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory grows by less than half of each item, and not with the length of the prompts."""
    monkeypatch.chdir(tmp_path)  # names and places are kept for messages, and places contain the path

    def peak(count: int, words: int) -> int:
        return peak_bytes(read_specs([write(form(rows(count, words))).relative_to(tmp_path)]))

    few = peak(250, 140)
    assert (peak(1000, 140) - few) / 750 < len(rows(1)[0]["prompt"]) / 2
    assert peak(250, 3000) - few < 350_000 < (tmp_path / "prompts.json").stat().st_size / 10


def test_broken_last_item_is_found(write: Write) -> None:
    """After all the others were streamed."""
    text = json.dumps([{"name": f"n{n}", "prompt": "a"} for n in range(2000)])
    stream = read_specs([write(text[:-1] + ', {"prompt": }]')])
    assert next(stream).name == "n0"
    with pytest.raises(SpecError, match="item 2001"):
        list(stream)


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "prompts.json: is empty"),
        (" \n\t ", "prompts.json: is empty"),
        ("[]", "prompts.json: has no prompts"),
        ("[ \n ]", "prompts.json: has no prompts"),
        ("prompt,video_path\n", "prompts.json: has no prompts"),
        ('[{"prompt": "a"}', "prompts.json:1:17: is not JSON: it ends inside the list, after item 1"),
        ('[{"prompt": "a"},', "prompts.json:1:18: is not JSON: it ends inside the list, after item 1"),
        ('[{"prompt": "a"},\n {"prom', "prompts.json:2:3: is not JSON: Unterminated string starting at, in item 2\n"),
        ('[{"prompt": "a"},]', "prompts.json:1:18: is not JSON: a comma before the closing ], after item 1"),
        ('[{"prompt": "a",}]', "prompts.json:1:17: is not JSON: "),
        (
            '[{"prompt": "a"} {"prompt": "b"}]',
            "prompts.json:1:18: is not JSON: a comma or ] is missing after item 1",
        ),
        ('[{"prompt": "a"}] {}', "prompts.json:1:18: is not JSON: text after the closing ]"),
        ("[{'prompt': 'a'}]", "prompts.json:1:3: is not JSON: "),
        ('{"prompt": "a"', "prompts.json:1:15: is not JSON: "),
        ('{"prompt": "a",\n "x": }', 'prompts.json:2:7: is not JSON: Expecting value\n       "x": }\n            ^'),
        ("hello", "prompts.json: is neither JSON nor CSV with a header"),
        ("name,label\na,b\n", "prompts.json: is neither JSON nor CSV with a header"),
        ('"just text"', "prompts.json: is neither JSON nor CSV with a header"),
        ("null", "prompts.json: is neither JSON nor CSV with a header"),
        ("prompt,video_path\na,b,c\n", "prompts.json, line 2, the whole item: has 3 values for 2 columns"),
        ('prompt\n"open\n', "prompts.json, line 2: is not CSV: unexpected end of data"),
        ('[{"prompt": "a", "x": NaN}]', "item 1, the whole item: has NaN, which is not a valid JSON number"),
        ('{"prompt": "a", "x": -Infinity}', "prompts.json: has -Infinity, which is not a valid JSON number"),
    ],
)
def test_unreadable_file_is_named_with_its_problem(write: Write, content: str, expected: str) -> None:
    (problem,) = problems(write(content))
    assert expected in problem


@pytest.mark.parametrize(
    "content",
    [
        '[{"prompt": "café"}]'.encode("latin-1"),
        as_lines(TWO).encode() + b"\xff\n",
        as_csv(TWO).encode() + b"caf\xe9,b,c\n",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00\xff\xfe",
    ],
    ids=["latin-1", "line", "csv", "video"],
)
def test_file_in_another_encoding_is_named(write: Write, content: bytes) -> None:
    (problem,) = problems(write(content))
    assert problem.startswith("prompts.json: is not UTF-8")


def test_clip_instead_of_a_list_gets_advice(write: Write) -> None:
    [problem] = problems(write(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00\xff\xfe", "wide.mp4"))
    assert "is a clip, not a list of prompts; task=spec" in problem


def test_invalid_line_does_not_hide_later_lines(write: Write) -> None:
    found = problems(write('{"prompt": "a",}\n{"prompt": "b"}\n{"prompt": 3}\n{"prompt": "c", "x": NaN}\n'))
    assert [p.split(":")[0] for p in found] == [
        "prompts.json",
        "prompts.json, line 3, prompt",
        "prompts.json, line 4, the whole item",
    ]


def test_nan_does_not_hide_later_items(write: Write) -> None:
    found = problems(write('[{"prompt": "a"}, {"prompt": "b", "x": NaN}, {"prompt": 3}]'))
    assert [p.split(":")[0] for p in found] == ["prompts.json, item 2, the whole item", "prompts.json, item 3, prompt"]


def test_wide_row_does_not_hide_later_ones(write: Write) -> None:
    found = problems(write("prompt,video_path\na,b,c\n,\nd,e\n1,2,3\n"))
    assert [p.split(":")[0].split(", ")[1] for p in found] == ["line 2", "line 5"]


@pytest.mark.parametrize("before", ["[", "", '{"prompt": "a"}\n'], ids=["list", "object", "line"])
@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000 + "]" * 100_000], ids=["5,000 digits", "100,000 deep"])
def test_json_beyond_python_is_a_problem(write: Write, before: str, value: str) -> None:
    item = '{"prompt": "b", "x": ' + value + "}"
    assert len(problems(write(before + item + ("]" if before == "[" else "\n")))) == 1


@pytest.mark.parametrize("number", ["1e999", "-1e400"])
def test_number_beyond_floats_is_a_problem(write: Write, number: str) -> None:
    (problem,) = problems(write(f'[{{"prompt": "a", "x": [{number}]}}]'))
    assert problem.startswith("prompts.json, item 1")


@pytest.mark.parametrize("content", ["prompt,prompt\na,b\n", '[{"prompt": "a", "prompt": "b"}]'], ids=["csv", "json"])
def test_repeated_field_is_a_problem(write: Write, content: str) -> None:
    assert len(problems(write(content))) == 1


def test_repeated_field_among_thousands_is_found(write: Write) -> None:
    fields = ",".join(f'"{n}": 1' for n in [*range(10_000), 9_999])
    started = time.process_time()
    assert len(problems(write('[{"prompt": "a", ' + fields + "}]"))) == 1
    assert time.process_time() - started < 1
