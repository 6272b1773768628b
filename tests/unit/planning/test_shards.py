"""A plan in parts for several workers: which items and GPUs each gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.planning.partition import shards
from src.planning.plan import Plan, PlanItem
from src.planning.resolve import resolve
from src.runs.staging import job_id
from tests.conftest import Configure


def tokens_of(item: PlanItem) -> int:
    return item.tokens.prompt + item.tokens.output_reserved


@pytest.fixture
def plan(configure: Configure, tmp_path: Path) -> Plan:
    config = configure("host.gpus=device=4,5,6,7")
    config.prompts = str(tmp_path / "prompts.json")
    (tmp_path / "prompts.json").write_text('[{"name": "a", "prompt": "a boat"}]')
    return resolve(config)


def with_items(plan: Plan, prompts: list[int], workers: int) -> Plan:
    """The plan with items of so many prompt tokens each, and a worker count."""
    [one] = plan.items
    items = tuple(
        replace(one, id=f"{n:016x}", name=f"i{n}", tokens=replace(one.tokens, prompt=count), batch=n // 3)
        for n, count in enumerate(prompts)
    )
    batches = tuple(tuple(i.id for i in items[at : at + 3]) for at in range(0, len(items), 3))
    host = replace(plan.settings.host, workers=workers, gpus="none")
    return Plan(replace(plan.settings, host=host), batches, items)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.integers(5, 4000), min_size=1, max_size=60), workers=st.integers(1, 9))
def test_items_are_shared_evenly(plan: Plan, prompts: list[int], workers: int) -> None:
    whole = with_items(plan, prompts, workers)
    parts = shards(whole)
    assert sorted(i.id for part in parts for i in part.items) == sorted(i.id for i in whole.items)
    assert len(parts) == min(workers, len(prompts))
    loads = [sum(map(tokens_of, part.items)) for part in parts]
    assert max(loads) - min(loads) <= max(map(tokens_of, whole.items))
    for part in parts:
        assert sorted(i for batch in part.batches for i in batch) == sorted(i.id for i in part.items)
        assert all(part.batches)
        assert part.run_id == whole.run_id
    assert len({job_id(part) for part in parts}) == len(parts)


def test_one_worker_gets_the_whole_plan(plan: Plan) -> None:
    assert shards(plan) == (plan,)


def test_each_part_has_its_own_gpus(plan: Plan) -> None:
    whole = with_items(plan, [9, 8], 2)
    host = replace(whole.settings.host, gpus="device=4,5,6,7")
    parts = shards(replace(whole, settings=replace(whole.settings, host=host)))
    assert [part.settings.host.gpus for part in parts] == ["device=4,5", "device=6,7"]


def test_items_that_never_run_are_left_out(plan: Plan) -> None:
    whole = with_items(plan, [9, 8, 7], 2)
    never = replace(whole.items[1], batch=None)
    parts = shards(replace(whole, items=(whole.items[0], never, whole.items[2])))
    assert {item.name for part in parts for item in part.items} == {"i0", "i2"}
