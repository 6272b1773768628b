"""Text for people: command lines that the shell and Hydra read back, durations, printable characters."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from src.text import (
    cell,
    counted,
    duration,
    hydra_quoted,
    precise_duration,
    printable,
    remaining,
    resume_command,
    run_command,
    wrapped,
)

FOLDERS = [
    "outputs/2026-11-20/14-03-11", "with space", "läuft 雨 (1), x=y's $1", 'a "b"', "c\\d", "e\\", "null", "True", "2026_01", "1e5",
    "-1", "nan", "[a]", "~x",
]  # fmt: skip


def parsed(word: str) -> tuple[str, object]:
    """Key and value of an override as Hydra reads it."""
    [override] = OverridesParser.create().parse_overrides([word])
    return override.key_or_group, override.value()


@pytest.mark.parametrize("folder", FOLDERS)
def test_command_names_any_folder(folder: str) -> None:
    words = shlex.split(run_command("task=cancel run", Path(folder)))
    assert words[:4] == ["python", "-m", "src.run", "task=cancel"]
    key, value = parsed(words[4])
    assert (key, str(value)) == ("run", folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_resume_command_names_any_folder(folder: str) -> None:
    words = shlex.split(resume_command(Path(folder)))
    assert words[:3] == ["python", "-m", "src.run"]
    key, value = parsed(words[3])
    assert (len(words), key, str(value)) == (4, "resume", folder)


@given(folder=st.from_regex(r"[A-Za-z0-9_./-]{1,12}", fullmatch=True).map(Path))
def test_command_names_any_plain_folder(folder: Path) -> None:
    """Also one that looks like a number, or like null."""
    assert parsed(shlex.split(resume_command(folder))[3])[1] == str(folder)


def test_plain_path_is_not_quoted() -> None:
    assert resume_command(Path("outputs/x")) == "python -m src.run resume=outputs/x"


@given(value=st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_hydra_reads_quoted_values_back(value: str) -> None:
    assert str(parsed(f"prompts={hydra_quoted(value)}")[1]) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lines\nand\ttabs, 雨 🚗", "lines\nand\ttabs, 雨 🚗"),
        ("\x1b[2J", "\\u001b[2J"),
        ("a\x9bb\u202ec", "a\\u009bb\\u202ec"),
        ("bell\a, return\r", "bell\\u0007, return\\u000d"),
    ],
)
def test_printable_text_cannot_control_terminals(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.1 s"), (1.26, "1.3 s"), (10.0, "10 s"), (89.0, "89 s"), (90.0, "2 min"), (5400.0, "1.5 h")],
)
def test_duration_has_the_right_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0001, "less than 1 ms"),
        (0.0123, "12 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.10 s"),
        (9.876, "9.88 s"),
        (12.3, "12 s"),
    ],
)
def test_precise_duration_has_measured_digits(seconds: float, text: str) -> None:
    assert precise_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4s"), (89.0, "89s"), (120.0, "2min"), (7200.0, "2.0h")])
def test_remaining_time_is_one_word(seconds: float, text: str) -> None:
    assert remaining(seconds) == text


@pytest.mark.parametrize("text", ["=1+1", "@SUM(1)", "+cmd", "-x", "  =1", "\t=1"])
def test_formula_becomes_text_for_a_spreadsheet(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a boat", "-3", "+1.5e3", 7, None, "a=b", ""])
def test_other_cells_stay_as_they_are(value: object) -> None:
    assert cell(value) == value


def test_cells_hold_no_control_characters() -> None:
    assert cell("a\rb\r\nc") == "a\nb\nc"
    assert cell("\0a\x1b[2J\tb\x9b") == "\\u0000a\\u001b[2J\tb\\u009b"


def test_prose_is_broken_between_words() -> None:
    command = "    python -m src.run resume=outputs/a/very/long/path/that/is/wider/than/the/terminal"
    text = f"error: {'many words ' * 12}\n{command}"
    lines = wrapped(text, 60).split("\n")
    assert lines[-1] == command  # stays whole, to be pasted
    assert all(len(line) <= 60 for line in lines[:-1])
    assert " ".join(" ".join(lines[:-1]).split()) == " ".join(text.split("\n")[0].split())


def test_one_thing_is_no_plural() -> None:
    assert [counted(n, "video") for n in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]
