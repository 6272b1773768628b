"""How the items of a run end: one outcome each, kept in the run's journal."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from sys import intern
from types import MappingProxyType

from .. import log
from ..errors import HostError
from ..files import open_atomic
from ..interrupts import interrupts_deferred
from ..line_file import LineFile
from ..line_json import parsed_line
from ..worker.journal import Journal
from ..worker.protocol import FAILED, KEPT, UPSAMPLED, Ended, Outcome
from ..worker.records import InvalidRecord, from_line, has_checksum

MOST_NAMED = 20  # damaged lines that are named one by one
MOST_AT_ONCE = 1024  # outcomes that are taken together: there may be very many after a pause
NONE = -1  # in place of the number of a line


class Outcomes(Mapping[str, Outcome]):
    """The outcomes in a run's journal by item id, read when they are asked for. states: how many there are of each state.

    places: of the items of the run (`Plan.places`), so that their ids are not kept twice. planned: how many of them have
    ended. damaged: the lines that are not outcomes, by their bytes; they and a torn last line are left out.
    """

    def __init__(self, journal: Path, places: Mapping[str, int] = MappingProxyType({})) -> None:
        self.path = journal
        self.states: Counter[str] = Counter()
        self.damaged: list[bytes] = []
        self._places, self._others = places, dict[str, int]()  # the places of other ids, which come after them
        self._first_other, self.planned = max(places.values(), default=-1) + 1, 0
        self._line_at = array("q")  # by place, the number of the line that counts, or NONE
        self._state_of_line: list[str] = []
        self._lines: LineFile[Outcome] | None = None  # until there is a file
        if journal.exists():
            self._index()

    @property
    def note(self) -> str:
        """How many there are of each state, for people."""
        return "  ".join(f"{self.states[s]} {s}" for s in (UPSAMPLED, KEPT, FAILED) if self.states[s])

    def _index(self) -> None:
        starts = array("q", [0])
        with open(self.path, "rb") as f:
            for number, line in enumerate(f):
                if line.endswith(b"\n"):
                    starts.append(starts[-1] + len(line))
                    try:
                        # With a checksum, every field is as it was written.
                        kind: type[Ended | Outcome] = Ended if has_checksum(line) else Outcome
                        self._know(from_line(kind, line, loads=parsed_line), number)
                    except InvalidRecord as e:
                        self._leave_out(f"{self.path}, line {number + 1}: {e}", line)
        self._lines = LineFile(self.path, starts, self._parse)

    def _leave_out(self, what: str, line: bytes) -> None:
        self._state_of_line.append("")
        self.damaged.append(line)
        if len(self.damaged) <= MOST_NAMED:
            log.left_out(what)

    def _parse(self, number: int, line: bytes) -> Outcome:
        try:
            return from_line(Outcome, line, loads=parsed_line)
        except InvalidRecord as e:  # since it was indexed
            raise HostError(f"{self.path}, line {number + 1}: {e}", hint="resume the run") from None

    def _know(self, outcome: Ended | Outcome, number: int) -> None:
        self.forget(outcome.id)
        place = self._place(outcome.id)
        if place is None:
            place = self._others[outcome.id] = self._first_other + len(self._others)
        self._line_at.extend([NONE] * (place + 1 - len(self._line_at)))
        self._line_at[place] = number
        self.planned += place < self._first_other
        self._state_of_line.append(intern(outcome.state))
        self.states[outcome.state] += 1

    def _place(self, item_id: str) -> int | None:
        place = self._places.get(item_id)
        return self._others.get(item_id) if place is None else place

    def _number(self, item_id: str) -> int | None:
        """The number of an item's line; None where it has not ended."""
        place = self._place(item_id)
        if place is None or place >= len(self._line_at) or self._line_at[place] == NONE:
            return None
        return self._line_at[place]

    def appended(self, outcome: Outcome, size: int) -> None:
        """Know an outcome whose line of so many bytes was added to the journal."""
        if self._lines is None:
            self._lines = LineFile(self.path, array("q", [0]), self._parse)
        self._know(outcome, len(self._lines))
        self._lines.append(size)

    def forget(self, item_id: str) -> None:
        place, number = self._place(item_id), self._number(item_id)
        if place is not None and number is not None:
            self._line_at[place] = NONE
            self.planned -= place < self._first_other
            self.states[self._state_of_line[number]] -= 1

    def state_of(self, item_id: str) -> str | None:
        """The state of an item that ended, without reading its line."""
        number = self._number(item_id)
        return None if number is None else self._state_of_line[number]

    def lines_from(self, first: int, state: str) -> Iterator[tuple[str, str]]:
        """The ids of items that ended in this state, in the line of this number or later, and their lines."""
        if self._lines is None or first == self.next_line:
            return
        for item_id in chain(self._places, self._others):
            number = self._number(item_id)
            if number is not None and number >= first and self._state_of_line[number] == state:
                yield item_id, self._lines.line(number).decode().rstrip("\n")

    @property
    def next_line(self) -> int:
        """The number of the next line of the journal."""
        return len(self._state_of_line)

    def __getitem__(self, item_id: str) -> Outcome:
        number = self._number(item_id)
        if number is None or self._lines is None:
            raise KeyError(item_id)
        return self._lines[number]

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self._number(item_id) is not None

    def __iter__(self) -> Iterator[str]:
        ids = chain(self._places, self._others) if self.states.total() else ()
        return (item_id for item_id in ids if self._number(item_id) is not None)

    def __len__(self) -> int:
        return self.states.total()


