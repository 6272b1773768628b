"""The journal: whole lines only, on disk one by one, whatever cuts a write short."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.worker.journal import GATHER_S, Journal, Outbox, read_records, whole_length, write_json
from src.worker.records import InvalidRecord


@dataclass(frozen=True)
class Line:
    id: str
    text: str = ""
    number: int | None = None


def lines(path: Path) -> list[Line]:
    return list(read_records(path, Line))


def write(path: Path, *records: Line) -> None:
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_reopened_journal_keeps_whole_lines(path: Path) -> None:
    records = [Line("a", "one"), Line("b", "zwei \u2028 \U0001f327"), Line("c", number=3)]
    write(path, *records)
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        write(path, Line("new"))
        assert lines(path) == [*records[: data[:cut].count(b"\n")], Line("new")], cut


@pytest.mark.parametrize("length", [1, 65_535, 65_536, 65_537, 200_000])
def test_torn_tail_is_cut_off_on_opening(path: Path, length: int) -> None:
    path.write_bytes(b'{"id":"a"}\n' + b"x" * length)
    assert whole_length(path) == 11
    Journal(path).close()
    assert path.read_bytes() == b'{"id":"a"}\n'


def test_torn_tail_is_not_read(path: Path) -> None:
    path.write_bytes(b'{"id":"a"}\n{"id":"b"}')  # valid JSON, but not committed
    assert lines(path) == [Line("a")]


def test_missing_journal_has_no_records(path: Path) -> None:
    assert lines(path) == []


def test_line_separators_do_not_split_a_record(path: Path) -> None:
    text = "first\u2028second\u2029third\x85fourth\x0b\x0c\x1c\x1d\x1e\r\nlast 雨 \U0001f327 \x00"
    write(path, Line("a", text), Line("b"))
    assert lines(path) == [Line("a", text), Line("b")]
    assert path.read_bytes().count(b"\n") == 2


def test_invalid_line_is_reported_by_number(path: Path) -> None:
    path.write_bytes(b'{"id":"a"}\n{"id":3}\n')
    with pytest.raises(InvalidRecord, match=r"journal\.jsonl, line 2: id: 3 is not a valid str"):
        lines(path)


@contextlib.contextmanager
def file_size_limit(path: Path, more_bytes: int) -> Iterator[None]:
    """Cut writes beyond the present size plus this, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_no_partial_line(path: Path) -> None:
    journal = Journal(path)
    journal.append(Line("a"))
    with file_size_limit(path, 10), pytest.raises(OSError, match=r"no space left"):
        journal.append(Line("b", "x" * 100))
    journal.append(Line("c"))  # the disk has space again
    journal.close()
    assert lines(path) == [Line("a"), Line("c")]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_failed_append_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal, write = Journal(path), os.write
    journal.append(Line("a"))

    def failing(fd: int, data: bytes = b"") -> int:
        write(fd, data[: len(data) * 2 // 3])
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match="broken"):
            journal.append(Line("b"), Line("c"))
    journal.append(Line("b"), Line("c"))  # tried again
    journal.close()
    assert lines(path) == [Line("a"), Line("b"), Line("c")]


def test_invalid_number_is_refused_before_writing(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"x": float("nan")})
    journal.close()
    assert path.read_bytes() == b""


def test_concurrent_records_do_not_mix(path: Path) -> None:
    journal = Journal(path)

    def append_all(writer: int) -> None:
        for number in range(10):
            journal.append(Line(f"{writer}", "y" * 3000, number))

    threads = [threading.Thread(target=append_all, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert sorted((r.id, r.number) for r in lines(path)) == [(str(w), n) for w in range(8) for n in range(10)]


def appended_at_once(journal: Journal, count: int) -> list[str]:
    """What so many threads met that appended a line each, while the disk was busy with another line."""
    met: list[str] = []

    def append(number: int) -> None:
        try:
            journal.append(Line("", "", number))
            met.append("")
        except OSError as e:
            met.append(str(e))

    threads = [threading.Thread(target=append, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return met


def test_lines_of_many_threads_share_a_flush(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, flushes = Journal(path), list[int]()
    monkeypatch.setattr(os, "fsync", lambda fd: (flushes.append(fd), time.sleep(0.05)))
    assert appended_at_once(journal, 16) == [""] * 16
    journal.close()
    assert {line.number for line in lines(path)} == {*range(16)} and len(flushes) < 8


def test_failed_flush_is_told_to_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(path)

    def failing(fd: int) -> None:
        time.sleep(0.05)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", failing)
    assert all("broken" in message and str(path) in message for message in appended_at_once(journal, 8))
    journal.close()
    assert path.read_bytes() == b""


def test_outbox_writes_all_in_few_flushes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk, told, flushes, failures = list[int](), list[int | None](), list[int](), list[BaseException]()
    journal = Journal(path)
    monkeypatch.setattr(os, "fsync", flushes.append)

    def tell(line: Line) -> None:
        told.append(line.number)
        on_disk.append(path.read_bytes().count(b"\n"))

    outbox = Outbox(journal, tell, failures.append)
    started = time.monotonic()
    for number in range(200):
        outbox.put(Line("", "", number))
        time.sleep(0.001)
    outbox.close()
    took_s = time.monotonic() - started
    assert [line.number for line in lines(path)] == told == [*range(200)] and not failures
    assert all(written > number for number, written in enumerate(on_disk))  # told once it is there
    assert len(flushes) <= took_s / GATHER_S + 2


def test_outbox_tells_of_a_failure_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, failures, told = Journal(path), list[BaseException](), list[Line]()

    def failing(fd: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    outbox = Outbox(journal, told.append, failures.append)
    monkeypatch.setattr(os, "fsync", failing)
    outbox.put(Line("a"))
    while not failures:
        time.sleep(0.01)
    outbox.put(Line("b"))
    outbox.close()
    assert "no space left" in str(failures[0]) and len(failures) == 1
    assert not told and path.read_bytes() == b""


def test_json_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "exit.json"
    write_json(file, Line("a"))
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"x": float("inf")})
    assert file.read_text() == '{"id": "a", "text": "", "number": null}'
