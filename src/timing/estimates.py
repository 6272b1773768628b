"""How long a plan may take, its prompts and its videos, by the last runs of the same kind.

An estimate is made of medians of these runs; its range is how far the same arithmetic is off for each of them, estimated
from the others. Without an earlier run there is no estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

from ..planning.plan import Plan
from ..text import duration
from . import history
from .phases import ANSWERS, FETCHING, FIRST, HINTS, LOADING, SENDING, STARTING, VIDEOS, Measured, WorkerLifetime
from .workload import Work, work_of

LAST = 5  # runs behind an estimate: for each phase, the last ones that had it
FEWEST_FOR_A_RANGE = 3


@dataclass(frozen=True, slots=True)
class RunTiming:
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


P = TypeVar("P", "RunTiming", "VideoTiming")


def run_timing(
    work: Work, measured: Measured, workers: Sequence[WorkerLifetime], seconds_each: Sequence[float]
) -> RunTiming:
    """What a run contributes to later estimates.

    seconds_each: what every answer took by itself. Where the answers had to wait for hints, their own seconds tell more
    about the engine than the time from the first to the last.
    """
    phases = measured.phases

    def busy_s(name: str) -> float:
        return phases[name].busy_s if name in phases else 0.0

    loads = [life.load_s for life in workers if life.load_s is not None]
    lanes = max(1, min(work.lanes, len(seconds_each)))
    staged_s = max((phases[name].end_s for name in (HINTS, SENDING) if name in phases), default=0.0)
    waited_for_hints = FIRST in phases and staged_s > phases[FIRST].begin_s
    return RunTiming(
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
        answering_s=sum(seconds_each) / lanes if waited_for_hints else busy_s(FIRST) + busy_s(ANSWERS),
        ending_s=busy_s(FETCHING),
        total_s=measured.seconds,
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long something may take: by phase, as a whole, and from how many earlier runs.

    Hints are rendered and sent while the worker starts and loads, so the whole is less than the sum.
    least_s, most_s: the range; both total_s where there are too few runs for one.
    """

    phases: dict[str, float]
    total_s: float
    runs: int
    least_s: float
    most_s: float

    def as_seconds(self) -> dict[str, float]:
        return {**self.phases, "total": self.total_s}


def estimate_work(work: Work, past: Sequence[RunTiming]) -> Estimate | None:
    """The estimate for some work from earlier runs; None without any."""
    if not past or not work.requests:
        return None
    phases, total_s = _phases(work, past)
    last = past[-LAST:]
    return _with_range(phases, total_s, last, lambda p, others: _phases(p, others)[1])


def _with_range(
    phases: dict[str, float], total_s: float, last: Sequence[P], estimate_s: Callable[[P, Sequence[P]], float]
) -> Estimate:
    """An estimate with its range: what each earlier run took, relative to its estimate from the others."""
    if len(last) < FEWEST_FOR_A_RANGE:
        return Estimate(phases, total_s, len(last), total_s, total_s)
    off = [one.total_s / max(estimate_s(one, _without(last, n)), 1e-9) for n, one in enumerate(last)]
    return Estimate(phases, total_s, len(last), total_s * min(1.0, *off), total_s * max(1.0, *off))


def _without(runs: Sequence[P], n: int) -> list[P]:
    return [run for m, run in enumerate(runs) if m != n]


def _phases(work: Work | RunTiming, past: Sequence[RunTiming]) -> tuple[dict[str, float], float]:
    """Seconds of each phase, and of the whole."""
    last = past[-LAST:]
    sent = [p for p in past if p.sent_bytes and p.pixels][-LAST:]
    rendered = [p for p in past if p.to_render][-LAST:]
    by_phase = {
        STARTING: median(p.starting_s for p in last),
        HINTS: work.to_render * median(p.rendering_s / p.to_render for p in rendered) if rendered else 0.0,
        SENDING: _sending_s(work, sent) if sent else 0.0,
        LOADING: median(p.loading_s for p in last),
        ANSWERS: _answering_s(work, last),
        FETCHING: median(p.ending_s for p in last),
    }
    served_s = by_phase[STARTING] + by_phase[LOADING] + by_phase[ANSWERS]
    return by_phase, max(served_s, by_phase[HINTS] + by_phase[SENDING]) + by_phase[FETCHING]


def _sending_s(work: Work | RunTiming, sent: Sequence[RunTiming]) -> float:
    """Seconds per MiB, times the MiB that as many pixels had."""
    mib = work.pixels * median(p.sent_bytes / p.pixels for p in sent) / 2**20
    return mib * median(p.sending_s / (p.sent_bytes / 2**20) for p in sent)


