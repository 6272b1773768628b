"""A table of texts by key in the cache folder, shared by all runs."""

from __future__ import annotations

import hashlib
import os
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
        self._delete = f"DELETE FROM {name} WHERE id = ?"
        self._insert = f"INSERT OR IGNORE INTO {name} VALUES (?, ?)"

    def _open(self) -> closing[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.file, timeout=30)
        try:
            db.execute(self._create)
        except sqlite3.OperationalError:  # of the moment, or of the disk
            raise
        except sqlite3.DatabaseError as e:
            db.close()
            self.warn(e)
            os.replace(self.file, self.file.with_name(f"{self.file.name}.damaged"))
            return self._open()
        return closing(db)

    def put(self, rows: Iterable[tuple[str, str]]) -> None:
        """Keep (key, text) pairs; one that is there already stays."""
        try:
            with self._open() as db, db:
                db.executemany(self._insert, ((key, _with_hash(text)) for key, text in rows))
        except (sqlite3.Error, OSError) as e:
            self.warn(e)

    def find(self, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
        """The (key, text) pairs that are there, of those asked for; a text that is not what was kept is reported."""
        try:
            with self._open() as db:
                for key in keys:
                    if row := db.execute(self._select, (key,)).fetchone():
                        text, tab, _ = row[0].rpartition("\t")
                        if not tab:  # of a version that kept no hash
                            yield key, row[0]
                        elif _with_hash(text) == row[0]:
                            yield key, text
                        else:
                            self.warn(ValueError(f"{key}: is not what was kept"))
                            db.execute(self._delete, (key,))
                            db.commit()
        except (sqlite3.Error, OSError) as e:
            self.warn(e)

    def warn(self, error: Exception) -> None:
        log.get().warning(self._event, file=str(self.file), reason=str(error))


def _with_hash(text: str) -> str:
    return f"{text}\t{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
