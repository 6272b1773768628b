"""An item that kills its worker is found by halving, and fails alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

from src.worker.engines.engine import Answer, Request
from src.worker.suspects import ENOUGH, Suspects, halves
from tests.harness.fake_engine import Child, FakeEngine, distinct_reply, results, stage, write_job
from tests.harness.records import JOB, item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def death(file: Path, *asked: str, back: tuple[str, ...] = ()) -> Suspects:
    """A worker that asks these items and is killed; what the next one knows, which is killed while it loads."""
    suspects = Suspects(file)
    for item_id in asked:
        suspects.asked(item_id)
    for item_id in back:
        suspects.back(item_id)
    return Suspects(file)


def test_first_death_accuses_no_item(tmp_path: Path) -> None:
    assert death(tmp_path / "f", "a", "b").ids == ()


def test_items_of_both_deaths_are_suspect(tmp_path: Path) -> None:
    death(tmp_path / "f", "a", "b", "c", back=("a",))
    again = death(tmp_path / "f", "b", "c", "d", back=("c",))
    assert (again.ids, again.culprit, again.deaths) == (("b",), "", ENOUGH)
    assert death(tmp_path / "f", "b").culprit == "b"


def test_unrelated_deaths_accuse_no_item(tmp_path: Path) -> None:
    for item_id in "abcdef":
        assert death(tmp_path / "f", item_id).ids == ()


def test_own_end_accuses_no_item(tmp_path: Path) -> None:
    death(tmp_path / "f", "a")
    Suspects(tmp_path / "f").clear()
    assert death(tmp_path / "f", "a").ids == ()


def test_damaged_record_accuses_no_item(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"#x\n\xff\xff\n!\n-a\n#99")
    assert Suspects(tmp_path / "f").ids == ()


@pytest.mark.parametrize("n", [1, 2, 3, 8, 100])
def test_halves_are_all_items_in_order(n: int) -> None:
    groups, given = [0], list[int]()
    for number in halves(range(n), lambda: groups.append(len(given)) is None):
        given.append(number)
    assert given == [*range(n)]
    assert max(b - a for a, b in itertools.pairwise(groups)) == (n + 1) // 2


@pytest.mark.parametrize("in_flight", [1, 8])
def test_poison_fails_alone(folder: Path, in_flight: int) -> None:
    write_job(folder, JOB)
    stage(folder, [item(i) for i in "abcdefgh"])

    def answer(request: Request) -> Answer:
        if request.item.id == "d":
            os.kill(os.getpid(), signal.SIGKILL)
        return distinct_reply(request)

    deaths = 0
    while Child(folder, FakeEngine(answer, concurrency=in_flight)).wait() == -signal.SIGKILL:
        deaths += 1
        assert deaths < 8
    states = {r["id"]: r["state"] for r in results(folder)}
    assert states == {**dict.fromkeys("abcdefgh", "upsampled"), "d": "failed"}
    [reason] = [r["reason"] for r in results(folder) if r["id"] == "d"]
    assert reason == f"the worker died {deaths} times while this item was in flight, the last time alone"
    assert json.loads((folder / "exit.json").read_text())["code"] == 0
