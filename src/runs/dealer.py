"""Which worker gets which items next. Bookkeeping alone: nothing here reads a file, asks a host or looks at a clock.

An item is in one place until it ends: it waits, or it is open at one worker. What a lost worker holds waits again, before
all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

Items = dict[str, str]  # by id: the batch that an item is staged in


class Dealer:
    """The items of a run that have not ended."""

    def __init__(self, workers: Iterable[str]) -> None:
        self.open: dict[str, Items] = {worker: {} for worker in workers}
        self._waiting: OrderedDict[str, str] = OrderedDict()
        self._at: dict[str, str] = {}  # the worker of each item that is open

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, batch: str, ids: Iterable[str]) -> None:
        """What was staged, to the end of the queue."""
        for item_id in ids:
            self.end([item_id])
            self._waiting[item_id] = batch

    def put_first(self, items: Items) -> None:
        """To the head of the queue, in this order, wherever they are."""
        self.end(items)
        for item_id, batch in reversed(items.items()):
            self._waiting[item_id] = batch
            self._waiting.move_to_end(item_id, last=False)

    def end(self, ids: Iterable[str]) -> None:
        """These have ended, whoever answered them."""
        for item_id in ids:
            self._waiting.pop(item_id, None)
            if worker := self._at.pop(item_id, None):
                del self.open[worker][item_id]

    def found(self, worker: str, ids: Iterable[str]) -> None:
        """What a worker holds already, as a resumed run finds it."""
        for item_id in ids:
            if batch := self._waiting.pop(item_id, None):
                self._give(worker, {item_id: batch})

    def give_back(self, worker: str) -> None:
        """A worker is lost: what it holds waits again."""
        self.put_first(dict(self.open[worker]))

    def deal(
        self, rooms: Mapping[str, int], among: int, queued: int = 0, *, at_once: bool = False
    ) -> Iterator[tuple[str, Items]]:
        """What each worker gets now, the one with the fewest open items first: batches of half its room, or a
        quarter while something is left for others.

        rooms: how many items may be open at which worker. among: how many workers share what is left; none gets more than
        its share, so that near the end all have something to do. queued: how many more would share it, if they came: something
        is left for them, but no worker waits for that with less than half its room. at_once: nobody deals again later, so that
        all is given.
        """
        left = len(self._waiting) + len(self._at)
        own, share = -(-left // among), -(-left // (among + queued))
        room = {
            worker: min(wanted, share if at_once else max(share, min(own, wanted // 2)))
            for worker, wanted in rooms.items()
        }
        size = {worker: max(1, most // (4 if queued else 2)) for worker, most in room.items()}
        places = sum(max(0, most - len(self.open[worker])) for worker, most in room.items())
        are_last = at_once or len(self._waiting) <= places  # they go out now, in batches of any size
        least = dict.fromkeys(room, 1) if are_last else size
        while free := [w for w in room if len(self.open[w]) + least[w] <= room[w]]:
            worker = min(free, key=lambda w: len(self.open[w]))
            count = min(size[worker], room[worker] - len(self.open[worker]), len(self._waiting))
            items = dict(self._waiting.popitem(last=False) for _ in range(count))
            if not items:
                return
            self._give(worker, items)
            yield worker, items

    def _give(self, worker: str, items: Items) -> None:
        self.open[worker] |= items
        self._at.update(dict.fromkeys(items, worker))
