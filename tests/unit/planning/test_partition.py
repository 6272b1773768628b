"""Items into batches: within both limits, evenly filled, the largest first. Parts for workers: see test_shards."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.planning.partition import group
from tests.harness.growth import assert_linear

Sizes = dict[str, int]


def named(sizes: list[int]) -> Sizes:
    return {f"i{n}": size for n, size in enumerate(sizes)}


SIZES = st.lists(st.integers(1, 500), max_size=120).map(named)


@given(sizes=SIZES, max_size=st.integers(1, 40), max_tokens=st.integers(1, 3000))
def test_every_item_is_in_one_batch(sizes: Sizes, max_size: int, max_tokens: int) -> None:
    batches = group(sizes, max_size, max_tokens)
    assert sorted(name for batch in batches for name in batch) == sorted(sizes)
    assert all(batches)


@given(sizes=SIZES, max_size=st.integers(1, 40), max_tokens=st.integers(1, 3000))
def test_batches_respect_both_limits(sizes: Sizes, max_size: int, max_tokens: int) -> None:
    for batch in group(sizes, max_size, max_tokens):
        assert len(batch) <= max_size
        assert sum(sizes[name] for name in batch) <= max_tokens or len(batch) == 1


@given(sizes=SIZES, max_size=st.integers(1, 40), max_tokens=st.integers(1, 3000))
def test_largest_items_come_first(sizes: Sizes, max_size: int, max_tokens: int) -> None:
    flat = [sizes[name] for batch in group(sizes, max_size, max_tokens) for name in batch]
    assert flat == sorted(flat, reverse=True)


@given(sizes=SIZES, max_size=st.integers(1, 40), max_tokens=st.integers(1, 3000))
def test_balancing_adds_no_batch(sizes: Sizes, max_size: int, max_tokens: int) -> None:
    """There are as many as filling one after another needs."""
    filled: list[int] = []
    count = 0
    for tokens in sorted(sizes.values(), reverse=True):
        if not filled or count == max_size or filled[-1] + tokens > max_tokens:
            filled.append(0)
            count = 0
        filled[-1] += tokens
        count += 1
    assert len(group(sizes, max_size, max_tokens)) == len(filled)


def test_items_of_equal_size_keep_their_order() -> None:
    assert group(named([5] * 6), 2, 1000) == (("i0", "i1"), ("i2", "i3"), ("i4", "i5"))


def test_same_items_give_the_same_batches() -> None:
    rnd = random.Random(1)
    sizes = named([rnd.randint(1, 4000) for _ in range(500)])
    assert group(sizes, 32, 30_000) == group(dict(sizes), 32, 30_000)


def test_no_items_give_no_batch() -> None:
    assert group({}, 32, 1000) == ()


def test_one_item_too_many_is_balanced() -> None:
    assert [len(b) for b in group(named([10] * 33), 32, 100_000)] == [17, 16]


def test_oversized_item_is_alone_and_first() -> None:
    batches = group({"small": 10, "huge": 5000, "other": 20}, 32, 1000)
    assert batches == (("huge",), ("other", "small"))


@pytest.mark.parametrize(("count", "max_size"), [(993, 32), (97, 32), (100, 3)])
def test_batches_differ_by_one_item_at_most(count: int, max_size: int) -> None:
    lengths = [len(b) for b in group(named([10] * count), max_size, 10**9)]
    assert max(lengths) - min(lengths) <= 1


def test_oversized_item_does_not_unbalance_others() -> None:
    lengths = sorted(len(b) for b in group({"huge": 5000, **named([10] * 33)}, 32, 1000))
    assert lengths == [1, 16, 17]


def test_time_grows_linearly_with_items() -> None:
    rnd = random.Random(2)
    numbers = [rnd.randint(100, 4000) for _ in range(20_000)]

    def seconds(count: int) -> float:
        sizes = named(numbers[:count])
        started = time.process_time()
        batches = group(sizes, 32, 131_072)
        assert sum(len(b) for b in batches) == count
        return time.process_time() - started

    assert_linear(seconds, 2000)
