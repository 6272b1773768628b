"""What a review page shows of one run or several, and the verdicts that it gives: each is on disk before `decide` returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..planning.plan import Plan
from ..run_folder import RunPaths
from ..runs.run_record import read_record
from ..text import overrides_in
from ..worker.journal import Journal
from ..worker.protocol import UPSAMPLED, Outcome
from .reviews import ACCEPTED, EDITED, OPEN, REJECTED, Mark, now, problem_of, read_marks
from .rows import (
    HintFolders,
    ReportRow,
    Row,
    flags_of,
    hint_used,
    items_as_they_ended,
    outcome_of,
    report_row,
    result_rows,
    row_of,
)

MOST_ROWS = 100  # that one request gets


class ReviewedRun:
    """One run under review, whose folder the caller has locked. Its rows are as the engine left them."""

    def __init__(self, paths: RunPaths, plan: Plan, outcomes: Mapping[str, Outcome], unfinished: str) -> None:
        self.paths, self.plan, self.outcomes, self.unfinished = paths, plan, outcomes, unfinished
        self.label = " · ".join(filter(None, (read_record(paths).title, plan.settings.target.name, paths.root.name)))
        self.facets = {"run": self.label, "target": plan.settings.target.name, **_overrides(paths)}
        self.marks = read_marks(paths.review)
        self.hints = HintFolders(paths)
        self.journal: Journal | None = None

    def rows(self) -> Iterator[Row]:
        return result_rows(self.plan, self.outcomes, self.hints, self.unfinished)

    def row(self, number: int) -> ReportRow:
        item = self.plan.items[number]
        outcome = outcome_of(item, self.outcomes, self.unfinished)
        return report_row(item, row_of(item, outcome, self.hints, self.plan.settings), self.paths.root.absolute())

    def write(self, marks: Sequence[Mark]) -> None:
        """Append verdicts to review.jsonl, with one flush to disk for all."""
        self.journal = self.journal or Journal(self.paths.review)
        self.journal.append(*marks)
        for mark in marks:
            if mark.verdict == OPEN:
                self.marks.pop(mark.name, None)
            else:
                self.marks[mark.name] = mark


def _overrides(paths: RunPaths) -> dict[str, str]:
    """What was typed for a run: of a sweep, its point."""
    typed = overrides_in(paths.command.read_text(encoding="utf-8")) if paths.command.is_file() else []
    pairs = (override.lstrip("+").partition("=")[::2] for override in typed)
    return {name: value for name, value in pairs if not name.startswith(("hydra.", "task", "name", "prompts"))}


@dataclass(frozen=True, slots=True)
class Entry:
    """An item in short, as filters need it. at: its place in its run. words: of its text. searched: what a search looks in."""

    run: ReviewedRun
    at: int
    name: str
    state: str
    is_flagged: bool
    words: int
    searched: str

    @property
    def has_text(self) -> bool:
        return self.state == UPSAMPLED

    @property
    def mark(self) -> Mark | None:
        return self.run.marks.get(self.name)

    @property
    def verdict(self) -> str:
        return self.mark.verdict if self.mark else ""


def _entries(run: ReviewedRun) -> Iterator[Entry]:
    for at, (item, outcome) in enumerate(items_as_they_ended(run.plan, run.outcomes, run.unfinished)):
        used = hint_used(item, outcome, text_only=run.plan.settings.model.text_only)
        is_flagged, text = any(flags_of(item, outcome, used)), outcome.text or ""
        searched = f"{item.name}\n{item.prompt}\n{text}".lower()
        yield Entry(run, at, item.name, outcome.state, is_flagged, len(text.split()), searched)


def _file_of(entry: Entry, row: ReportRow, kind: str, frame: int = 0) -> Path | None:
    if kind == "frame":
        path = Path(row["frame_files"][frame])
    else:
        named = (row["source"] or {}).get("path") if kind == "clip" else row["preprocessed_video"]
        path = (Path() if kind == "clip" else entry.run.paths.root) / (named or "")
    return path if path.is_file() else None


# What a filter leaves, by its name.
SHOWN: dict[str, Callable[[Entry], bool]] = {
    "all": lambda entry: True,
    "undecided": lambda entry: entry.has_text and entry.mark is None,
    "flagged": lambda entry: entry.is_flagged,
    "kept": lambda entry: not entry.has_text,
    ACCEPTED: lambda entry: entry.verdict == ACCEPTED,
    EDITED: lambda entry: entry.verdict == EDITED,
    REJECTED: lambda entry: entry.verdict == REJECTED,
}


class ReviewQueue:
    """The items of all runs, numbered from 0, with their verdicts. May be used by several threads."""

    def __init__(self, runs: Sequence[ReviewedRun]) -> None:
        self.runs = runs
        self.entries = [entry for run in runs for entry in _entries(run)]
        self.total = sum(entry.has_text for entry in self.entries)
        self._is_closed = False
        self._changed: list[int] = []  # items in order of their verdicts, since the start
        self._mutex = threading.Lock()

    @property
    def facets(self) -> dict[str, list[str]]:
        """By what runs are told apart, and its values: the run itself, its target, and the overrides of its point of a sweep."""
        names = dict.fromkeys(name for run in self.runs for name in run.facets)
        found = {name: [*dict.fromkeys(run.facets.get(name, "") for run in self.runs)] for name in names}
        return {name: values for name, values in found.items() if len(values) > 1}

    def select(self, show: str, where: Mapping[str, str], words: str, order: str) -> list[int]:
        """The numbers of the items that filters and a search leave, in input order or the longest text first. where: values of
        facets."""
        wanted, chosen = words.lower().split(), SHOWN.get(show, SHOWN["all"])
        runs = [run for run in self.runs if all(run.facets.get(name, "") == value for name, value in where.items())]
        found = [
            n
            for n, entry in enumerate(self.entries)
            if entry.run in runs and chosen(entry) and all(word in entry.searched for word in wanted)
        ]
        return sorted(found, key=lambda n: -self.entries[n].words) if order == "longest" else found

    def rows(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """What the page shows of these items."""
        return [self._row(n) for n in numbers[:MOST_ROWS]]

    def _entry(self, number: int) -> Entry:
        if number < 0:
            raise LookupError(number)
        return self.entries[number]

    def _row(self, number: int) -> dict[str, Any]:
        entry = self._entry(number)
        row = entry.run.row(entry.at)
        keys = ("name", "state", "reason", "note", "flags", "tokens", "seconds", "source", "hint")
        return {
            **{key: row[key] for key in keys},  # type: ignore[literal-required]
            "n": number,
            "run": entry.run.label if len(self.runs) > 1 else "",
            "before": row["original_prompt"],
            "after": row["upsampled_prompt"],
            "frames": len(row["frame_files"]),
            "clips": [kind for kind in ("clip", "hint") if _file_of(entry, row, kind)],
            "mark": asdict(entry.mark) if entry.mark else None,
        }

    def media(self, number: int, kind: str, frame: int = 0) -> Path | None:
        """The file of an item's clip, of the hint video or of a frame; None where there is none."""
        entry = self._entry(number)
        return _file_of(entry, entry.run.row(entry.at), kind, frame)

    def decide(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Give verdicts, each about the item `n`: all of them or, with an InputError, none. On disk when this returns."""
        at, by_run = now(), dict[ReviewedRun, list[Mark]]()
        for wanted in given:
            entry = self._entry(int(wanted["n"]))
            fields = {key: str(wanted[key]) for key in ("text", "reason", "note") if wanted.get(key)}
            mark = Mark(entry.name, str(wanted["verdict"]), at=at, **fields)
            if problem := problem_of(mark, entry.state):
                raise InputError(f"{entry.name}: {problem}")
            by_run.setdefault(entry.run, []).append(mark)
        with self._mutex:
            if self._is_closed:
                raise InputError("the review has ended")
            for run, marks in by_run.items():
                run.write(marks)
            self._changed += [int(wanted["n"]) for wanted in given]

    def close(self) -> None:
        """Take no more verdicts: what is made of them is being written."""
        with self._mutex:
            self._is_closed = True

    def since(self, known: int) -> dict[str, Any]:
        """The verdicts that came after the first `known` changes, and how far the review is."""
        with self._mutex:
            changed, at = dict.fromkeys(self._changed[known:]), len(self._changed)
            marks = {n: asdict(mark) if (mark := self.entries[n].mark) else None for n in changed}
        decided = sum(len(run.marks) for run in self.runs)
        return {"at": at, "marks": marks, "decided": decided, "total": self.total}
