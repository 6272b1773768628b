"""Items into batches: one pure function."""

from __future__ import annotations

from collections.abc import Sequence


def group(sizes: Sequence[tuple[str, int]], max_batch_size: int, max_batch_tokens: int) -> tuple[tuple[str, ...], ...]:
    """Ids grouped into batches of at most `max_batch_size` items and `max_batch_tokens` tokens, evenly filled.

    sizes: (id, tokens of prompt and reserved output) in input order. Items of like size go together, the largest
    first, so that the longest work does not stand alone at the end. An item larger than `max_batch_tokens` gets a
    batch of its own. No batch is much smaller than the others: the number of batches that filling needs is found
    first, and then the same items are dealt out evenly over it.
    """
    ordered = sorted(sizes, key=lambda pair: -pair[1])
    alone = [pair for pair in ordered if pair[1] > max_batch_tokens]
    rest = ordered[len(alone) :]
    batches = _fill(rest, [max_batch_size] * len(rest), max_batch_tokens)
    if batches:
        share, larger = divmod(len(rest), len(batches))
        even = _fill(rest, [share + 1] * larger + [share] * (len(batches) - larger), max_batch_tokens)
        batches = even if sum(map(len, even)) == len(rest) else batches  # even only where the tokens allow it
    return tuple(tuple(name for name, _ in batch) for batch in [*([pair] for pair in alone), *batches])


def _fill(ordered: Sequence[tuple[str, int]], sizes: Sequence[int], max_tokens: int) -> list[list[tuple[str, int]]]:
    """Batches filled in order, the n-th with at most `sizes[n]` items; what finds no batch any more is left out."""
    batches: list[list[tuple[str, int]]] = []
    room = 0
    for name, tokens in ordered:
        if not batches or len(batches[-1]) == sizes[len(batches) - 1] or tokens > room:
            if len(batches) == len(sizes):
                break
            batches.append([])
            room = max_tokens
        batches[-1].append((name, tokens))
        room -= tokens
    return batches
