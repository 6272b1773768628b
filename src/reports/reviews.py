"""Verdicts of a person about the texts of a run, and their effect on its results.

The verdicts are in review.jsonl in the run folder, one per line; the last one about an item counts. The run's journal, with
the engine's answers, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, TypeVar

from ..errors import InputError
from ..text import is_valid_text
from ..worker.journal import read_records
from ..worker.protocol import UPSAMPLED, fallback_state
from ..worker.records import InvalidRecord, from_json, parsed
from .rows import Review, Row

T = TypeVar("T")
ACCEPTED, REJECTED, EDITED = "accepted", "rejected", "edited"
OPEN = "open"  # takes the verdict before it back
REJECTED_REASON = "rejected in review"


@dataclass(frozen=True, slots=True)
class Mark:
    """A verdict about one item. text: the better one, for `edited`. at: when it was given, as ISO time. reason: in short, why
    it was rejected. id: of the item, where the verdict came in a file; "": of any item of that name."""

    SPARSE: ClassVar[bool] = True

    name: str
    verdict: str
    text: str | None = None
    at: str = ""
    reason: str = ""
    note: str = ""
    id: str = ""


def read_marks(file: Path) -> dict[str, Mark]:
    """The last verdict about each item that has one, by name."""
    try:
        last = {mark.name: mark for mark in read_records(file, Mark)}
        return {name: mark for name, mark in last.items() if mark.verdict != OPEN}
    except InvalidRecord as e:
        raise InputError(f"{e}: not a valid verdict", hint="fix or remove that line") from e


def reviewed(row: Row, mark: Mark | None) -> Row:
    """A row of results.json with its verdict, under `review`.

    An edited text replaces the engine's, which is kept as review.answer. The original prompt of a rejected item is kept; an
    item without one fails.
    """
    if mark is None or row["state"] != UPSAMPLED:
        return {**row, "review": None}
    review: Review = {"verdict": mark.verdict, "at": mark.at}
    if mark.reason:
        review["reason"] = mark.reason
    if mark.note:
        review["note"] = mark.note
    if mark.verdict == ACCEPTED:
        return {**row, "review": review}
    replaced: Row = {**row, "review": {**review, "answer": row["upsampled_prompt"]}}
    if mark.verdict == EDITED:
        return {**replaced, "upsampled_prompt": mark.text}
    state = fallback_state(row["original_prompt"])
    reason = f"{REJECTED_REASON}: {mark.reason}" if mark.reason else REJECTED_REASON
    return {**replaced, "state": state, "reason": reason, "upsampled_prompt": None}


def marks_from(rows: Sequence[Row], marked: Mapping[str, Mark], given: Sequence[Mark], rest: str | None) -> list[Mark]:
    """Verdicts from a command line or a file, checked; `rows` as the engine left them.

    rest: the verdict of every text that has none, neither here nor in `marked`. Raises InputError for each that is about no
    text of the run, or about one that another is about.
    """
    by_name, wrong, seen = {row["name"]: row for row in rows}, [], set[str]()
    for mark in given:
        row = by_name.get(mark.name)
        problem = problem_of(mark, row["state"] if row else None, row["id"] if row else "")
        if problem := problem or ("has two verdicts" if mark.name in seen else ""):
            wrong.append(f"{mark.name}: {problem}")
        seen.add(mark.name)
    if wrong:
        raise InputError("review: nothing was marked:\n" + "\n".join(f"  - {w}" for w in wrong))
    at = given[-1].at if given else now()
    return [*given, *(Mark(row["name"], rest, at=at) for row in open_rows(rows, {*marked, *seen}) if rest)]


def problem_of(mark: Mark, state: str | None, item_id: str = "") -> str:
    """Why a verdict cannot be given, "" where it can; the state as the engine left the item, None for no such item."""
    if state is None:
        return "there is no such item in the run"
    if state != UPSAMPLED:
        return f"was {state}: there is no text to review"
    if mark.id and item_id and mark.id != item_id:
        return "the verdict is about the item of that name in another run"
    if not is_valid_text("".join(filter(None, (mark.text, mark.reason, mark.note)))):
        return "contains half of a surrogate pair, which is not valid text"
    if mark.verdict == EDITED and not (mark.text or "").strip():
        return "the edited text is empty; reject it to keep the original prompt"
    return "" if mark.verdict in (ACCEPTED, REJECTED, EDITED, OPEN) else f"{mark.verdict} is not a verdict"


def read_verdicts(file: Path, kind: type[T]) -> list[T]:
    """Verdicts, or choices, that a page collected: a JSON list, or one per line as in review.jsonl. Raises InputError for each
    that is not one, by its place in the file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise InputError(f"{file}: cannot be read: {e}") from None
    try:
        entries = parsed(text)
        place = "verdict"
    except ValueError:
        entries, place = text.splitlines(), "line"
    marks, wrong = [], []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        try:
            marks.append(from_json(kind, parsed(entry) if place == "line" else entry))
        except ValueError as e:
            wrong.append(f"{place} {number}: {e}")
    if wrong:
        raise InputError(f"{file}: nothing was marked:\n" + "\n".join(f"  - {w}" for w in wrong))
    return marks


def now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def open_rows(rows: Iterable[Row], known: Iterable[str]) -> list[Row]:
    """The rows that have a text and no verdict yet."""
    decided = set(known)
    return [row for row in rows if row["state"] == UPSAMPLED and row["name"] not in decided]


def rejected_names(marks: Mapping[str, Mark]) -> set[str]:
    return {name for name, mark in marks.items() if mark.verdict == REJECTED}
