"""Several workers: who gets which GPUs, and which items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.planning import gpus
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
    place = replace(plan.settings.host, workers=workers, gpus="none")
    return Plan(replace(plan.settings, host=place), batches, items)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.integers(5, 4000), min_size=1, max_size=60), workers=st.integers(1, 9))
def test_every_item_is_in_one_shard_and_no_shard_is_ahead_by_more_than_one_item(
    plan: Plan, prompts: list[int], workers: int
) -> None:
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
    assert len({job_id(part.items, part.settings) for part in parts}) == len(parts)


def test_one_worker_gets_the_plan_itself(plan: Plan) -> None:
    assert shards(plan) == (plan,)


def test_each_shard_has_its_own_gpus(plan: Plan) -> None:
    whole = with_items(plan, [9, 8], 2)
    place = replace(whole.settings.host, gpus="device=4,5,6,7")
    parts = shards(replace(whole, settings=replace(whole.settings, host=place)))
    assert [part.settings.host.gpus for part in parts] == ["device=4,5", "device=6,7"]


def test_items_that_never_run_are_in_no_shard(plan: Plan) -> None:
    whole = with_items(plan, [9, 8, 7], 2)
    never = replace(whole.items[1], batch=None)
    parts = shards(replace(whole, items=(whole.items[0], never, whole.items[2])))
    assert {item.name for part in parts for item in part.items} == {"i0", "i2"}


@pytest.mark.parametrize(
    ("value", "workers", "wanted"),
    [
        ("all", 1, ("all",)),
        ("device=0,2", 2, ("device=0", "device=2")),
        ("4", 2, ("device=0,1", "device=2,3")),
        ("device=GPU-aa, GPU-bb", 2, ("device=GPU-aa", "device=GPU-bb")),
        ("none", 3, ("none", "none", "none")),
    ],
)
def test_gpus_are_dealt_out_evenly(value: str, workers: int, wanted: tuple[str, ...]) -> None:
    assert gpus.shares(value, workers) == wanted


@pytest.mark.parametrize(("value", "workers"), [("all", 2), ("3", 2), ("device=0", 2), ("two", 1), ("-1", 1)])
def test_gpus_that_cannot_be_dealt_out_are_refused(value: str, workers: int) -> None:
    with pytest.raises(ValueError, match=r"device=0"):
        gpus.shares(value, workers)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("all", {}), ("none", {"CUDA_VISIBLE_DEVICES": ""}), ("2", {"CUDA_VISIBLE_DEVICES": "0,1"}),
     ("device=3,5", {"CUDA_VISIBLE_DEVICES": "3,5"})],
)  # fmt: skip
def test_a_plain_process_sees_the_named_gpus_only(value: str, wanted: dict[str, str]) -> None:
    assert gpus.environment(value) == wanted
