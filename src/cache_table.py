"""A table of texts by key in the cache folder, shared by all runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from . import log


class CacheTable:
    """Texts by key. A table that cannot be used is reported, and costs nothing but what is in it.

    name: of the table; event: of the warning.
    """

    def __init__(self, file: Path, name: str, column: str, event: str) -> None:
        self.file, self._event = file, event
        self._create = f"CREATE TABLE IF NOT EXISTS {name} (id TEXT PRIMARY KEY, {column} TEXT NOT NULL)"
        self._select = f"SELECT {column} FROM {name} WHERE id = ?"
        self._insert = f"INSERT OR IGNORE INTO {name} VALUES (?, ?)"

    def _open(self) -> closing[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.file, timeout=30)
        db.execute(self._create)
        return closing(db)

    def put(self, rows: Iterable[tuple[str, str]]) -> None:
        """Keep (key, text) pairs; one that is there already stays."""
        try:
            with self._open() as db, db:
                db.executemany(self._insert, rows)
        except (sqlite3.Error, OSError) as e:
            self.warn(e)

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The (key, text) pairs that are there, of those asked for."""
        try:
            with self._open() as db:
                for key in keys:
                    if row := db.execute(self._select, (key,)).fetchone():
                        yield key, row[0]
        except (sqlite3.Error, OSError) as e:
            self.warn(e)

    def warn(self, error: Exception) -> None:
        log.get().warning(self._event, file=str(self.file), reason=str(error))
