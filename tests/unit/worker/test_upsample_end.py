"""How a job that upsamples ends: idle, closed, stopped, at its time limit, by a bug, on a full disk."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.worker import upsample
from src.worker.engines.engine import Answer, Request
from src.worker.journal import read_records
from src.worker.lifecycle import LoadFailed
from src.worker.protocol import CANCELLED, LOAD_FAILED, LOCKED, OK, TIMEOUT
from tests.harness.fake_engine import (
    Child,
    FakeEngine,
    distinct_reply,
    exit_record,
    reply,
    results,
    serve,
    stage,
    wait_until,
    write_job,
)
from tests.harness.records import ENGINE, JOB, item


def answer_when_released(folder: Path) -> FakeEngine:
    """An engine that leaves a file for each request, and answers once the file `release` exists."""

    def answering(request: Request) -> Answer:
        (folder / f"asked-{request.item.id}").touch()
        wait_until((folder / "release").exists)
        return distinct_reply(request)

    return FakeEngine(answering, concurrency=2)


def test_open_job_ends_after_lingering(folder: Path) -> None:
    write_job(folder, replace(JOB, linger_s=0.02))
    stage(folder, [item("a")], closed=False)
    assert serve(folder, FakeEngine()) == OK
    assert exit_record(folder)["answered"] == 1


def test_work_restarts_the_linger_time(folder: Path) -> None:
    write_job(folder, replace(JOB, linger_s=0.1))
    stage(folder, [item("i0")], "00000", closed=False)

    def slow_and_then_more(request: Request) -> Answer:
        time.sleep(0.13)  # in flight for longer than it lingers
        n = int(request.item.id[1:])
        if n < 2:
            stage(folder, [item(f"i{n + 1}")], f"{n + 1:05d}", closed=False)
        return distinct_reply(request)

    serve(folder, FakeEngine(slow_and_then_more))
    assert [r["id"] for r in results(folder)] == ["i0", "i1", "i2"]


@pytest.mark.parametrize("ahead_s", [0, 3600])
def test_open_job_waits_while_attended(folder: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: int) -> None:
    """Also where the clock of the worker's machine is not that of whoever keeps the folder."""
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_s)
    write_job(folder, replace(JOB, linger_s=0.3))
    stage(folder, [item("i0")], "00000", closed=False)

    def attend() -> None:
        for _ in range(10):  # a second, in which the next hints are rendered
            (folder / "lease").touch()
            time.sleep(0.1)
        stage(folder, [item("i1")], "00001", closed=True)

    controller = threading.Thread(target=attend)
    controller.start()
    serve(folder, FakeEngine())
    controller.join()
    assert [r["id"] for r in results(folder)] == ["i0", "i1"]


def test_batches_may_arrive_while_it_works(folder: Path) -> None:
    stage(folder, [item("first")], "00000", closed=False)

    def answering(request: Request) -> Answer:
        if request.item.id == "first":
            stage(folder, [item(f"later{n}") for n in range(5)], "00001", closed=True)
        return distinct_reply(request)

    assert serve(folder, FakeEngine(answering)) == OK
    assert len(results(folder)) == 6


def test_replaced_batch_is_read_again(folder: Path) -> None:
    stage(folder, [item("first")], "00000", closed=False)
    (folder / "batches/00001.jsonl").write_text("{\n")

    def answering(request: Request) -> Answer:
        if request.item.id == "first":
            time.sleep(0.1)  # until the damaged one has been read
            stage(folder, [item("later")], "00001", closed=True)
        return distinct_reply(request)

    assert serve(folder, FakeEngine(answering)) == OK
    assert [r["id"] for r in results(folder)] == ["first", "later"]