def _waves(work: Work | RunTiming) -> float:
    """How often all slots are filled: fewer requests than slots take as long as one round."""
    return max(1.0, work.requests / max(1, work.lanes))


def _token_waves(work: Work | RunTiming) -> float:
    return _waves(work) * work.tokens / work.requests


def _answering_s(work: Work | RunTiming, last: Sequence[RunTiming]) -> float:
    """Seconds per token in a round of requests, or per round, where that differed clearly less between the earlier runs."""
    answered = [p for p in last if p.requests]
    if not answered:
        return 0.0

    def spread(units: Callable[[Work | RunTiming], float]) -> float:
        rates = [p.answering_s / units(p) for p in answered]
        return max(rates) / max(min(rates), 1e-9)

    units = _waves if spread(_waves) < 0.9 * spread(_token_waves) else _token_waves
    return units(work) * median(p.answering_s / units(p) for p in answered)


# ------------------------------------------------------------------------------------------------------------- videos


@dataclass(frozen=True, slots=True)
class VideoTiming:
    """Inference that ended: how much it made, and what that took.

    pieces: of all videos, see `pieces_of`. loads: how often the model was loaded.
    """

    pieces: int
    loads: int
    loading_s: float
    total_s: float


def estimate_videos(pieces: int, loads: int, past: Sequence[VideoTiming]) -> Estimate | None:
    """The estimate for pieces of video and loads of the model; None without an earlier run."""
    last = past[-LAST:]
    if not last or not pieces:
        return None

    phases = _video_phases(pieces, loads, last)
    return _with_range(
        phases, sum(phases.values()), last, lambda p, others: sum(_video_phases(p.pieces, p.loads, others).values())
    )


def _video_phases(pieces: int, loads: int, past: Sequence[VideoTiming]) -> dict[str, float]:
    return {
        LOADING: loads * median(p.loading_s / p.loads for p in past),
        VIDEOS: pieces * median((p.total_s - p.loading_s) / p.pieces for p in past),
    }


# ------------------------------------------------------------------------------------------------------ over the runs


def _key(plan: Plan) -> str:
    s = plan.settings
    rehearsed = f" · {s.engine.item_delay_s:g} s per item" if s.engine.item_delay_s else ""
    return f"{s.engine.name} · {s.model.name} · {s.host.name}{rehearsed}"


def earlier_runs(plan: Plan) -> tuple[RunTiming, ...]:
    """Earlier runs with the plan's engine, model and host, the oldest first."""
    return history.recall(history.history_file(plan.settings.cache_dir), _key(plan), RunTiming)


def remember(plan: Plan, past: RunTiming) -> None:
    """Add a run to the history."""
    history.remember(history.history_file(plan.settings.cache_dir), _key(plan), past)


def _videos_key(plan: Plan, how: str) -> str:
    return f"inference · {how} · {plan.settings.host.name}"


def earlier_videos(plan: Plan, how: str) -> tuple[VideoTiming, ...]:
    """Earlier inference on the plan's host. how: what else it depends on, in words."""
    return history.recall(history.history_file(plan.settings.cache_dir), _videos_key(plan, how), VideoTiming)


def remember_videos(plan: Plan, how: str, past: VideoTiming) -> None:
    """Add inference to the history."""
    history.remember(history.history_file(plan.settings.cache_dir), _videos_key(plan, how), past)


def estimate(plan: Plan) -> Estimate | None:
    """How long the plan may take, by the history in the cache folder."""
    return estimate_work(work_of(plan), earlier_runs(plan))


def where_text(plan: Plan) -> str:
    return f"engine={plan.settings.engine.name} on {plan.settings.host.name}"


def estimate_text(found: Estimate | None, where: str) -> str:
    """An estimate in one line, with the runs behind it."""
    if not found:
        return f"No time estimate: no earlier run with {where}."
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in found.phases.items() if seconds >= 0.05)
    source = "the last run" if found.runs == 1 else f"the last {found.runs} runs"
    within = "" if found.least_s == found.most_s else f", {duration(found.least_s)} to {duration(found.most_s)},"
    return f"Estimated time: {duration(found.total_s)}{within} from {source} with {where} ({parts})."


def error_text(estimated_s: Mapping[str, float], took_s: float) -> str:
    """How far an estimate was off, "" when there was none."""
    total_s = estimated_s.get("total", 0.0)
    if total_s <= 0:
        return ""
    off = round(100 * (took_s - total_s) / total_s)
    sign = "+" if off > 0 else "-" if off < 0 else "±"
    return f"estimated {duration(total_s)}, took {duration(took_s)} ({sign}{abs(off)} %)"
