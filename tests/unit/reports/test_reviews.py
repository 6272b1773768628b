"""Verdicts about texts: stored one per line, applied to rows, and checked against the items of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.reports.reviews import (
    ACCEPTED,
    EDITED,
    REJECTED,
    Mark,
    add_marks,
    marks_from,
    open_rows,
    read_marks,
    reviewed,
)
from src.reports.totals import Totals
from tests.harness.rows import kept_row, row

ROWS = [row("a"), row("b"), kept_row("c"), row("d")]


def test_last_verdict_counts_despite_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "review.jsonl"
    add_marks(file, [Mark("a", ACCEPTED), Mark("b", REJECTED)])
    with open(file, "ab") as f:
        f.write(b'{"name": "b", "verd')
    add_marks(file, [Mark("a", EDITED, "läuft \u2028 雨")])
    assert read_marks(file) == {"a": Mark("a", EDITED, "läuft \u2028 雨"), "b": Mark("b", REJECTED)}
    assert read_marks(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("line", ["nonsense", '{"name": "a"}', "[]", '{"name": 1, "verdict": "accepted"}'])
def test_invalid_line_is_an_input_error(tmp_path: Path, line: str) -> None:
    add_marks(tmp_path / "review.jsonl", [Mark("a", ACCEPTED)])
    with open(tmp_path / "review.jsonl", "a") as f:
        f.write(f"{line}\n")
    with pytest.raises(InputError, match=r"review\.jsonl.*not a valid verdict"):
        read_marks(tmp_path / "review.jsonl")


def test_edited_text_replaces_the_answer() -> None:
    """The answer is kept next to it."""
    found = reviewed(row("a"), Mark("a", EDITED, "Better.", "now"))
    assert (found["state"], found["upsampled_prompt"]) == ("upsampled", "Better.")
    assert found["review"] == {"verdict": "edited", "at": "now", "answer": row("a")["upsampled_prompt"]}


def test_rejected_item_keeps_its_original_prompt() -> None:
    found = reviewed(row("a"), Mark("a", REJECTED))
    assert (found["state"], found["reason"], found["upsampled_prompt"]) == ("kept", "rejected in review", None)
    assert found["review"] == {"verdict": "rejected", "at": "", "answer": row("a")["upsampled_prompt"]}


def test_rejected_item_without_prompt_fails() -> None:
    assert reviewed(row("a", original_prompt=" "), Mark("a", REJECTED))["state"] == "failed"


def test_other_rows_only_gain_a_review() -> None:
    accepted = {"review": {"verdict": "accepted", "at": "now"}}
    assert reviewed(row("a"), Mark("a", ACCEPTED, at="now")) == {**row("a"), **accepted}
    assert reviewed(row("a"), None) == {**row("a"), "review": None}
    assert reviewed(kept_row("a"), Mark("a", EDITED, "x")) == {**kept_row("a"), "review": None}


@pytest.mark.parametrize("verdict", [Mark("a", REJECTED), Mark("a", ACCEPTED), None])
def test_rejection_is_no_failure(verdict: Mark | None) -> None:
    totals = Totals()
    totals.add(reviewed(row("a"), verdict))
    assert totals.is_whole
    totals.add(reviewed(kept_row("b"), verdict))
    assert not totals.is_whole


def marks(**options: object) -> list[Mark]:
    """The new verdicts of a command line, in a run where d was rejected before."""
    given = {"accept": [], "reject": [], "edit": {}, "rest": None, "at": "now"} | options
    return marks_from(ROWS, {"d": Mark("d", REJECTED)}, **given)  # type: ignore[arg-type]


def test_rest_is_text_without_verdict() -> None:
    assert marks(edit={"a": "Better."}, rest=ACCEPTED) == [
        Mark("a", EDITED, "Better.", "now"),
        Mark("b", ACCEPTED, at="now"),
    ]
    assert [r["name"] for r in open_rows(ROWS, {"b"})] == ["a", "d"]


def test_all_wrong_names_are_listed() -> None:
    with pytest.raises(InputError) as e:
        marks(accept=["a", "x"], reject=["c", "a"], edit={"b": " "})
    for problem in ("x: there is no such item", "c: was kept", "a: has two verdicts", "b: the edited text is empty"):
        assert problem in e.value.message
