"""Items into batches, and the places at which workers answer them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .gpus import shares
from .plan import Plan
from .settings import HostSettings, Settings


def group(sizes: Mapping[str, int], max_batch_size: int, max_batch_tokens: int) -> tuple[tuple[str, ...], ...]:
    """Ids grouped into batches of at most `max_batch_size` items and `max_batch_tokens` tokens, evenly filled.

    sizes: tokens of prompt and reserved output by id, in input order. Items of similar size go together, the largest
    first, so that the longest does not run alone at the end. An item larger than `max_batch_tokens` gets a
    batch of its own. No batch is much smaller than the others: the number of batches is found by filling
    them, and then the same items are spread evenly over that number.
    """
    ordered = sorted(sizes, key=sizes.__getitem__, reverse=True)
    alone = [(item,) for item in ordered if sizes[item] > max_batch_tokens]
    rest = ordered[len(alone) :]
    batches = _fill(rest, sizes, [max_batch_size] * len(rest), max_batch_tokens)
    if batches:
        share, larger = divmod(len(rest), len(batches))
        even = _fill(rest, sizes, [share + 1] * larger + [share] * (len(batches) - larger), max_batch_tokens)
        batches = even if sum(map(len, even)) == len(rest) else batches  # even only where the tokens allow it
    return (*alone, *map(tuple, batches))


def _fill(ordered: Sequence[str], sizes: Mapping[str, int], most: Sequence[int], max_tokens: int) -> list[list[str]]:
    """Batches filled in order, the n-th with at most `most[n]` items; items beyond the last batch are left out."""
    batches: list[list[str]] = []
    free = 0
    for item in ordered:
        if not batches or len(batches[-1]) == most[len(batches) - 1] or sizes[item] > free:
            if len(batches) == len(most):
                break
            batches.append([])
            free = max_tokens
        batches[-1].append(item)
        free -= sizes[item]
    return batches


@dataclass(frozen=True, slots=True)
class Place:
    """Where one worker of a run works. name: which of several, "" for the only one."""

    name: str
    settings: Settings


LOST_S = 120.0  # until a lost member of a fleet is left out, where host.silent_s says nothing else


def places(plan: Plan) -> tuple[Place, ...]:
    """A place for each worker of each machine, with its share of the GPUs; on one machine no more than there are items.

    It depends on the plan alone: a resumed run finds the same places.
    """
    settings = plan.settings
    hosts = [host for member in settings.members or (settings.host,) for host in _each_worker(member)]
    if not settings.members:
        hosts = hosts[: max(1, len(plan.distinct_ids))]
    if len(hosts) == 1:
        return (Place("", replace(settings, host=hosts[0][1], members=())),)
    return tuple(
        Place(name, replace(settings, host=replace(host, patience_s=min(host.patience_s, host.silent_s or LOST_S))))
        for name, host in hosts
    )


def _each_worker(host: HostSettings) -> list[tuple[str, HostSettings]]:
    """The host as each of its workers has it, with a name for it."""
    if host.workers == 1 or host.kind == "ray":
        return [(host.name, host)]
    each = shares(host.gpus, host.workers)
    return [(f"{host.name} {n}", replace(host, gpus=share, workers=1)) for n, share in enumerate(each, 1)]
