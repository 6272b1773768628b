"""How the items of a run end: one outcome each, kept in the run's journal."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import InputError
from ..worker.journal import Journal, read_records
from ..worker.protocol import Outcome
from ..worker.records import InvalidRecord


def read_outcomes(journal: Path) -> dict[str, Outcome]:
    """The outcomes in a run's journal, by item id. Raises InputError for a line that is not one."""
    try:
        return {outcome.id: outcome for outcome in read_records(journal, Outcome)}
    except InvalidRecord as e:
        raise InputError(str(e), hint="remove that line; its item is then taken from its job, or asked again") from None


class RunJournal:
    """Every item of a run that ended, in order of ending. Each id is in it once, or again after `reopen`; the last counts."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self.outcomes = read_outcomes(path)

    def reopen(self, ids: Collection[str]) -> None:
        """Let these items end again; the outcomes that they have stay in the file until then."""
        for item_id in ids:
            self.outcomes.pop(item_id, None)

    def add(self, outcome: Outcome) -> bool:
        """Write an outcome down; False when its item had already ended."""
        if outcome.id in self.outcomes:
            return False
        # Known first: Ctrl-C may come while the line goes to disk, and what then takes over must not write it again. If it
        # was not written, the next start takes it from its job.
        self.outcomes[outcome.id] = outcome
        self._journal.append(outcome)
        return True

    def close(self) -> None:
        self._journal.close()
