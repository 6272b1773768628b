"""The dealer: each item is in one place until it ends, whichever workers come, go and come back."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.runs.dealer import Dealer

WORKERS = ("a", "b", "c")


def holdings(dealer: Dealer) -> Counter[str]:
    """Where each item is, waiting or open; an item in two places counts twice."""
    found = Counter(dealer._waiting)
    return Counter(dict.fromkeys(found, 1)) + Counter(i for held in dealer.open.values() for i in held)


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 12))
def test_nothing_is_lost_and_nothing_twice(seed: int, count: int, room: int) -> None:
    """Random answers, losses and late answers: an item that ended is never dealt, one that has not is in one place."""
    rnd, dealer, ended, up = random.Random(seed), Dealer(WORKERS), set[str](), set(WORKERS)
    ids = [f"{n:02}" for n in range(count)]
    dealer.add("batch", ids)
    answered_by_lost: dict[str, set[str]] = {worker: set() for worker in WORKERS}
    for _ in range(400):
        if len(ended) == count:
            break
        action = rnd.choice(["deal", "answer", "lose", "return", "refuse"])
        worker = rnd.choice(WORKERS)
        held = sorted(dealer.open[worker])
        if action == "deal" and up:
            for _, given_now in dealer.deal(dict.fromkeys(sorted(up), room), len(up)):
                assert not given_now.keys() & ended
            assert all(len(dealer.open[w]) <= room for w in WORKERS)
        elif action == "answer" and worker in up and held:
            late = answered_by_lost[worker]
            new = {rnd.choice(held)} | late
            answered_by_lost[worker] = set()
            dealer.end(new)
            ended |= new
        elif action == "lose" and len(up) > 1:
            answered_by_lost[worker] |= set(held[:1])
            dealer.give_back(worker)
            up.discard(worker)
        elif action == "return":
            up.add(worker)
        elif action == "refuse" and held:
            dealer.put_first({held[0]: "smaller"})
        assert holdings(dealer) == Counter(dict.fromkeys(set(ids) - ended, 1))


def test_what_comes_back_goes_first() -> None:
    dealer = Dealer(WORKERS)
    dealer.add("one", ["1", "2", "3", "4", "5", "6", "7", "8"])
    list(dealer.deal({"a": 2}, 1))
    assert [*dealer.open["a"]] == ["1", "2"]
    dealer.give_back("a")
    list(dealer.deal({"b": 4}, 1))
    assert [*dealer.open["b"]] == ["1", "2", "3", "4"]


def test_idlest_worker_is_served_first() -> None:
    dealer = Dealer(WORKERS)
    dealer.add("one", map(str, range(100)))
    list(dealer.deal({"a": 8}, 3))
    assert next(iter(dealer.deal({"a": 16, "b": 8}, 3)))[0] == "b"


@pytest.mark.parametrize("up", [("a",), ("a", "b", "c")])
def test_last_items_are_shared(up: tuple[str, ...]) -> None:
    """A worker that is up before the others does not take what is left for all."""
    dealer = Dealer(WORKERS)
    dealer.add("one", map(str, range(12)))
    list(dealer.deal(dict.fromkeys(up, 64), 3))
    assert [len(dealer.open[worker]) for worker in up] == [4] * len(up)


def test_resumed_items_stay_where_they_are() -> None:
    dealer = Dealer(WORKERS)
    dealer.add("one", ["1", "2", "3"])
    dealer.found("b", ["2", "unknown"])
    assert dealer.open["b"] == {"2": "one"} and dealer.waiting == 2


def test_restaged_item_is_dealt_from_its_new_batch() -> None:
    dealer = Dealer(WORKERS)
    dealer.add("one", ["1", "2"])
    list(dealer.deal({"a": 2}, 1))
    dealer.put_first({"2": "smaller-2-1"})
    assert dict(dealer.deal({"b": 2}, 1)) == {"b": {"2": "smaller-2-1"}}


@given(st.integers(1, 300), st.integers(1, 12))
def test_unattended_workers_get_everything(count: int, workers: int) -> None:
    """Nobody answers, and nobody deals again later: nothing may be left over, and all get about the same."""
    names = [str(n) for n in range(workers)]
    dealer = Dealer(names)
    dealer.add("batch", map(str, range(count)))
    list(dealer.deal(dict.fromkeys(names, 2 * count), workers, at_once=True))
    assert dealer.waiting == 0
    assert max(len(held) for held in dealer.open.values()) == -(-count // workers)


def test_queued_workers_are_left_something() -> None:
    """The first of eight that wakes is kept busy, and does not take what is for those that start a moment later."""
    dealer = Dealer("abcdefgh")
    dealer.add("one", map(str, range(200)))
    list(dealer.deal({"a": 64}, 1, 7))
    assert len(dealer.open["a"]) == 32
    list(dealer.deal(dict.fromkeys("abcd", 64), 4, 4))
    assert [len(dealer.open[worker]) for worker in "abcd"] == [32] * 4
    list(dealer.deal(dict.fromkeys("abcdefgh", 64), 8))
    assert dealer.waiting == 0 and max(map(len, dealer.open.values())) == 32


def test_running_worker_does_not_starve_for_queued_ones() -> None:
    dealer = Dealer(["a", *map(str, range(63))])
    dealer.add("one", map(str, range(640)))
    list(dealer.deal({"a": 128}, 1, 63))
    assert len(dealer.open["a"]) == 64


def test_batches_are_whole_but_for_the_last() -> None:
    """Somebody deals again: a place that has become free waits for others. What is left at the end goes out at once."""
    dealer = Dealer("ab")
    dealer.add("one", map(str, range(103)))
    rooms = dict.fromkeys("ab", 32)
    assert {len(items) for _, items in dealer.deal(rooms, 2)} == {16}
    for _ in range(15):
        dealer.end([next(iter(dealer.open["a"]))])
        assert not list(dealer.deal(rooms, 2))
    dealer.end([next(iter(dealer.open["a"]))])
    assert [len(items) for _, items in dealer.deal(rooms, 2)] == [16]
    dealer.end(list(dealer.open["b"]))
    list(dealer.deal(rooms, 2))
    assert dealer.waiting == 0
