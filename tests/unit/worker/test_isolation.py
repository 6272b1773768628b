"""The gate that finds the request which kills an engine."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from src.worker.engines.isolation import IsolationGate


class Engine:
    """An engine that dies of some items, with all that it has in flight; each item is asked until it is answered or guilty."""

    def __init__(self, deadly: set[str], together: int) -> None:
        self.deadly, self.gate = deadly, IsolationGate()
        self.deaths, self.asked, self.guilty = 0, Counter[str](), set[str]()
        self._mutex, self._together = threading.RLock(), threading.Barrier(together)

    def ask(self, item_id: str) -> None:
        first = True
        while item_id not in self.guilty:
            with self.gate.passing(item_id):
                if first:
                    self._together.wait(10)  # all are in flight at the first death
                with self._mutex:
                    deaths = self.deaths
                    self.asked[item_id] += 1
                time.sleep(0.01)
                with self._mutex:
                    if item_id in self.deadly and deaths == self.deaths:
                        self.deaths += 1
                        if self.gate.died() and not first:
                            self.guilty.add(item_id)
                            self.gate.clear(item_id)
                    if deaths == self.deaths:
                        return
                first = False


@pytest.mark.parametrize("deadly", [set(), {"3"}, {"0", "31"}], ids=["none", "one", "two"])
def test_deadly_items_are_found_by_halving(deadly: set[str]) -> None:
    engine = Engine(deadly, 32)
    threads = [threading.Thread(target=engine.ask, args=(f"{n}",), daemon=True) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    assert engine.guilty == deadly
    assert engine.deaths <= 8 * len(deadly)


def test_requests_share_the_gate_otherwise() -> None:
    gate = IsolationGate()
    with gate.passing("a"), gate.passing("b"):
        pass
