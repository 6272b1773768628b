"""A journal that grows, read as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from .. import log
from ..errors import HostError
from ..line_json import parsed_line
from ..worker.records import InvalidRecord, from_line

MOST_DAMAGED = 100  # lines of one file that are left out before its host is given up

T = TypeVar("T")


class Tail(Generic[T]):
    """The whole lines that were added to a journal since the last call. damaged: how many were left out; wrong: with the last."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self.kind, self.at, self.damaged, self.wrong = path, kind, 0, 0, ""

    def restart_if_shorter(self) -> None:
        """After a journal may have been emptied, and before it can have grown beyond this position."""
        if not self.path.exists() or self.path.stat().st_size < self.at:
            self.at = 0

    def new(self) -> Iterator[T]:
        """A line that is damaged, or not what it must be, is left out, which is said. Raises HostError for too many of them."""
        self.restart_if_shorter()
        try:
            f = open(self.path, "rb")
        except FileNotFoundError:
            return
        with f:
            f.seek(self.at)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                start, self.at = self.at, self.at + len(line)
                try:
                    record = from_line(self.kind, line, loads=parsed_line)
                except InvalidRecord as e:
                    self._leave_out(f"{self.path}, byte {start}: {e}")
                else:
                    yield record

    def _leave_out(self, what: str) -> None:
        self.damaged, self.wrong = self.damaged + 1, what
        if self.damaged > MOST_DAMAGED:
            raise HostError(f"{what}; so are {MOST_DAMAGED} lines before it", hint="the worker's output is damaged")
        log.left_out(what)
