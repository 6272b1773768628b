"""The gate that lets one request through alone."""

from __future__ import annotations

import threading
import time

from src.worker.engines.isolation import IsolationGate


def test_isolated_request_is_alone_inside() -> None:
    gate, mutex = IsolationGate(), threading.Lock()
    inside, seen = 0, []

    def pass_through(alone: bool) -> None:
        nonlocal inside
        with gate.passing(alone=alone):
            with mutex:
                inside += 1
            time.sleep(0.002)
            with mutex:
                if alone:
                    seen.append(inside)
                inside -= 1

    threads = [threading.Thread(target=pass_through, args=(n % 4 == 0,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert seen == [1] * 6


def test_requests_share_the_gate_otherwise() -> None:
    gate = IsolationGate()
    with gate.passing(alone=False), gate.passing(alone=False):
        pass
