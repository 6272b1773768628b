"""What the worker does when a server refuses: the item has its turn again, and the others wait as long as they must."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from src.worker.engines.engine import Answer, Request, Unavailable
from src.worker.flow import Flow
from src.worker.protocol import CANCELLED, OK, UNAVAILABLE
from src.worker.upsample import TRIES
from src.worker.window import Window
from tests.harness.fake_engine import (
    Child,
    FakeEngine,
    distinct_reply,
    exit_record,
    results,
    serve,
    stage,
    wait_until,
    write_job,
)
from tests.harness.records import ENGINE, JOB, item

BUSY = Unavailable("HTTP 429: busy", refused=True)
BROKEN = Unavailable("HTTP 500: no", failed=True)


def failing(times: int, error: Exception, *ids: str) -> Callable[[Request], Answer]:
    """Answers that come after so many errors for each of these items."""
    left = Counter(dict.fromkeys(ids, times))

    def answering(request: Request) -> Answer:
        left[request.item.id] -= 1
        if left[request.item.id] >= 0:
            raise error
        return distinct_reply(request)

    return answering


def test_refused_item_is_next_and_untried(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(20, BUSY, "a"))
    assert serve(folder, engine) == OK
    assert engine.asked == [*"a" * 21, "b", "c"]
    assert [(r["id"], r["state"], len(r["attempts"])) for r in results(folder)] == [(i, "upsampled", 1) for i in "abc"]


def test_refused_items_end_once_side_by_side(folder: Path) -> None:
    ids = [f"i{n}" for n in range(60)]
    stage(folder, [item(i) for i in ids])
    assert serve(folder, FakeEngine(failing(2, BUSY, *ids[::3]), concurrency=8)) == OK
    assert Counter(r["id"] for r in results(folder)) == Counter(ids)
    assert {r["state"] for r in results(folder)} == {"upsampled"}


def test_window_of_one_is_kept_full() -> None:
    flow = Flow[int](Window(1, "fixed", is_fixed=True), None, 60.0, lambda window, seen, tokens_s: None)
    done = list[int]()

    def lane() -> None:
        while taken := flow.take():
            done.append(taken[1])
            flow.done(taken[0])

    thread = threading.Thread(target=lane)
    thread.start()
    started = time.monotonic()
    for number in range(100):
        while not flow.put(number, 0.05):
            pass
    flow.end()
    thread.join()
    assert (
        done == [*range(100)] and time.monotonic() - started < 2.0
    )  # a wait that runs into its timeout each time takes 5 s


def test_named_delay_is_respected(folder: Path) -> None:
    stage(folder, [item("a"), item("b")])
    started = time.monotonic()
    assert serve(folder, FakeEngine(failing(1, Unavailable("busy", 0.3, refused=True), "a"))) == OK
    assert time.monotonic() - started >= 0.3


def test_items_stay_open_after_patience(folder: Path) -> None:
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=0.2)))
    stage(folder, [item("a"), item("b")])
    started = time.monotonic()
    assert serve(folder, FakeEngine(failing(10**6, BUSY, "a", "b"))) == UNAVAILABLE
    assert time.monotonic() - started >= 0.2
    assert results(folder) == []
    end = exit_record(folder)
    assert end["not_started"] == ["a", "b"]
    assert end["reason"] == "the server took no request for 0.2 s (engine.patience_s): HTTP 429: busy"


def test_broken_answers_come_after_the_others(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(10**6, BROKEN, "a"))
    assert serve(folder, engine) == OK
    assert Counter(engine.asked) == {"a": TRIES, "b": 1, "c": 1, "probe": 1}  # which is answered: it is the item
    assert engine.asked.index("c") < TRIES
    [failed] = [r for r in results(folder) if r["id"] == "a"]
    assert (failed["state"], failed["reason"]) == ("failed", f"the server did not answer {TRIES} times: HTTP 500: no")


def test_server_that_fails_at_all_leaves_items_open(folder: Path) -> None:
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=0.2)))
    stage(folder, [item("a"), item("b")])
    assert serve(folder, FakeEngine(failing(10**6, BROKEN, "a", "b", "probe"))) == UNAVAILABLE
    assert results(folder) == []
    assert exit_record(folder)["reason"].endswith("HTTP 500: no")


def test_refused_items_are_left_at_sigterm(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])

    def refuse(request: Request) -> Answer:
        (folder / "asked").touch()
        raise BUSY

    child = Child(folder, FakeEngine(refuse, concurrency=2))
    wait_until((folder / "asked").exists)
    child.kill(signal.SIGTERM)
    assert child.wait() == CANCELLED
    assert exit_record(folder)["not_started"] == ["a", "b", "c"]
    assert results(folder) == []
