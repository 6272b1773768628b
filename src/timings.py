"""How long the phases of earlier runs took, kept in the cache folder, and what that says about a plan.

An estimate rests on the medians of the last runs with the same engine, model and host; without one there is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from src.hints import hint_key
from src.paths import write_atomic
from src.phases import ANSWERS, FETCHING, FIRST, HINTS, LOADING, SENDING, STARTING, Life, Measured
from src.plan import Hint, Plan, PlanItem
from src.video import Video

KEPT_RUNS = 5


@dataclass(frozen=True, slots=True)
class Work:
    """What a plan asks for, in the units that time is counted in.

    tokens: of all prompts and the room for their answers. pixels: of all distinct frames. to_render: pixels of
    frames that are not in the cache. lanes: requests that are answered at the same time, at most.
    """

    requests: int
    tokens: int
    pixels: int
    to_render: int
    lanes: int


def work_of(plan: Plan) -> Work:
    """Looks at which hints are in the cache, and so must be called before a run makes them."""
    asked = [item for item in plan.by_id.values() if item.runs]
    cache = Path(plan.settings.cache_dir) / "hints"
    pixels = {key: h.width_px * h.height_px * h.frames for key, (_, h) in _distinct_hints(asked).items()}
    return Work(
        len(asked),
        sum(item.tokens.prompt + item.tokens.output_reserved for item in asked),
        sum(pixels.values()),
        sum(count for key, count in pixels.items() if not (cache / key).exists()),
        lanes_of(plan),
    )


def _distinct_hints(items: Iterable[PlanItem]) -> dict[str, tuple[Video, Hint]]:
    return {hint_key(i.video, i.hint): (i.video, i.hint) for i in items if i.video and i.hint}


def lanes_of(plan: Plan) -> int:
    """How many requests the workers of a plan have in flight at most."""
    s = plan.settings
    by_engine = {
        "offline": os.cpu_count() or 1,
        "endpoint": 16,
        "vllm": s.model.max_num_seqs * s.model.data_parallel_size,
    }
    each = 1 if s.engine.name == "cosmos" else s.engine.in_flight or by_engine.get(s.engine.name, 1)
    return each * s.place.workers


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier run: its work, and what its phases took."""

    requests: int
    tokens: int
    pixels: int
    to_render: int
    lanes: int
    starting_s: float
    loading_s: float
    rendering_s: float
    sent_bytes: int
    sending_s: float
    answering_s: float
    ending_s: float
    total_s: float


