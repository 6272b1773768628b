"""What the worker does when a server refuses: the item has its turn again, and the others wait as long as they must."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from src.worker import upsample
from src.worker.engines.engine import Answer, Request, Unavailable
from src.worker.flow import Flow
from src.worker.lifecycle import JobLog, NoAccess
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
    flow = Flow[int](Window(1, "fixed", is_fixed=True), None, 60.0, lambda window, seen, tokens_s: None, print)
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


class Counted:
    """As much of a server's signals as the worker asks for here."""

    accepted = 0

    def look(self, at: float, wanted: int) -> None: ...


RESET = Unavailable("Connection reset by peer")


def test_broken_connections_of_all_leave_items_open(folder: Path) -> None:
    """As a tunnel gives them whose server is away: it accepts, and closes."""
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=0.2)))
    stage(folder, [item("a"), item("b")])
    engine = FakeEngine(failing(10**6, RESET, "a", "b", "probe"))
    engine.signals = Counted()  # type: ignore[assignment]
    assert serve(folder, engine) == UNAVAILABLE
    assert results(folder) == []


def test_item_that_breaks_connections_fails_alone(folder: Path) -> None:
    """The server is away for a while each time, and accepts others in between."""
    stage(folder, [item(i) for i in ("a", *map(str, range(3 * TRIES)))])
    signals = Counted()

    def answering(request: Request) -> Answer:
        if request.item.id in ("a", "probe"):
            raise RESET
        signals.accepted += 1
        return distinct_reply(request)

    engine = FakeEngine(answering)
    engine.signals = signals  # type: ignore[assignment]
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=1.0)))
    assert serve(folder, engine) in (OK, UNAVAILABLE)
    ended = {r["id"]: r["state"] for r in results(folder)}
    assert {ended[str(n)] for n in range(3 * TRIES)} == {"upsampled"}
    assert "a" not in ended or ended["a"] == "failed"


def test_moderated_item_fails_and_others_go_on(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(10**6, NoAccess("the server refused the key (HTTP 403): flagged"), "b"))
    assert serve(folder, engine) == OK
    states = {r["id"]: (r["state"], r["reason"]) for r in results(folder)}
    assert states["b"] == ("failed", "the server refused the key (HTTP 403): flagged")
    assert states["a"][0] == states["c"][0] == "upsampled"


def test_refused_key_ends_the_job(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(10**6, NoAccess("the server refused the key (HTTP 401)"), *"abc", "probe"))
    assert serve(folder, engine) not in (OK, UNAVAILABLE)
    assert results(folder) == []


def test_thread_that_cannot_look_ends_the_job(folder: Path) -> None:
    """It would hold back all others: it is the one that ends a pause."""
    stage(folder, [item("a")], closed=False)

    class Broken(Counted):
        def look(self, at: float, wanted: int) -> None:
            raise ZeroDivisionError("of a page")

    engine = FakeEngine()
    engine.signals = Broken()  # type: ignore[assignment]
    assert serve(folder, engine) not in (OK, UNAVAILABLE)
    assert "ZeroDivisionError" in exit_record(folder)["reason"]


def test_failed_heartbeat_is_followed_by_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsample, "HEARTBEAT_S", 0.02)
    stage(folder, [item("a")], closed=False)
    heartbeat, failures = JobLog.heartbeat, iter([True, True])

    def failing_first(log: JobLog, **facts: object) -> None:
        if next(failures, False):
            raise OSError(28, "No space left on device")
        heartbeat(log, **facts)
        if b'"heartbeat"' in (folder / "events.jsonl").read_bytes():
            (folder / "closed").touch()

    monkeypatch.setattr(JobLog, "heartbeat", failing_first)
    assert serve(folder, FakeEngine()) == OK
    assert not next(failures, False)


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
