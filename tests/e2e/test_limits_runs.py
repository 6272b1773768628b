"""task=limits as a user runs it: one point, sweeps, an engine that takes less than it says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.openai_server import FakeOpenAI, counted_by_frames
from tests.harness.program import ROOT, Ended, program, quoted


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of test cards for all tests here."""
    return tmp_path_factory.mktemp("cards")


@pytest.fixture
def cache(own_cache: Path, cards: Path) -> Path:
    """A cache folder of its own, with the test cards of others."""
    (own_cache / "test_cards").symlink_to(cards)
    return own_cache


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    """A server that counts as Pixtral does: two tokens of text, the rest by the sizes of the pictures."""
    made = FakeOpenAI(pause_s=0.0)
    made.count = lambda body: counted_by_frames(body, text_tokens=2)
    yield made
    made.close()


def limits(cache: Path, *overrides: str) -> Ended:
    return program(*overrides, f"cache_dir={quoted(cache)}", cwd=cache.parent)


def matrix(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "matrix.json").read_text())
    return data


def test_point_is_predicted_without_engine(cache: Path, tmp_path: Path) -> None:
    end = limits(cache, "task=limits", "size=640x480", f"hydra.run.dir={quoted(tmp_path / 'run')}")
    assert end.code == 0, end.err
    assert "predicted, not measured" in end.out
    [row] = matrix(tmp_path / "run")["points"]
    assert (row["prompt_tokens"], row["predicted"], row["measured"]) == (2465, "fits", None)
    assert {p.name for p in (tmp_path / "run").glob("matrix.*")} == {
        "matrix.csv",
        "matrix.json",
        "matrix.png",
        "matrix.html",
    }


@pytest.mark.parametrize("together", ["true", "false"])
def test_point_of_its_own_names_its_engine(cache: Path, tmp_path: Path, together: str) -> None:
    away = ("engine=endpoint", "model.name=m", "engine.base_url=http://127.0.0.1:9/v1", f"limits.together={together}")
    end = limits(cache, "task=limits", "size=640x480", f"hydra.run.dir={quoted(tmp_path / 'run')}", *away)
    assert end.code == 4 and "http://127.0.0.1:9/v1 cannot be reached" in end.err, end.err


def test_invalid_size_is_refused(cache: Path, tmp_path: Path) -> None:
    for size in ("wide", "640x480x3"):
        end = limits(cache, "task=limits", f"size={size}", f"hydra.run.dir={quoted(tmp_path / 'run')}")
        assert end.code == 2
        assert "size=640x360" in end.err and "Traceback" not in end.err


def test_quick_experiments_end_in_one_matrix(cache: Path, tmp_path: Path) -> None:
    for name, count in {"resolution_limits": 6, "token_limits": 4}.items():
        folder = tmp_path / name
        end = limits(cache, f"experiment={name}", "quick=true", f"hydra.sweep.dir={quoted(folder)}")
        assert end.code == 0, end.err
        points = matrix(folder)["points"]
        assert len(points) == count
        assert (folder / "matrix.png").exists()
        assert f"{count} points" in end.out


def test_bad_point_does_not_stop_sweep(cache: Path, tmp_path: Path) -> None:
    end = limits(cache, "-m", "task=limits", "size=320x180,wide,640x480", f"hydra.sweep.dir={quoted(tmp_path / 's')}")
    assert end.code == 2
    assert [row["size"] for row in matrix(tmp_path / "s")["points"]] == ["320x180", "640x480"]


def test_repeated_sweep_asks_only_missing_points(cache: Path, tmp_path: Path, fake: FakeOpenAI) -> None:
    fake.limit = 4096
    given = (
        "-m",
        "task=limits",
        "engine=endpoint",
        f"engine.base_url={fake.url}",
        f"hydra.sweep.dir={quoted(tmp_path / 's')}",
    )
    end = limits(cache, *given, "size=320x180,640x480,1280x704")
    assert end.code == 0, end.err
    said = matrix(tmp_path / "s")["agreement"]
    assert said == {"measured": 3, "exact": 3, "linear": 2, "points": 3}
    assert "agree in 3 of 3 points" in end.out
    [engine] = (tmp_path / "s" / "engines").iterdir()
    assert engine.name.startswith("4096-")
    again = limits(cache, *given, "size=320x180,640x480,1280x704,960x960")
    assert again.code == 0, again.err
    rows = {row["size"]: row for row in matrix(tmp_path / "s")["points"]}
    assert {size: row["measured"] for size, row in rows.items()} == {
        "320x180": "accepted", "640x480": "accepted", "960x960": "too_long", "1280x704": "too_long",
    }  # fmt: skip
    assert rows["960x960"]["measured_tokens"] == rows["960x960"]["prompt_tokens"]
    assert Counter(len(json.dumps(body)) for body in fake.asked).most_common(1)[0][1] == 1


def test_observed_limit_applies_to_later_plans(cache: Path, tmp_path: Path, fake: FakeOpenAI) -> None:
    fake.limit = 3000
    engine = ("engine=endpoint", f"engine.base_url={fake.url}")
    end = limits(cache, "task=limits", "search=true", *engine, f"hydra.run.dir={quoted(tmp_path / 'run')}")
    assert end.code == 3  # the rule said that one of the two fits
    assert "engine accepts less" in end.err
    assert sum(row["agrees"] is False for row in matrix(tmp_path / "run")["points"]) == 1
    before = limits(cache, "task=limits", "size=640x480", *engine, f"hydra.run.dir={quoted(tmp_path / 'second')}")
    assert before.code == 0, before.err  # 2465 + 300 fit the observed limit, too
    plan = limits(
        cache, "task=plan", "upsample=best_fit", f"prompts={quoted(ROOT / 'examples' / 'prompts.json')}", *engine,
        f"hydra.run.dir={quoted(tmp_path / 'plan')}",
    )  # fmt: skip
    assert plan.code == 0, plan.err
    assert "limits.json" in plan.out
    planned = json.loads((tmp_path / "plan" / "plan.json").read_text())
    effective = planned["settings"]["effective_len"]
    assert 3000 < effective < 4096
    assert all(item["tokens"]["prompt"] + 300 <= effective for item in planned["items"])


def test_unreachable_engine_point_can_be_resumed(cache: Path, tmp_path: Path, fake: FakeOpenAI) -> None:
    folder = tmp_path / "run"
    given = ("task=limits", "size=640x480", "engine=endpoint", "engine.base_url=http://127.0.0.1:9/v1")
    away = limits(cache, *given, "engine.start_timeout_s=1", f"hydra.run.dir={quoted(folder)}")
    assert away.code != 0 and "Traceback" not in away.err
    plan = json.loads((folder / "plan.json").read_text())
    plan["settings"]["engine"]["base_url"] = fake.url  # the server is back, at another address
    (folder / "plan.json").write_text(json.dumps(plan))
    foreign = limits(cache, "task=limits", f"resume={quoted(folder)}")
    assert foreign.code == 2 and f"engine.base_url={fake.url}" in foreign.err
    again = limits(cache, "task=limits", f"resume={quoted(folder)}", f"engine.base_url={fake.url}")
    assert again.code == 0, again.err
    assert matrix(folder)["agreement"] == {"measured": 1, "exact": 1, "linear": 0, "points": 1}
