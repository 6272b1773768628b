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

from src.worker import flow as flow_module
from src.worker import upsample
from src.worker.asking import TRIES
from src.worker.engines.engine import Answer, Request, Unavailable
from src.worker.flow import Flow
from src.worker.lifecycle import JobLog, NoAccess
from src.worker.protocol import CANCELLED, OK, UNAVAILABLE
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
BROKEN = Unavailable("HTTP 500: no")


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
        while not flow.put(number, 5.0):
            pass
    flow.end()
    thread.join()
    assert done == [*range(100)]
    assert time.monotonic() - started < 60  # waits that run into their timeout take 500 s


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


@pytest.mark.parametrize("concurrency", [1, 4])
def test_delay_of_nothing_is_no_end_of_patience(folder: Path, concurrency: int) -> None:
    """A server that asks to come again at once, and takes nothing."""
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=1.0)))
    stage(folder, [item(i) for i in "abcdef"])
    engine = FakeEngine(failing(10**6, Unavailable("busy", 0.0, refused=True), *"abcdef"), concurrency=concurrency)
    assert serve(folder, engine) == UNAVAILABLE


def test_broken_answers_come_after_the_others(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(10**6, BROKEN, "a"))
    assert serve(folder, engine) == OK
    asked = Counter(engine.asked)
    assert (
        TRIES - 3 <= asked.pop("probe") <= TRIES - 2
    )  # each time that no other was answered in between: it is the item
    assert asked == {"a": TRIES, "b": 1, "c": 1}
    assert engine.asked.index("c") < len(engine.asked) - 1
    [failed] = [r for r in results(folder) if r["id"] == "a"]
    assert (failed["state"], failed["reason"]) == ("failed", f"the server did not answer {TRIES} times: HTTP 500: no")


RESET, GONE = Unavailable("Connection reset by peer", broke=True), Unavailable("cannot be reached", refused=True)


@pytest.mark.parametrize("error", [RESET, Unavailable("HTTP 500: no"), GONE, BUSY], ids=str)
@pytest.mark.parametrize("concurrency", [1, 16])
def test_server_that_fails_at_all_leaves_items_open(folder: Path, error: Unavailable, concurrency: int) -> None:
    """A tunnel, for example, whose server is away: it accepts, and closes. Or one that answers 200, and then an error."""
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=0.2)))
    stage(folder, [item(i) for i in "abcdef"])
    engine = FakeEngine(failing(10**6, error, *"abcdef", "probe"), concurrency=concurrency)
    assert serve(folder, engine) == UNAVAILABLE
    assert results(folder) == [] and exit_record(folder)["reason"].endswith(str(error))


class Killable:
    """A server that the item "killer" ends, with all that is in flight, and that starts again a moment later."""

    def __init__(self) -> None:
        self.deaths, self.down_until = 0, 0.0

    def __call__(self, request: Request) -> Answer:
        if time.monotonic() < self.down_until:
            raise GONE
        lives = self.deaths
        if request.item.id != "killer":
            time.sleep(0.03 if request.item.id.startswith("long") else 0.001)
            if self.deaths != lives:
                raise RESET
            return distinct_reply(request)
        time.sleep(0.01)
        self.deaths, self.down_until = self.deaths + 1, time.monotonic() + 0.02
        raise RESET


@pytest.mark.parametrize(
    "others", [(), ("b", "c"), [f"i{n}" for n in range(40)], ["long1", "long2", "long3", *(f"i{n}" for n in range(40))]],
    ids=["alone", "with two", "with many", "with long ones"],
)  # fmt: skip
def test_item_that_kills_its_server_is_found(folder: Path, others: list[str]) -> None:
    stage(folder, [item(i) for i in ("killer", *others)])
    engine = FakeEngine(Killable(), concurrency=4)
    assert serve(folder, engine) == OK
    ended = {r["id"]: r["state"] for r in results(folder)}
    assert ended == {"killer": "failed", **dict.fromkeys(others, "upsampled")}
    assert engine.asked.count("killer") == TRIES


@pytest.mark.parametrize("busy", [0, 2])
def test_moderated_item_fails_and_others_go_on(folder: Path, busy: int) -> None:
    """Also where the server is full as it is asked whether it answers others."""
    stage(folder, [item(i) for i in "abc"])
    moderating = failing(10**6, NoAccess("the server refused the key (HTTP 403): flagged"), "b")
    full = failing(busy, BUSY, "probe")
    engine = FakeEngine(lambda request: (full if request.item.id == "probe" else moderating)(request))
    assert serve(folder, engine) == OK
    states = {r["id"]: (r["state"], r["reason"]) for r in results(folder)}
    assert states["b"] == ("failed", "the server refused the key (HTTP 403): flagged")
    assert states["a"][0] == states["c"][0] == "upsampled"


def test_key_refused_while_an_item_is_doubted_is_no_fault_of_it(folder: Path) -> None:
    """A gateway that limits rates with 403, between two others."""
    stage(folder, [item("a")])
    once, probes = failing(1, BROKEN, "a"), failing(1, NoAccess("the server refused the key (HTTP 403)"), "probe")
    engine = FakeEngine(lambda request: (probes if request.item.id == "probe" else once)(request))
    assert serve(folder, engine) not in (OK, UNAVAILABLE)
    assert results(folder) == []


def test_request_that_is_taken_renews_the_patience(folder: Path) -> None:
    """However it ends: the server works on it, and may take longer than it is waited for."""
    write_job(folder, replace(JOB, engine=replace(ENGINE, patience_s=0.1)))
    stage(folder, [item("a")])
    replies = iter([BUSY, RESET, BUSY, None, RESET, BUSY, None, None])

    def answering(request: Request) -> Answer:
        if error := next(replies):
            time.sleep(0.06 if error is BUSY else 0.12)
            raise error
        return distinct_reply(request)

    assert serve(folder, FakeEngine(answering)) == OK


@pytest.mark.parametrize(("error", "longest_s"), [(RESET, 1.0), (GONE, 32.0)])
def test_broken_connections_are_tried_each_second(
    monkeypatch: pytest.MonkeyPatch, error: Unavailable, longest_s: float
) -> None:
    monkeypatch.setattr(flow_module, "MAX_PAUSE_S", 32.0)
    flow = Flow[int](Window(1, "fixed", is_fixed=True), None, 60.0, lambda window, seen, tokens_s: None, print)
    for ticket in range(8):
        flow._not_before = 0.0
        assert flow.enter(ticket)
        flow.leave(ticket, error)
    pause_s = flow._not_before - time.monotonic()
    assert longest_s / 2 - 0.5 < pause_s <= longest_s
    flow.stop()


def test_refused_key_ends_the_job(folder: Path) -> None:
    stage(folder, [item(i) for i in "abc"])
    engine = FakeEngine(failing(10**6, NoAccess("the server refused the key (HTTP 401)"), *"abc", "probe"))
    assert serve(folder, engine) not in (OK, UNAVAILABLE)
    assert results(folder) == []


def test_thread_that_cannot_look_ends_the_job(folder: Path) -> None:
    """It would hold back all others: it is the one that ends a pause."""
    stage(folder, [item("a")], closed=False)

    class Broken:
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
