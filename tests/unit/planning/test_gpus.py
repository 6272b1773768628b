"""host.gpus: how workers share devices, and what a plain process sees."""

from __future__ import annotations

import pytest

from src.planning import gpus


@pytest.mark.parametrize(
    ("value", "workers", "expected"),
    [
        ("all", 1, ("all",)),
        ("device=0,2", 2, ("device=0", "device=2")),
        ("4", 2, ("device=0,1", "device=2,3")),
        ("device=GPU-aa, GPU-bb", 2, ("device=GPU-aa", "device=GPU-bb")),
        ("none", 3, ("none", "none", "none")),
    ],
)
def test_devices_are_shared_evenly(value: str, workers: int, expected: tuple[str, ...]) -> None:
    assert gpus.shares(value, workers) == expected


@pytest.mark.parametrize(("value", "workers"), [("all", 2), ("3", 2), ("device=0", 2), ("two", 1), ("-1", 1)])
def test_uneven_shares_are_refused(value: str, workers: int) -> None:
    with pytest.raises(ValueError, match=r"device=0"):
        gpus.shares(value, workers)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("all", {}),
        ("none", {"CUDA_VISIBLE_DEVICES": ""}),
        ("2", {"CUDA_VISIBLE_DEVICES": "0,1"}),
        ("device=3,5", {"CUDA_VISIBLE_DEVICES": "3,5"}),
    ],
)
def test_process_sees_the_named_devices_only(value: str, expected: dict[str, str]) -> None:
    assert gpus.environment(value) == expected
