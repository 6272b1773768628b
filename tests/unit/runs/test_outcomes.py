"""The journal of a run: each item ends once, and its last outcome counts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from src.run_folder import RunPaths
from src.runs import outcomes
from src.runs.outcomes import Outcomes, RunJournal
from src.worker.journal import Journal
from src.worker.protocol import FAILED, KEPT, UPSAMPLED, Outcome
from src.worker.records import to_checked_line
from tests.harness.records import ids_in


@pytest.fixture
def path(paths: RunPaths) -> Path:
    return paths.journal


def test_item_ends_once(path: Path) -> None:
    journal = RunJournal(path)
    assert journal.add([Outcome("a", KEPT)]) and journal.add([Outcome("b", KEPT)])
    assert not journal.add([Outcome("a", UPSAMPLED, text="A boat.")])
    journal.close()
    assert ids_in(path) == ["a", "b"]
    assert Outcomes(path)["a"].state == KEPT


def test_outcomes_survive_reopening(path: Path) -> None:
    first = RunJournal(path)
    first.add([Outcome("a", KEPT, "no frames")])
    first.close()
    second = RunJournal(path)
    assert second.outcomes == {"a": Outcome("a", KEPT, "no frames")}
    assert not second.add([Outcome("a", UPSAMPLED)])
    second.close()


def test_reopened_item_may_end_again(path: Path) -> None:
    journal = RunJournal(path)
    journal.add([Outcome("a", KEPT)])
    journal.reopen(["a", "unknown"])
    assert journal.outcomes == {} and Outcomes(path)["a"].state == KEPT
    assert journal.add([Outcome("a", UPSAMPLED, text="A boat.")])
    journal.close()
    assert ids_in(path) == ["a", "a"]
    assert Outcomes(path)["a"].state == UPSAMPLED


def test_only_new_answers_are_worth_keeping(path: Path) -> None:
    before = RunJournal(path)
    before.add([Outcome("old", UPSAMPLED, text="A boat.")])
    before.close()
    journal, new = RunJournal(path), Outcome("new", UPSAMPLED, text="A long boat. 雨")
    journal.add([Outcome("k", KEPT), new, Outcome("f", FAILED)])
    assert list(journal.new_answers()) == [("new", to_checked_line(new).decode().rstrip())]
    journal.close()


def test_long_list_is_written_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_AT_ONCE", 3)
    ids = [f"item {n}" for n in range(8)]
    places = {item_id: 2 * n for n, item_id in enumerate(ids)}
    journal = RunJournal(path, places)
    again = [Outcome("item 1", UPSAMPLED, text="A boat."), *(Outcome(i, KEPT) for i in ids), Outcome("item 7", FAILED)]
    assert sorted(journal.add(again)) == ids and not journal.add(again)
    journal.close()
    for known in (journal.outcomes, Outcomes(path), Outcomes(path, places), Outcomes(path, {ids[1]: 5})):
        assert sorted(known) == ids and known.states == {UPSAMPLED: 1, KEPT: 7}
        assert known["item 1"].text == "A boat." and known.state_of("item 7") == KEPT
        assert "item 8" not in known and known.state_of("item 8") is None


def test_ctrl_c_while_writing_writes_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, append = RunJournal(path), Journal.append

    def interrupted(self: Journal, *records: object) -> list[int]:
        os.kill(os.getpid(), signal.SIGINT)
        return append(self, *records)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.add([Outcome("a", KEPT)])
    assert not journal.add([Outcome("a", KEPT)]) and journal.add([Outcome("b", KEPT)])
    journal.close()
    assert ids_in(path) == ["a", "b"]


def test_missing_journal_has_no_outcomes(path: Path) -> None:
    assert Outcomes(path) == {}


@pytest.mark.parametrize("damaged", [b'{"id": "b"}', b"nonsense", b"\xff\x00", b""])
def test_damaged_line_is_set_aside(path: Path, capsys: pytest.CaptureFixture[str], damaged: bytes) -> None:
    path.write_bytes(b'{"id": "a", "state": "kept"}\n' + damaged + b'\n{"id": "c", "state": "kept"}\n')
    journal = RunJournal(path)
    assert [*journal.outcomes] == ["a", "c"] and journal.outcomes.states == {"kept": 2}
    journal.add([Outcome("b", FAILED)])
    journal.close()
    assert ids_in(path) == ["a", "c", "b"]
    assert path.with_name("journal.jsonl.damaged").read_bytes() == damaged + b"\n"
    assert "journal.jsonl, line 2: " in capsys.readouterr().out


def test_changed_letter_is_damage(path: Path) -> None:
    journal = RunJournal(path)
    journal.add(Outcome(i, UPSAMPLED, text=f"A boat in the sun, {i}.") for i in "abc")
    journal.close()
    whole = path.read_bytes()
    for at in range(whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        known = Outcomes(path)
        assert all(known[i] == Outcome(i, UPSAMPLED, text=f"A boat in the sun, {i}.") for i in known)
        assert {"a", "c"} <= set(known)


def test_outcome_not_asked_for_is_left_out(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = RunJournal(path, {"a": 0, "b": 1})
    assert journal.add([Outcome("deadbeef", KEPT), Outcome("a", KEPT)]) == ["a"]
    journal.close()
    assert ids_in(path) == ["a"] and "deadbeef" in capsys.readouterr().out
