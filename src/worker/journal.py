"""Append-only JSON lines that survive a kill, and JSON files that appear whole."""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from .records import MAX_LINE, InvalidRecord, from_line, to_checked_line, to_json

GATHER_S = 0.02

T = TypeVar("T")

# ---------------------------------------------------------------------------------------------------------- journal


@dataclass
class _Group:
    """Lines that are written together, and how that ended."""

    lines: list[bytes] = field(default_factory=list)
    is_over: bool = False
    error: OSError | None = None


class Journal:
    """An append-only file of JSON lines; a torn tail is cut off on opening. What several threads append while one waits for the
    disk is one write and one fsync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._next, self._adding, self._writing = _Group(), threading.Lock(), threading.Lock()
        whole = whole_length(path)
        if whole != os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, whole)
        sync_folder(path.parent)

    def append(self, *records: object) -> list[int]:
        """Write records and wait until they are on disk, all of them or none; how many bytes the line of each has."""
        lines = [to_checked_line(record) for record in records]
        with self._adding:
            group = self._next
            group.lines += lines
        with self._writing:
            if not group.is_over:
                with self._adding:
                    self._next = _Group()
                group.error, group.is_over = self._failure_of(b"".join(group.lines)), True
        if e := group.error:
            raise OSError(e.errno, e.strerror, e.filename or str(self.path))
        return [len(line) for line in lines]

    def _failure_of(self, data: bytes) -> OSError | None:
        """Write; after a failure nothing is there of it, for whoever tries again writes all of it."""
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError(errno.ENOSPC, "no space left on device")
            os.fsync(self._fd)
        except OSError as e:
            os.ftruncate(self._fd, size)
            return e
        return None

    def close(self) -> None:
        os.close(self._fd)


class Outbox(Generic[T]):
    """Records of many threads on their way to a journal. One thread writes them, all that wait at a time and at most each GATHER_S:
    a thread that waits for the disk itself costs several switches of threads.

    written: told of each record that is on disk. failed: told why one cannot be written; nothing is written after that.
    """

    def __init__(self, journal: Journal, written: Callable[[T], None], failed: Callable[[BaseException], None]) -> None:
        self._journal, self._written, self._failed = journal, written, failed
        self._waiting: queue.SimpleQueue[T | None] = queue.SimpleQueue()  # None: the last
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, record: T) -> None:
        self._waiting.put(record)

    def close(self) -> None:
        """Wait until all of them are on disk, or cannot be written."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            taken = [self._waiting.get(), *(self._waiting.get() for _ in range(self._waiting.qsize()))]
            records, is_last = [record for record in taken if record is not None], None in taken
            try:
                if records:
                    self._journal.append(*records)
                for record in records:
                    self._written(record)
            except Exception as e:  # a thread must not die silently
                self._failed(e)
                return
            time.sleep(0 if is_last else GATHER_S)


def whole_length(path: Path) -> int:
    """Bytes up to and with the last newline: what has been committed."""
    with open(path, "rb") as f:
        at = f.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - 65_536)
            f.seek(start)
            cut = f.read(at - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            at = start
    return 0


def read_records(path: Path, kind: type[T], on_damage: Callable[[str], None] | None = None) -> Iterator[T]:
    """Committed records of a journal, in order; none when the file is not there. A torn last line is left out.

    on_damage: told of a line that is not a record of this kind, by file, line and field, which is then left out; without it,
    such a line is an InvalidRecord.
    """
    try:
        f = open(path, "rb")
    except FileNotFoundError:
        return
    with f:
        for number, line in enumerate(iter(lambda: f.readline(MAX_LINE + 1), b""), start=1):
            if line.endswith(b"\n") or len(line) > MAX_LINE:
                try:
                    record = from_line(kind, line, MAX_LINE)
                except InvalidRecord as e:
                    said = f"{path}, line {number}: {e}"
                    if on_damage is None:
                        raise InvalidRecord(said) from None
                    on_damage(said)
                else:
                    yield record


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, record: object) -> None:
    """Write a JSON file aside, flush it to disk, rename it."""
    aside = path.with_name(path.name + ".part")
    with open(aside, "w", encoding="ascii") as f:
        json.dump(to_json(record), f, ensure_ascii=True, allow_nan=False)
        f.flush()
        os.fsync(f.fileno())
    os.replace(aside, path)
    sync_folder(path.parent)
