"""How long a plan may take, its prompts and its videos, by the last runs of the same kind.

An estimate is made of the medians of these runs, and its range of their best and worst rates. Without an earlier run there
is no estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from ..planning.plan import Plan
from ..text import duration
from . import history
from .phases import ANSWERS, FETCHING, FIRST, HINTS, LOADING, SENDING, STARTING, VIDEOS, Measured, WorkerLifetime
from .workload import Work, work_of

LAST = 5  # runs behind an estimate: for each phase, the last ones that had it
SHOWN_FROM_S = 60.0  # people wait for less anyway, and the share of start-up makes its error large


@dataclass(frozen=True, slots=True)
class RunTiming(Work):
    """An earlier run: its work, and what its phases took."""

    starting_s: float
    loading_s: float
    rendering_s: float
    sent_bytes: int
    sending_s: float
    answering_s: float
    ending_s: float
    total_s: float


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
        **asdict(work),
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
    least_s, most_s: the whole at the best and the worst rates of these runs.
    """

    phases: dict[str, float]
    total_s: float
    runs: int
    least_s: float
    most_s: float

    def as_seconds(self) -> dict[str, float]:
        return {**self.phases, "total": self.total_s}


Pick = Callable[[Sequence[float]], float]  # median, min or max of some rates; 0 of none


def estimate_work(work: Work, past: Sequence[RunTiming]) -> Estimate | None:
    """The estimate for some work from earlier runs; None without any."""
    if not past or not work.requests:
        return None
    by_pick = [_phases(work, past, pick) for pick in (_median, _min, _max)]
    total_s, least_s, most_s = map(_total_s, by_pick)
    return Estimate(by_pick[0], total_s, len(past[-LAST:]), least_s, most_s)


def _median(rates: Sequence[float]) -> float:
    return median(rates) if rates else 0.0


def _min(rates: Sequence[float]) -> float:
    return min(rates, default=0.0)


def _max(rates: Sequence[float]) -> float:
    return max(rates, default=0.0)


def _phases(work: Work, past: Sequence[RunTiming], pick: Pick) -> dict[str, float]:
    """Seconds of each phase: its amount of work, times the rate picked from the last runs that had it."""
    last = past[-LAST:]
    sent = [p for p in past if p.sent_bytes and p.pixels][-LAST:]
    rendered = [p for p in past if p.to_render][-LAST:]
    sent_bytes = work.pixels * _median([p.sent_bytes / p.pixels for p in sent])
    return {
        STARTING: pick([p.starting_s for p in last]),
        HINTS: work.to_render * pick([p.rendering_s / p.to_render for p in rendered]),
        SENDING: sent_bytes * pick([p.sending_s / p.sent_bytes for p in sent]),
        LOADING: pick([p.loading_s for p in last]),
        ANSWERS: _token_rounds(work) * pick([p.answering_s / _token_rounds(p) for p in last if p.requests]),
        FETCHING: pick([p.ending_s for p in last]),
    }


def _total_s(phases: Mapping[str, float]) -> float:
    served_s = phases[STARTING] + phases[LOADING] + phases[ANSWERS]
    return max(served_s, phases[HINTS] + phases[SENDING]) + phases[FETCHING]


def _token_rounds(work: Work | RunTiming) -> float:
    """Tokens of one slot after the other; fewer requests than slots take as long as one round."""
    return max(1.0, work.requests / max(1, work.lanes)) * work.tokens / work.requests


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
    last = [p for p in past if p.loads > 0 and p.pieces > 0][-LAST:]
    if not last or not pieces:
        return None

    def phases(pick: Pick) -> dict[str, float]:
        return {
            LOADING: loads * pick([p.loading_s / p.loads for p in last]),
            VIDEOS: pieces * pick([(p.total_s - p.loading_s) / p.pieces for p in last]),
        }

    total_s, least_s, most_s = (sum(phases(pick).values()) for pick in (_median, _min, _max))
    return Estimate(phases(_median), total_s, len(last), least_s, most_s)


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
    """An estimate in one line, with the runs behind it; "" without one, and for what takes less than a minute."""
    if not found or found.total_s < SHOWN_FROM_S:
        return ""
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in found.phases.items() if seconds >= 0.05)
    source = "the last run" if found.runs == 1 else f"the last {found.runs} runs"
    within = "" if found.least_s == found.most_s else f", {duration(found.least_s)} to {duration(found.most_s)},"
    return f"Estimated time: {duration(found.total_s)}{within} from {source} with {where} ({parts})."


def error_text(estimated_s: Mapping[str, float], took_s: float) -> str:
    """How far an estimate was off, "" when there was none, and for what took less than a minute."""
    total_s = estimated_s.get("total", 0.0)
    if total_s <= 0 or max(total_s, took_s) < SHOWN_FROM_S:
        return ""
    off = round(100 * (took_s - total_s) / total_s)
    sign = "+" if off > 0 else "-" if off < 0 else "±"
    return f"estimated {duration(total_s)}, took {duration(took_s)} ({sign}{abs(off)} %)"
