"""Command lines that people are told to type: what the shell and Hydra make of them is what was meant."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.text import run_command


@pytest.mark.parametrize(
    "folder", ["outputs/2026-11-20/14-03-11", "with space", "läuft 雨 (1), x=y's $1", 'a "b"', "c\\d", "e\\"]
)
def test_line_names_the_folder_whatever_letters_it_has(folder: str) -> None:
    words = shlex.split(run_command("task=attach run", Path(folder)))
    assert words[:4] == ["python", "-m", "src.run", "task=attach"]
    [override] = OverridesParser.create().parse_overrides(words[4:])
    assert (override.key_or_group, str(override.value())) == ("run", folder)


def test_plain_path_stays_plain() -> None:
    assert run_command("resume", Path("outputs/x")) == "python -m src.run resume=outputs/x"
