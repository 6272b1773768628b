"""A minute of random faults, with a new seed each time; `python -m tests.harness.campaign` is the same for longer."""

from __future__ import annotations

import time

import pytest

from tests.harness.campaign import campaign
from tests.harness.sshd import missing


def test_random_faults_lose_nothing() -> None:
    if reason := missing():
        pytest.skip(reason)
    seed = int(time.time())
    print(f"python -m tests.harness.campaign --seed {seed}")
    tried, violations = campaign(60.0, seed)
    assert tried and not violations, violations