def test_batch_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the end, when the worker says what it leaves: a million items take half a minute to read."""
    read = Counter[str]()

    def counting(path: Path, *rest: Any) -> Iterator[Any]:
        read[path.name] += 1
        return read_records(path, *rest)

    monkeypatch.setattr(upsample, "read_records", counting)
    for n in range(3):
        stage(folder, [item(f"i{n}")], f"{n:05d}")
    assert serve(folder, FakeEngine(distinct_reply)) == OK
    assert [read[f"{n:05d}.jsonl"] for n in range(3)] == [1, 1, 1] and exit_record(folder)["not_started"] == []


def test_sigterm_finishes_items_in_flight(folder: Path) -> None:
    stage(folder, [item(f"i{n}") for n in range(8)])
    child = Child(folder, answer_when_released(folder))
    wait_until(lambda: len(list(folder.glob("asked-*"))) == 2)
    child.kill(signal.SIGTERM)
    assert results(folder) == []
    time.sleep(0.1)  # until the signal has been handled
    (folder / "release").touch()
    assert child.wait() == CANCELLED
    assert {(r["id"], r["state"]) for r in results(folder)} == {("i0", "upsampled"), ("i1", "upsampled")}
    end = exit_record(folder)
    assert (end["state"], end["answered"]) == ("cancelled", 2)
    assert end["not_started"] == [f"i{n}" for n in range(2, 8)]


def test_worker_that_waits_for_more_is_cancelled_not_done(folder: Path) -> None:
    stage(folder, [item("only")], closed=False)
    child = Child(folder, FakeEngine(distinct_reply))
    wait_until(lambda: len(results(folder)) == 1)
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert (exit_record(folder)["state"], exit_record(folder)["not_started"]) == ("cancelled", [])


def test_item_beyond_grace_counts_as_not_started(folder: Path) -> None:
    write_job(folder, replace(JOB, engine=replace(ENGINE, grace_s=0.05)))
    stage(folder, [item("quick"), item("stuck"), item("waiting")])

    def answering(request: Request) -> Answer:
        if request.item.id == "stuck":
            (folder / "asked").touch()
            time.sleep(60)
        return distinct_reply(request)

    child = Child(folder, FakeEngine(answering))
    wait_until((folder / "asked").exists)
    started = time.monotonic()
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert 0.05 <= time.monotonic() - started < 10
    assert [r["id"] for r in results(folder)] == ["quick"]
    assert exit_record(folder)["not_started"] == ["stuck", "waiting"]


def test_time_limit_lists_what_is_left(folder: Path) -> None:
    write_job(folder, replace(JOB, engine=replace(ENGINE, time_limit_s=0.3)))
    stage(folder, [item(f"i{n}") for n in range(50)])

    def answering(request: Request) -> Answer:
        time.sleep(0.02)
        return distinct_reply(request)

    assert serve(folder, FakeEngine(answering)) == TIMEOUT
    end = exit_record(folder)
    assert end["state"] == "timeout"
    assert 0 < end["answered"] < 50
    assert end["answered"] + len(end["not_started"]) == 50


def test_sigterm_while_loading_ends_at_once(folder: Path) -> None:
    stage(folder, [item("a")])

    def load() -> None:
        (folder / "loading").touch()
        time.sleep(60)

    child = Child(folder, FakeEngine(load=load))
    wait_until((folder / "loading").exists)
    started = time.monotonic()
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert time.monotonic() - started < 10
    assert exit_record(folder)["not_started"] == ["a"]


def test_sigint_does_not_disturb_the_worker(folder: Path) -> None:
    stage(folder, [item(f"i{n}") for n in range(3)])
    child = Child(folder, answer_when_released(folder))
    wait_until((folder / "asked-i0").exists)
    child.kill(signal.SIGINT)
    (folder / "release").touch()
    assert child.wait() == OK
    assert len(results(folder)) == 3


def test_second_worker_refuses_and_asks_nothing(folder: Path) -> None:
    stage(folder, [item("a")])
    child = Child(folder, answer_when_released(folder))
    wait_until((folder / "asked-a").exists)
    second = FakeEngine()
    assert serve(folder, second) == LOCKED
    assert second.asked == []
    assert int((folder / "lock").read_text()) == child.pid
    (folder / "release").touch()
    assert child.wait() == OK
    assert len(results(folder)) == 1


def test_of_simultaneous_workers_one_works(folder: Path) -> None:
    stage(folder, [item(f"i{n}") for n in range(12)])
    children = [Child(folder, answer_when_released(folder)) for _ in range(4)]
    wait_until(lambda: sum(child.has_ended() for child in children) == 3)
    (folder / "release").touch()
    assert sorted(child.wait() for child in children) == [OK, LOCKED, LOCKED, LOCKED]
    assert Counter(r["id"] for r in results(folder)) == Counter(f"i{n}" for n in range(12))


def test_unloadable_engine_asks_nothing(folder: Path) -> None:
    def load() -> None:
        raise LoadFailed("CUDA out of memory")

    stage(folder, [item("a")])
    engine = FakeEngine(load=load)
    assert serve(folder, engine) == LOAD_FAILED
    end = exit_record(folder)
    assert (end["code"], end["state"], end["reason"], end["answered"]) == (7, "load_failed", "CUDA out of memory", 0)
    assert (engine.asked, engine.closed) == ([], 1)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_bug_ends_the_job_and_keeps_answers(folder: Path, concurrency: int) -> None:
    def answering(request: Request) -> Answer:
        if request.item.id == "i4":
            raise ZeroDivisionError("a bug")
        return distinct_reply(request)

    stage(folder, [item(f"i{n}") for n in range(50)])
    engine = FakeEngine(answering, concurrency)
    assert serve(folder, engine) == 1
    end = exit_record(folder)
    assert (end["state"], end["reason"]) == ("failed", "ZeroDivisionError: a bug")
    assert 3 <= len(results(folder)) < 8
    assert len(engine.asked) < 8
    assert engine.closed == 1


def test_full_disk_ends_the_job_resumably(folder: Path) -> None:
    stage(folder, [item(f"i{n}") for n in range(20)])

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    assert Child(folder, FakeEngine(lambda r: reply(f"{r.item.id} " * 100), load=fill_up)).wait() not in (OK, 99)
    assert len(results(folder)) < 20
    assert serve(folder, FakeEngine()) == OK
    assert Counter(r["id"] for r in results(folder)) == Counter(f"i{n}" for n in range(20))
