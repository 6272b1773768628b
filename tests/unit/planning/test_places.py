"""The places at which the workers of a run work: which machine and GPUs each has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.planning.partition import LOST_S, places
from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.runs.staging import job_id
from tests.conftest import Configure


@pytest.fixture
def plan(configure: Configure, tmp_path: Path) -> Plan:
    config = configure("host.gpus=device=4,5,6,7")
    config.prompts = str(tmp_path / "prompts.json")
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "a boat"}, {"name": "b", "prompt": "a car"}]')
    return resolve(config)


def on_host(plan: Plan, **fields: Any) -> Plan:
    return replace(plan, settings=replace(plan.settings, host=replace(plan.settings.host, **fields)))


def test_one_worker_has_the_plans_settings(plan: Plan) -> None:
    [place] = places(plan)
    assert (place.name, place.settings) == ("", plan.settings)


def test_each_worker_has_its_own_gpus(plan: Plan) -> None:
    found = places(on_host(plan, workers=2))
    assert [place.settings.host.gpus for place in found] == ["device=4,5", "device=6,7"]
    assert len({job_id(plan, place=place.name) for place in found}) == 2


def test_there_are_no_more_workers_than_items(plan: Plan) -> None:
    assert len(places(on_host(plan, workers=4))) == 2


def test_each_member_has_its_workers(plan: Plan) -> None:
    host = plan.settings.host
    members = (replace(host, name="a", workers=2), replace(host, name="b", silent_s=0.0), replace(host, name="c"))
    found = places(replace(plan, settings=replace(plan.settings, members=members)))
    assert [place.name for place in found] == ["a 1", "a 2", "b", "c"]
    assert [place.settings.host.workers for place in found] == [1, 1, 1, 1]
    assert {place.settings.host.patience_s for place in found} == {host.silent_s, LOST_S}
