"""The answer cache: kept over runs, by item identity, and never the reason why a run fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from src import log
from src.runs.answer_cache import AnswerCache
from src.worker.protocol import Attempt, Outcome
from src.worker.records import to_line

ANSWER = Outcome("a", "upsampled", text="A long boat. 雨", attempts=(Attempt(1, 20),))


def kept(outcome: Outcome) -> tuple[str, str]:
    return outcome.id, to_line(outcome)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The facts of each warning that is logged."""
    found: list[dict[str, str]] = []

    class Log:
        def warning(self, event: str, **facts: str) -> None:
            found.append({"event": event, **facts})

    monkeypatch.setattr(log, "get", Log)
    return found


def test_answers_are_found_by_id(tmp_path: Path) -> None:
    AnswerCache(tmp_path / "cache").put(map(kept, [ANSWER, Outcome("b", "upsampled", text="Another one.")]))
    cache = AnswerCache(tmp_path / "cache")
    assert list(cache.find(["a", "unknown"])) == [ANSWER]
    assert len(list(cache.find(["b", "a"]))) == 2


def test_first_answer_stays(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put([kept(ANSWER)])
    cache.put([kept(Outcome("a", "upsampled", text="A later answer."))])
    assert list(cache.find(["a"])) == [ANSWER]


def test_damaged_cache_is_set_aside(tmp_path: Path, warnings: list[dict[str, str]]) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"no database" * 1000)
    cache = AnswerCache(tmp_path)
    cache.put([kept(ANSWER)])
    assert list(cache.find(["a"])) == [ANSWER]
    assert [w["event"] for w in warnings] == ["answer_cache_unusable"]
    assert (tmp_path / "answers.sqlite.damaged").exists()


def test_unusable_cache_is_only_reported(tmp_path: Path, warnings: list[dict[str, str]]) -> None:
    file = tmp_path / "answers.sqlite"
    file.mkdir()
    cache = AnswerCache(tmp_path)
    cache.put([kept(ANSWER)])
    assert list(cache.find(["a"])) == []
    assert [w["event"] for w in warnings] == ["answer_cache_unusable"] * 2
    assert warnings[0]["file"] == str(file)


def test_changed_letter_is_noticed_and_replaced(tmp_path: Path, warnings: list[dict[str, str]]) -> None:
    cache = AnswerCache(tmp_path)
    cache.put([kept(ANSWER)])
    with sqlite3.connect(tmp_path / "answers.sqlite") as db:
        db.execute("UPDATE answers SET outcome = replace(outcome, 'long', 'lOng')")
    db.close()
    assert list(cache.find(["a"])) == []
    assert "a: is not what was kept" in warnings[0]["reason"]
    cache.put([kept(ANSWER)])
    assert list(cache.find(["a"])) == [ANSWER]


def test_damaged_answer_is_only_reported(tmp_path: Path, warnings: list[dict[str, str]]) -> None:
    cache = AnswerCache(tmp_path)
    cache.put([kept(ANSWER)])
    with sqlite3.connect(tmp_path / "answers.sqlite") as db:
        db.execute("UPDATE answers SET outcome = '{}'")
    db.close()
    assert list(cache.find(["a"])) == []
    assert "id: missing" in warnings[0]["reason"]