def _repaired(path: Path, places: Mapping[str, int]) -> Outcomes:
    """The outcomes of a journal, from which damaged lines are moved into a file beside it: their items have not ended."""
    outcomes = Outcomes(path, places)
    if not outcomes.damaged:
        return outcomes
    aside = path.with_name(f"{path.name}.damaged")
    with open(aside, "ab") as f:
        f.writelines(outcomes.damaged)
    with open_atomic(path) as f, open(path, "rb") as lines:
        damaged = set(outcomes.damaged)
        f.writelines(line.decode() for line in lines if line.endswith(b"\n") and line not in damaged)
    log.get().warning("journal_repaired", lines=len(outcomes.damaged), file=str(aside))
    return Outcomes(path, places)


class RunJournal:
    """Every item of a run that ended, in order of ending. Each id is in it once, or again after `reopen`; the last counts.

    places: of the items of the run (`Plan.places`), None for any.
    """

    def __init__(self, path: Path, places: Mapping[str, int] | None = None) -> None:
        self._places = places
        self.outcomes = _repaired(path, {} if places is None else places)
        self._journal = Journal(path)
        self._first_new = self.outcomes.next_line

    def reopen(self, ids: Iterable[str]) -> None:
        """Let these items end again; the outcomes that they have stay in the file until then."""
        for item_id in ids:
            self.outcomes.forget(item_id)

    def asked_for(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        """Those outcomes that are of this run; a host may name others, which is said."""
        for outcome in outcomes:
            if self._places is None or outcome.id in self._places:
                yield outcome
            else:
                log.get().warning("foreign_result_ignored", id=outcome.id, note="it was not asked for")

    def add(self, outcomes: Iterable[Outcome]) -> list[str]:
        """Write outcomes down, with one flush to disk for MOST_AT_ONCE; the ids of those whose items had not ended before."""
        asked, ended = self.asked_for(outcomes), list[str]()
        while some := list(islice(asked, MOST_AT_ONCE)):
            new: dict[str, Outcome] = {}
            for outcome in some:
                if outcome.id not in self.outcomes:
                    new.setdefault(outcome.id, outcome)
            if new:
                with interrupts_deferred():  # what takes over after Ctrl-C must know what was written
                    for outcome, size in zip(new.values(), self._journal.append(*new.values()), strict=True):
                        self.outcomes.appended(outcome, size)
                ended += new
        return ended

    def new_answers(self) -> Iterator[tuple[str, str]]:
        """The ids of items that were upsampled since the journal was opened, and their lines."""
        return self.outcomes.lines_from(self._first_new, UPSAMPLED)

    def close(self) -> None:
        self._journal.close()
