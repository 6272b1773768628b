"""The checks that reject an answer."""

from __future__ import annotations

import pytest

from src.worker.checks import SeenAnswers, failed_check
from src.worker.engines.engine import Answer
from src.worker.protocol import Checks
from tests.harness.records import item


@pytest.mark.parametrize(
    ("text", "finish", "checks", "expected"),
    [
        ("A long boat on a calm sea.", "stop", Checks(cut_off=True, script="latin"), None),
        ("  \n", "stop", Checks(cut_off=True, script=""), "empty answer"),
        ("\u200b \ufeff\u3000", "stop", Checks(cut_off=True, script=""), "empty answer"),
        ('""', "stop", Checks(cut_off=True, script=""), "empty answer"),
        ("A long", "length", Checks(cut_off=True, script=""), "cut off at the token limit"),
        ("A long", "length", Checks(cut_off=False, script=""), None),
        ("A long", "content_filter", Checks(cut_off=False, script=""), "cut off by the server's content filter"),
        ("A  BOAT", "stop", Checks(cut_off=True, script=""), "echo of the prompt"),
        ("一艘船在海上", "stop", Checks(cut_off=True, script="latin"), "not in latin script"),
        ("一艘船在海上", "stop", Checks(cut_off=True, script=""), None),
    ],
)
def test_failed_check_names_what_is_wrong(text: str, finish: str, checks: Checks, expected: str | None) -> None:
    assert failed_check(Answer(text, finish, 7, 3), item("a", prompt="a boat"), checks) == expected


def test_first_owner_keeps_an_answer() -> None:
    seen = SeenAnswers()
    assert seen.failed_check("one  answer", "a", "input 1") is None
    assert seen.failed_check("one answer", "a", "input 1") is None
    assert seen.failed_check("one\nanswer", "b", "input 2") == "same answer as item a, which has other input"
    assert seen.failed_check("one answer", "c", "input 1") is None
    assert seen.failed_check("another answer", "b", "input 2") is None
