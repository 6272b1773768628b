"""Verdicts of a person about the texts of a run, and their effect on its results.

The verdicts are in review.jsonl in the run folder, one per line; the last one about an item counts. The run's journal, with
the engine's answers, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..worker.journal import Journal, read_records
from ..worker.protocol import UPSAMPLED
from ..worker.records import InvalidRecord
from ..worker.upsample import fallback_state
from .rows import Review, Row

ACCEPTED, REJECTED, EDITED = "accepted", "rejected", "edited"
REJECTED_REASON = "rejected in review"


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict about one item. text: the better one, for `edited`. at: when it was given, as ISO time."""

    name: str
    verdict: str
    text: str | None = None
    at: str = ""


def read_marks(file: Path) -> dict[str, Mark]:
    """The last verdict about each item that has one, by name."""
    try:
        return {mark.name: mark for mark in read_records(file, Mark)}
    except InvalidRecord as e:
        raise InputError(f"{e}: not a valid verdict", hint="fix or remove that line") from e


def add_marks(file: Path, marks: Iterable[Mark]) -> None:
    """Append verdicts; each is on disk before the next."""
    journal = Journal(file)
    try:
        for mark in marks:
            journal.append(mark)
    finally:
        journal.close()


def reviewed(row: Row, mark: Mark | None) -> Row:
    """A row of results.json with its verdict, under `review`.

    An edited text replaces the engine's, which is kept as review.answer. The original prompt of a rejected item is kept; an
    item without one fails.
    """
    if mark is None or row["state"] != UPSAMPLED:
        return {**row, "review": None}
    review: Review = {"verdict": mark.verdict, "at": mark.at}
    if mark.verdict == ACCEPTED:
        return {**row, "review": review}
    replaced: Row = {**row, "review": {**review, "answer": row["upsampled_prompt"]}}
    if mark.verdict == EDITED:
        return {**replaced, "upsampled_prompt": mark.text}
    state = fallback_state(row["original_prompt"])
    return {**replaced, "state": state, "reason": REJECTED_REASON, "upsampled_prompt": None}


def marks_from(
    rows: Sequence[Row],
    marked: Mapping[str, Mark],
    *,
    accept: Sequence[str],
    reject: Sequence[str],
    edit: Mapping[str, str],
    rest: str | None,
    at: str,
) -> list[Mark]:
    """The verdicts that a command line gives, checked; `rows` as the engine left them.

    rest: the verdict of every text that has none, neither here nor in `marked`. Raises InputError for a name that is
    not in the run, has no text of the engine, or is named twice.
    """
    given = [*(Mark(n, ACCEPTED, at=at) for n in accept), *(Mark(n, REJECTED, at=at) for n in reject)]
    given += [Mark(name, EDITED, text, at) for name, text in edit.items()]
    states, wrong, seen = {row["name"]: row["state"] for row in rows}, [], set[str]()
    for mark in given:
        if mark.name not in states:
            wrong.append(f"{mark.name}: there is no such item in the run")
        elif states[mark.name] != UPSAMPLED:
            wrong.append(f"{mark.name}: was {states[mark.name]}: there is no text to review")
        elif mark.name in seen:
            wrong.append(f"{mark.name}: has two verdicts")
        elif mark.verdict == EDITED and not (mark.text or "").strip():
            wrong.append(f"{mark.name}: the edited text is empty; reject it to keep the original prompt")
        seen.add(mark.name)
    if wrong:
        raise InputError("review: nothing was marked:\n" + "\n".join(f"  - {w}" for w in wrong))
    if rest:
        given += [Mark(row["name"], rest, at=at) for row in open_rows(rows, {*marked, *seen})]
    return given


def open_rows(rows: Iterable[Row], known: Iterable[str]) -> list[Row]:
    """The rows that have a text and no verdict yet."""
    decided = set(known)
    return [row for row in rows if row["state"] == UPSAMPLED and row["name"] not in decided]


def rejected_names(marks: Mapping[str, Mark]) -> set[str]:
    return {name for name, mark in marks.items() if mark.verdict == REJECTED}
