"""Observed limits: merged over runs, kept per engine, and respected by the plans after them."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.planning import observed_limits
from src.planning.observed_limits import ObservedLimit
from src.planning.resolve import resolve
from tests.unit.planning.conftest import ConfigFor, over


def limit(accepted: int | None, refused: int | None, version: str = "1") -> ObservedLimit:
    return ObservedLimit("local", "", "endpoint", "m", version, 4096, accepted, refused, "2026-01-01")


def test_only_refusals_inside_max_model_len_count() -> None:
    assert limit(3000, 3500).effective_len == 3499
    assert limit(4096, 4097).effective_len is None
    assert limit(4000, None).effective_len is None


def test_observations_of_one_version_are_merged(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    observed_limits.remember(file, "k", limit(1000, 4000))
    assert observed_limits.remember(file, "k", limit(2000, 5000)) == limit(2000, 4000)


@pytest.mark.parametrize(
    "new", [limit(4050, None), limit(10, 20, version="2")], ids=["contradiction", "another version"]
)
def test_other_observations_are_replaced(tmp_path: Path, new: ObservedLimit) -> None:
    file = tmp_path / "limits.json"
    observed_limits.remember(file, "k", limit(2000, 4000))
    assert observed_limits.remember(file, "k", new) == new
    assert observed_limits.read(file) == {"k": new}


@pytest.mark.parametrize("text", ["{", "[1]", '{"k": {"host": 1}}', '{"k": 3}'])
def test_damaged_file_is_rejected_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "limits.json").write_text(text)
    with pytest.raises(InputError, match=r"limits\.json"):
        observed_limits.read(tmp_path / "limits.json")


def test_plans_respect_the_observed_limit(config_for: ConfigFor, clips: Path, tmp_path: Path) -> None:
    config = config_for(
        over(clips / "hd.mp4"),
        "upsample.rule=best_fit",
        "engine.name=endpoint",
        "engine.base_url=http://127.0.0.1:9/v1",
    )
    config.cache_dir = str(tmp_path / "cache")
    before = resolve(config)
    key = observed_limits.key_of(before.settings)
    observed = ObservedLimit("local", "", "endpoint", before.settings.model.name, "1", 4096, 2500, 3001, "2026-01-01")
    observed_limits.remember(observed_limits.limits_file(tmp_path / "cache"), key, observed)
    after = resolve(config)
    assert before.items[0].tokens.prompt + 300 > 3000 >= after.items[0].tokens.prompt + 300
    assert after.settings.effective_len == 3000
    config.engine.base_url = "http://127.0.0.1:10/v1"  # an engine without observations
    assert resolve(config).settings.effective_len == 0
