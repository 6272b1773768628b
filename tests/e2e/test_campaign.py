"""A minute of random faults, with a new seed each time; `python -m tests.harness.campaign` is the same for longer."""

from __future__ import annotations

import time

import pytest

from tests.harness.campaign import Campaign
from tests.harness.faults import ENDPOINT, FLEET, LOCAL, SSH
from tests.harness.sshd import missing


def test_random_faults_lose_nothing() -> None:
    if reason := missing():
        pytest.skip(reason)
    seed = int(time.time())
    campaign = Campaign(seed, (LOCAL, SSH, ENDPOINT, FLEET))  # containers and a Slurm take longer to start
    print(f"python -m tests.harness.campaign --seed {seed} --places {','.join(campaign.places)}")
    campaign.run(60.0)
    assert campaign.tried and not campaign.violations, campaign.violations