def past_of(work: Work, measured: Measured, workers: Sequence[Life], seconds_each: Sequence[float]) -> Past:
    """A run that ended, as a later one is estimated by it.

    seconds_each: what every answer took by itself. Where the answers had to wait for hints, their own seconds say more
    about the engine than the time from the first to the last.
    """
    phases = measured.phases

    def busy_s(name: str) -> float:
        return phases[name].busy_s if name in phases else 0.0

    loads = [life.load_s for life in workers if life.load_s is not None]
    lanes = max(1, min(work.lanes, len(seconds_each)))
    staged_s = max((phases[name].end_s for name in (HINTS, SENDING) if name in phases), default=0.0)
    waited = FIRST in phases and staged_s > phases[FIRST].begin_s
    return Past(
        work.requests,
        work.tokens,
        work.pixels,
        work.to_render,
        work.lanes,
        starting_s=busy_s(STARTING),
        loading_s=max(loads, default=busy_s(LOADING)),
        rendering_s=busy_s(HINTS),
        sent_bytes=phases[SENDING].amount if SENDING in phases else 0,
        sending_s=busy_s(SENDING),
        answering_s=sum(seconds_each) / lanes if waited else busy_s(FIRST) + busy_s(ANSWERS),
        ending_s=busy_s(FETCHING),
        total_s=measured.seconds,
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a plan may take: by phase, as a whole, and how many earlier runs that rests on.

    Hints and their sending go on beside the worker's start and load, so the whole is less than the sum.
    """

    phases: dict[str, float]
    total_s: float
    runs: int

    def as_seconds(self) -> dict[str, float]:
        return {**self.phases, "total": self.total_s}


def estimated(work: Work, past: Sequence[Past]) -> Estimate | None:
    """The estimate for some work by earlier runs, the last ones of which count; None without any."""
    last = past[-KEPT_RUNS:]
    if not last or not work.requests:
        return None
    sent = [p for p in last if p.sent_bytes and p.pixels]
    rendered = [p for p in last if p.to_render]
    by_phase = {
        STARTING: median(p.starting_s for p in last),
        HINTS: work.to_render * median(p.rendering_s / p.to_render for p in rendered) if rendered else 0.0,
        SENDING: _sending_s(work, sent) if sent else 0.0,
        LOADING: median(p.loading_s for p in last),
        ANSWERS: _answering_s(work, last),
        FETCHING: median(p.ending_s for p in last),
    }
    served_s = by_phase[STARTING] + by_phase[LOADING] + by_phase[ANSWERS]
    total_s = max(served_s, by_phase[HINTS] + by_phase[SENDING]) + by_phase[FETCHING]
    return Estimate(by_phase, total_s, len(last))


def _sending_s(work: Work, sent: Sequence[Past]) -> float:
    """Seconds a MiB, times the MiB that so many pixels had."""
    mib = work.pixels * median(p.sent_bytes / p.pixels for p in sent) / 2**20
    return mib * median(p.sending_s / (p.sent_bytes / 2**20) for p in sent)


def _waves(work: Work | Past) -> float:
    """How many times all lanes are filled: fewer requests than lanes take as long as one round."""
    return max(1.0, work.requests / max(1, work.lanes))


def _token_waves(work: Work | Past) -> float:
    return _waves(work) * work.tokens / work.requests


def _answering_s(work: Work, last: Sequence[Past]) -> float:
    """Seconds a token in a round of requests, or a round, where that differed clearly less between the earlier runs."""
    answered = [p for p in last if p.requests]
    if not answered:
        return 0.0

    def spread(units: Callable[[Work | Past], float]) -> float:
        rates = [p.answering_s / units(p) for p in answered]
        return max(rates) / max(min(rates), 1e-9)

    units = _waves if spread(_waves) < 0.9 * spread(_token_waves) else _token_waves
    return units(work) * median(p.answering_s / units(p) for p in answered)


# ------------------------------------------------------------------------------------------------------ over the runs


def _file(plan: Plan) -> Path:
    return Path(plan.settings.cache_dir) / "timings.json"


def _key(plan: Plan) -> str:
    s = plan.settings
    rehearsed = f" · {s.engine.item_delay_s:g} s an item" if s.engine.item_delay_s else ""
    return f"{s.engine.name} · {s.model.name} · {s.host}{rehearsed}"


def _read(plan: Plan) -> dict[str, list[dict[str, float]]]:
    """All that is known, by key; what another version wrote is left out."""
    names = {f.name for f in fields(Past)}
    try:
        known = json.loads(_file(plan).read_text(encoding="utf-8")).items()
    except (OSError, ValueError, AttributeError):
        return {}
    runs = {key: [run for run in runs if run.keys() == names] for key, runs in known if isinstance(runs, list)}
    return {key: found for key, found in runs.items() if found}


def earlier_runs(plan: Plan) -> tuple[Past, ...]:
    """What is known of runs with the plan's engine, model and host, the oldest first."""
    return tuple(Past(**run) for run in _read(plan).get(_key(plan), []))  # type: ignore[arg-type]


def remember(plan: Plan, past: Past) -> None:
    """Keep a run beside the earlier ones, of which the oldest goes."""
    known = _read(plan)
    known[_key(plan)] = [*known.get(_key(plan), []), asdict(past)][-KEPT_RUNS:]
    write_atomic(_file(plan), json.dumps(known))


def estimate(plan: Plan) -> Estimate | None:
    """How long the plan may take by what is in the cache folder."""
    return estimated(work_of(plan), earlier_runs(plan))


def estimate_words(plan: Plan, found: Estimate | None) -> str:
    """An estimate in one line, with what it rests on."""
    s = plan.settings
    where = f"engine={s.engine.name} on {s.host}"
    if not found:
        return f"How long it takes is not known: no earlier run with {where}."
    parts = ", ".join(f"{name} {words(seconds)}" for name, seconds in found.phases.items() if seconds >= 0.05)
    rests_on = "the last run" if found.runs == 1 else f"the last {found.runs} runs"
    return f"It may take about {words(found.total_s)} ({parts}), by {rests_on} with {where}."


def error_words(estimated_s: Mapping[str, float], took_s: float) -> str:
    """How far an estimate was off, "" when there was none."""
    total_s = estimated_s.get("total", 0.0)
    if total_s <= 0:
        return ""
    off = round(100 * (took_s - total_s) / total_s)
    sign = "+" if off > 0 else "-" if off < 0 else "±"
    return f"estimated {words(total_s)}, took {words(took_s)} ({sign}{abs(off)} %)"


def words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{max(seconds, 0.1):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
