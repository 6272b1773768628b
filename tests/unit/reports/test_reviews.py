"""Verdicts about texts: stored one per line, applied to rows, and checked against the items of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from src.errors import InputError
from src.reports.reviews import (
    ACCEPTED,
    EDITED,
    OPEN,
    REJECTED,
    Mark,
    marks_from,
    open_rows,
    read_marks,
    read_verdicts,
    reviewed,
)
from src.reports.totals import Totals
from src.worker.journal import Journal
from src.worker.records import to_json
from tests.harness.rows import kept_row, row


def add_marks(file: Path, marks: Iterable[Mark]) -> None:
    journal = Journal(file)
    for mark in marks:
        journal.append(mark)
    journal.close()


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


def marks(*given: Mark, rest: str | None = None) -> list[Mark]:
    """The new verdicts of a command line, in a run where d was rejected before."""
    return marks_from(ROWS, {"d": Mark("d", REJECTED)}, given, rest)


def test_rest_is_text_without_verdict() -> None:
    edit = Mark("a", EDITED, "Better.", "now")
    assert marks(edit, rest=ACCEPTED) == [edit, Mark("b", ACCEPTED, at="now")]
    assert [r["name"] for r in open_rows(ROWS, {"b"})] == ["a", "d"]


def test_all_wrong_names_are_listed() -> None:
    with pytest.raises(InputError) as e:
        marks(
            *(Mark(name, ACCEPTED) for name in "ax"), Mark("c", REJECTED), Mark("a", REJECTED), Mark("b", EDITED, " "),
            Mark("d", ACCEPTED, id="of another run"),
        )  # fmt: skip
    for problem in (
        *("x: there is no such item", "c: was kept", "a: has two verdicts", "b: the edited text is empty"),
        "d: the verdict is about the item of that name in another run",
    ):
        assert problem in e.value.message


VERDICTS = (Mark("a", ACCEPTED, id="1"), Mark("b", EDITED, "Ö\nx", reason="style"))


@pytest.mark.parametrize("indent", [None, 1])
def test_verdicts_of_a_report_are_read(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "verdicts.json"
    file.write_text(json.dumps(to_json(VERDICTS), indent=indent))
    assert tuple(read_verdicts(file, Mark)) == VERDICTS
    add_marks(tmp_path / "review.jsonl", VERDICTS)
    assert tuple(read_verdicts(tmp_path / "review.jsonl", Mark)) == VERDICTS


@pytest.mark.parametrize(("between", "place"), [(",", "verdict"), ("", "line")])
def test_each_wrong_verdict_is_named(tmp_path: Path, between: str, place: str) -> None:
    lines = ['{"name": "a", "verdict": "accepted"}', '{"name": 1, "verdict": "accepted"}', "[]"]
    text = f"{between}\n".join(lines)
    (tmp_path / "verdicts.json").write_text(f"[{text}]" if between else text)
    with pytest.raises(InputError) as e:
        read_verdicts(tmp_path / "verdicts.json", Mark)
    assert f"{place} 2: name" in e.value.message and f"{place} 3:" in e.value.message


def test_verdict_can_be_taken_back(tmp_path: Path) -> None:
    add_marks(tmp_path / "review.jsonl", [Mark("a", ACCEPTED), Mark("b", REJECTED), Mark("a", OPEN)])
    assert read_marks(tmp_path / "review.jsonl") == {"b": Mark("b", REJECTED)}


def test_reason_and_note_reach_the_row() -> None:
    found = reviewed(row("a"), Mark("a", REJECTED, reason="style", note="too dark"))
    assert found["reason"] == "rejected in review: style"
    assert found["review"] and (found["review"]["reason"], found["review"]["note"]) == ("style", "too dark")
