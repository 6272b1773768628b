"""Long lists that tell how far they are."""

from __future__ import annotations

import pytest

from src.counted import counted


@pytest.mark.parametrize(
    ("count", "total", "steps"),
    [
        (0, 0, []),
        (999, 999, []),
        (1000, 1000, [(1000, 1000)]),
        (2500, None, [(1000, None), (2000, None), (2500, 2500)]),
        (2000, 2000, [(1000, 2000), (2000, 2000), (2000, 2000)]),
    ],
)
def test_every_thousandth_is_told(count: int, total: int | None, steps: list[tuple[int, int | None]]) -> None:
    told: list[tuple[str, int, int | None]] = []
    assert list(counted(range(count), "read", lambda *step: told.append(step), total)) == list(range(count))
    assert told == [("read", *step) for step in steps]
