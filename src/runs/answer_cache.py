"""Answers already paid for, kept over runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from .. import log
from ..worker.protocol import Outcome
from ..worker.records import InvalidRecord, from_line


class AnswerCache:
    """Answers by item identity; only `upsampled` ones, since a kept prompt may do better next time. A cache that cannot be
    used is reported, and costs nothing but its answers."""

    def __init__(self, cache_dir: Path) -> None:
        self._path = cache_dir / "answers.sqlite"

    def _open(self) -> closing[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=30)
        db.execute("CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, outcome TEXT NOT NULL)")
        return closing(db)

    def put(self, answers: Iterable[tuple[str, str]]) -> None:
        """Keep answers: the ids of items that were upsampled, and their outcomes as lines of JSON. One that is there stays."""
        try:
            with self._open() as db, db:
                db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", answers)
        except (sqlite3.Error, OSError, InvalidRecord) as e:
            self._warn(e)

    def find(self, ids: Iterable[str]) -> Iterator[Outcome]:
        """The answers that are there, of those asked for."""
        try:
            with self._open() as db:
                for item_id in ids:
                    row = db.execute("SELECT outcome FROM answers WHERE id = ?", (item_id,)).fetchone()
                    if row:
                        yield from_line(Outcome, row[0])
        except (sqlite3.Error, OSError, InvalidRecord) as e:
            self._warn(e)

    def _warn(self, error: Exception) -> None:
        log.get().warning("answer_cache_unusable", file=str(self._path), reason=str(error))
