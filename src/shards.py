"""A plan for several workers on one host: each a plan of its own, with its share of the GPUs and of the items."""

from __future__ import annotations

from dataclasses import replace

from src.gpus import shares
from src.plan import Plan


def shards(plan: Plan) -> tuple[Plan, ...]:
    """A plan for each of `host.workers`; the plan itself for one. A worker that would get no item is left out.

    Every item that runs is in one shard. The largest goes first, each to the worker with the fewest tokens (prompt and
    reserved output) so far, so that two workers differ by one item's tokens at most. It depends on the plan alone: a
    resumed run finds the same shards.
    """
    place = plan.settings.place
    if place.workers == 1:
        return (plan,)
    loads = [0] * place.workers
    dealt: list[set[str]] = [set() for _ in loads]
    items = [item for item in plan.by_id.values() if item.runs]
    for item in sorted(items, key=lambda i: -(i.tokens.prompt + i.tokens.output_reserved)):
        least = loads.index(min(loads))
        loads[least] += item.tokens.prompt + item.tokens.output_reserved
        dealt[least].add(item.id)
    parts = zip(dealt, shares(place.gpus, place.workers), strict=True)
    return tuple(_part(plan, ids, gpus) for ids, gpus in parts if ids)


def _part(plan: Plan, ids: set[str], gpus: str) -> Plan:
    batches = (tuple(i for i in batch if i in ids) for batch in plan.batches)
    return Plan(
        replace(plan.settings, place=replace(plan.settings.place, gpus=gpus, workers=1)),
        tuple(batch for batch in batches if batch),
        tuple(item for item in plan.items if item.id in ids),
        part_of=plan.run_id,
    )
