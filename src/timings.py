"""How long things took in earlier runs, kept in the cache folder, so that a plan can say how long it may take.

An estimate says what it rests on; without an earlier run there is none.
"""

from __future__ import annotations

import json
from pathlib import Path

from src.paths import write_atomic
from src.plan import Plan


def _file(plan: Plan) -> Path:
    return Path(plan.settings.cache_dir) / "timings.json"


def _key(plan: Plan) -> str:
    s = plan.settings
    return f"{s.engine.name} · {s.model.name} · {s.host}"


def _read(plan: Plan) -> dict[str, dict[str, float]]:
    try:
        known: dict[str, dict[str, float]] = json.loads(_file(plan).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}  # no earlier run, or one that wrote another format: there is nothing to estimate from
    return known


def remember(plan: Plan, answered: int, took_s: float) -> None:
    """Note that a run asked and answered `answered` requests in `took_s` seconds."""
    if answered and took_s > 0:
        write_atomic(_file(plan), json.dumps(_read(plan) | {_key(plan): {"answers": answered, "seconds": took_s}}))


def estimate(plan: Plan) -> str:
    """How long the plan may take, in words, by the last run with this engine, model and host."""
    requests = len({item.id for item in plan.items if item.runs})
    last = _read(plan).get(_key(plan))
    if not last:
        return f"How long it takes is not known: no earlier run with engine={plan.settings.engine.name} on {plan.settings.host}."
    each_s = last["seconds"] / last["answers"]
    return (
        f"It may take about {words(requests * each_s)}: the last run on {plan.settings.host} with "
        f"engine={plan.settings.engine.name} answered {last['answers']:.0f} in {words(last['seconds'])}."
    )


def words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
