"""How items end: one outcome each, kept in the run's journal and, over runs, in the answer cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launchers.worker import Journal, read_records

UPSAMPLED, KEPT, FAILED = "upsampled", "kept", "failed"
STATES = (UPSAMPLED, KEPT, FAILED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one item ended: the worker's result line, or our own word where the worker was never asked.

    state: upsampled, kept (the original prompt stands) or failed, with the reason. text: the answer, for `upsampled`.
    refusal: too_long or no_room when the engine had no room for it, else "".
    """

    id: str
    state: str
    reason: str = ""
    text: str | None = None
    note: str = ""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    engine: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int | None] = field(default_factory=dict)
    finish_reason: str | None = None
    frames: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float | None] = field(default_factory=dict)
    refusal: str = ""

    @staticmethod
    def of(record: dict[str, Any]) -> Outcome:
        """From a journal line; fields that a newer worker adds are left out."""
        return Outcome(**{k: v for k, v in record.items() if k in Outcome.__dataclass_fields__})


def read_outcomes(journal: Path) -> dict[str, Outcome]:
    """What a run's journal says, by item id."""
    return {r["id"]: Outcome.of(r) for r in read_records(journal)}


class RunJournal:
    """Every item of a run that ended, in order of ending. Each id is in it once."""

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)
        self.outcomes = read_outcomes(path)

    def add(self, outcome: Outcome) -> bool:
        """Write an outcome down; False when its item had already ended."""
        if outcome.id in self.outcomes:
            return False
        # Known first: Ctrl-C comes while the line goes to disk, and who then takes over what is left must not write it
        # again. Was it not written yet, the next start takes it from its job.
        self.outcomes[outcome.id] = outcome
        self._journal.append(asdict(outcome))
        return True

    def close(self) -> None:
        self._journal.close()
