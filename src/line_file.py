"""Lines of a file that are read when they are asked for: a list of a million records that takes 8 bytes of memory each."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar, overload

T = TypeVar("T")
READ_BYTES = 1 << 20


class LineFile(Generic[T], Sequence[T]):
    """Neighbouring lines of one file as values; `parse` gets the number of a line, from 0, and its bytes.

    The file must not change but by lines that are appended to it. May be read by several threads at a time.
    """

    def __init__(self, file: Path | BinaryIO, starts: array[int], parse: Callable[[int, bytes], T]) -> None:
        """starts: where each line begins, in bytes, and where the last one ends."""
        self._fd = os.open(file, os.O_RDONLY) if isinstance(file, Path) else os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)
        self._starts, self._parse = starts, parse

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        n = range(len(self))[at]
        return self._parse(n, self.line(n))

    def __iter__(self) -> Iterator[T]:
        return (self._parse(n, line) for n, line in enumerate(self.lines()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def line(self, n: int) -> bytes:
        start = self._starts[n]
        return os.pread(self._fd, self._starts[n + 1] - start, start)

    def lines(self) -> Iterator[bytes]:
        """All lines in order, read in large pieces."""
        n, count = 0, len(self)
        while n < count:
            start, first = self._starts[n], n
            while n < count and (n == first or self._starts[n + 1] - start <= READ_BYTES):
                n += 1
            piece = os.pread(self._fd, self._starts[n] - start, start)
            for at in range(first, n):
                yield piece[self._starts[at] - start : self._starts[at + 1] - start]

    def append(self, size: int) -> None:
        """A line of so many bytes was added to the file."""
        self._starts.append(self._starts[-1] + size)


class Spool:
    """A nameless file of lines: written from first to last, and then read."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = tempfile.TemporaryFile(dir=folder)
        self.starts = array("q", [0])

    def write(self, line: bytes) -> None:
        self.file.write(line)
        self.starts.append(self.starts[-1] + len(line))

    def lines(self) -> Iterator[bytes]:
        self.file.flush()
        return LineFile(self.file, self.starts, lambda _, line: line).lines()
