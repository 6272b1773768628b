"""Items into batches, and a plan into parts for several workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .gpus import shares
from .plan import Plan


def group(sizes: Sequence[tuple[str, int]], max_batch_size: int, max_batch_tokens: int) -> tuple[tuple[str, ...], ...]:
    """Ids grouped into batches of at most `max_batch_size` items and `max_batch_tokens` tokens, evenly filled.

    sizes: (id, tokens of prompt and reserved output) in input order. Items of similar size go together, the largest
    first, so that the longest does not run alone at the end. An item larger than `max_batch_tokens` gets a
    batch of its own. No batch is much smaller than the others: the number of batches is found by filling
    them, and then the same items are spread evenly over that number.
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
    """Batches filled in order, the n-th with at most `sizes[n]` items; items beyond the last batch are left out."""
    batches: list[list[tuple[str, int]]] = []
    free = 0
    for name, tokens in ordered:
        if not batches or len(batches[-1]) == sizes[len(batches) - 1] or tokens > free:
            if len(batches) == len(sizes):
                break
            batches.append([])
            free = max_tokens
        batches[-1].append((name, tokens))
        free -= tokens
    return batches


def shards(plan: Plan) -> tuple[Plan, ...]:
    """A plan for each of `host.workers`; the plan itself for one. A worker that would get no item is left out.

    Every item that runs is in one shard. The largest goes first, each to the worker with the fewest tokens (prompt and
    reserved output) so far, so that two workers differ by one item's tokens at most. It depends on the plan alone: a
    resumed run finds the same shards.
    """
    host = plan.settings.host
    if host.workers == 1:
        return (plan,)
    loads = [0] * host.workers
    parts: list[set[str]] = [set() for _ in loads]
    sizes = {i.id: i.tokens.prompt + i.tokens.output_reserved for i in plan.items if i.runs}
    for item_id, size in sorted(sizes.items(), key=lambda pair: -pair[1]):
        least = loads.index(min(loads))
        loads[least] += size
        parts[least].add(item_id)
    shared = zip(parts, shares(host.gpus, host.workers), strict=True)
    return tuple(_part(plan, ids, gpus) for ids, gpus in shared if ids)


def _part(plan: Plan, ids: set[str], gpus: str) -> Plan:
    batches = (tuple(i for i in batch if i in ids) for batch in plan.batches)
    return Plan(
        replace(plan.settings, host=replace(plan.settings.host, gpus=gpus, workers=1)),
        tuple(batch for batch in batches if batch),
        tuple(item for item in plan.items if item.id in ids),
        part_of=plan.run_id,
    )
