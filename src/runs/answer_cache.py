"""Answers already paid for, kept over runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..cache_table import CacheTable
from ..line_json import parsed_line
from ..worker.protocol import UPSAMPLED, Outcome
from ..worker.records import InvalidRecord, from_line


class AnswerCache:
    """Answers by item identity; only `upsampled` ones, since a kept prompt may do better next time."""

    def __init__(self, cache_dir: Path) -> None:
        self._table = CacheTable(cache_dir / "answers.sqlite", "answers", "outcome", "answer_cache_unusable")

    def put(self, answers: Iterable[tuple[str, str]]) -> None:
        """Keep answers: the ids of items that were upsampled, and their outcomes as lines of JSON. One that is there stays."""
        self._table.put(answers)

    def find(self, ids: Iterable[str]) -> Iterator[Outcome]:
        """The answers that are there, of those asked for."""
        for item_id, line in self._table.find(ids):
            try:
                outcome = from_line(Outcome, line, loads=parsed_line)
                if outcome.id == item_id and outcome.state == UPSAMPLED:
                    yield outcome
            except InvalidRecord as e:
                self._table.warn(e)
