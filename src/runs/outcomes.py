"""How items end: one outcome each, kept in the run's journal and, over runs, in the answer cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launchers.worker import Journal, read_records

from .. import log

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


class AnswerCache:
    """Answers already paid for, by item identity, over runs; only `upsampled` ones, for a kept prompt may do better
    next time. A cache that cannot be used is reported, and costs nothing but its answers."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / "answers.sqlite"

    def _open(self) -> closing[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=30)
        db.execute("CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, outcome TEXT NOT NULL)")
        return closing(db)

    def put(self, outcomes: Iterable[Outcome]) -> None:
        """Keep answers; one that is there already stays."""
        rows = [(o.id, json.dumps(asdict(o))) for o in outcomes if o.state == UPSAMPLED]
        try:
            with self._open() as db, db:
                db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as e:
            self._warn(e)

    def find(self, ids: Iterable[str]) -> list[Outcome]:
        """The answers that are there, of those asked for."""
        found: list[Outcome] = []
        try:
            with self._open() as db:
                for item_id in ids:
                    row = db.execute("SELECT outcome FROM answers WHERE id = ?", (item_id,)).fetchone()
                    found += [Outcome.of(json.loads(row[0]))] if row else []
        except (sqlite3.Error, OSError) as e:
            self._warn(e)
        return found

    def _warn(self, error: Exception) -> None:
        log.get().warning("answer_cache_unusable", file=str(self._path), reason=str(error))
