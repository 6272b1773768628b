"""Points of a limits sweep, each one size at one budget: the verdict of the token rule, and of an engine.

Pure: a point is made of a plan's item and, once an engine was asked, of its outcome.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..media.geometry import Size
from ..models.family import Family, Media
from ..models.linear import linear_estimate, linear_says_safe
from ..planning.observed_limits import ObservedLimit
from ..planning.plan import Plan, PlanItem
from ..worker.protocol import Outcome

# Multiples of each aspect that are larger than what the encoder sees.
_SHAPES = {"16:9": Size(8192, 4608), "9:16": Size(4608, 8192), "4:3": Size(8192, 6144), "3:4": Size(6144, 8192)}
_SHAPES["1:1"] = Size(8192, 8192)


@dataclass(frozen=True, slots=True)
class Measured:
    """What an engine did with a point.

    accepted: it answered, with room for the whole reserve. refusal: too_long (the prompt alone), no_room (the answer
    after it), failed (something else; reason). prompt_tokens as it counted them; room: what it left for the answer.
    """

    accepted: bool
    refusal: str
    reason: str
    prompt_tokens: int | None
    room: int | None
    first_token_s: float | None
    total_s: float | None
    engine: str


@dataclass(frozen=True, slots=True)
class Point:
    """Frames of one size under one budget.

    aspect, category: of the Cosmos table, "" for a size of its own. seen: the size that the encoder sees of it. same_as: an
    earlier point with the same budget whose frames it sees in the same size, so that both must end alike.
    """

    id: str
    engine_key: str
    size: str
    aspect: str
    category: str
    frames: int
    max_model_len: int
    reserve: int
    text_tokens: int
    image_tokens: int
    prompt_tokens: int
    model: str = ""
    seen: str = ""
    same_as: str = ""
    measured: Measured | None = None

    @property
    def linear_estimate(self) -> int:
        """Tokens of the frames by the estimate of the original investigation."""
        size = size_of(self.size)
        return linear_estimate(size.width_px, size.height_px, self.frames)

    @property
    def fits(self) -> bool:
        """The verdict of the token rule."""
        return self.prompt_tokens + self.reserve <= self.max_model_len

    @property
    def linear_fits(self) -> bool:
        """The verdict of the old estimate."""
        return linear_says_safe(self.linear_estimate, self.max_model_len)

    @property
    def agrees(self) -> bool | None:
        """Whether engine and rule agree in verdict and count; None for what no engine has answered."""
        if not self.measured or self.measured.refusal == "failed":
            return None if not self.measured or self.measured.prompt_tokens is None else False
        counted = self.measured.prompt_tokens
        return self.measured.accepted == self.fits and counted in (None, self.prompt_tokens)

    @property
    def linear_agrees(self) -> bool | None:
        """Whether engine and old estimate give the same verdict."""
        known = self.measured and self.measured.refusal != "failed"
        return self.measured.accepted == self.linear_fits if known and self.measured else None


def point_of(item: PlanItem, plan: Plan, engine_key: str, outcome: Outcome | None) -> Point:
    """A point from an item of a limits plan."""
    assert item.hint
    named = json.loads(item.extra)
    settings = plan.settings
    return Point(
        id=item.id,
        engine_key=engine_key,
        size=f"{item.hint.width_px}x{item.hint.height_px}",
        aspect=named["aspect"],
        category=named["category"],
        frames=item.hint.frames,
        max_model_len=settings.max_model_len,
        reserve=settings.max_output_tokens,
        text_tokens=item.tokens.text,
        image_tokens=item.tokens.image,
        prompt_tokens=item.tokens.prompt,
        model=settings.model.name,
        seen=str(settings.family.seen(item.hint.size, Media(item.hint.frames, item.hint.clip_fps))),
        measured=measured_of(outcome, settings.max_model_len) if outcome else None,
    )


def measured_of(outcome: Outcome, max_model_len: int) -> Measured:
    """The engine's verdict in an outcome. An answer that failed a check was accepted nevertheless."""
    counted = outcome.tokens.measured
    answered = bool(outcome.attempts)
    return Measured(
        accepted=answered,
        refusal="" if answered else outcome.refusal or "failed",
        reason="" if answered else outcome.reason,
        prompt_tokens=counted,
        room=max_model_len - counted if counted is not None else None,
        first_token_s=outcome.seconds.first_token,
        total_s=outcome.seconds.total,
        engine=f"{outcome.engine.name} {outcome.engine.version}".strip(),
    )


def marked(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points with `same_as`, in order of budget, frames and tokens."""
    ordered = sorted(points, key=lambda p: (p.max_model_len, p.frames, p.prompt_tokens, _area(p), p.size))
    first: dict[tuple[object, ...], Point] = {}
    found = []
    for point in ordered:
        key = (point.engine_key, point.max_model_len, point.frames, point.text_tokens, point.seen)
        twin = first.setdefault(key, point)
        found.append(replace(point, same_as="" if twin is point else twin.size))
    return tuple(found)


def size_of(text: str) -> Size:
    """The size that "640x480" names. ValueError for anything else."""
    width, _, height = text.partition("x")
    size = Size(int(width), int(height))
    if size.width_px < 2 or size.height_px < 2:
        raise ValueError(text)
    return size


def _area(point: Point) -> int:
    size = size_of(point.size)
    return size.width_px * size.height_px


def edge(aspect: str, family: Family, media: Media, fits: Callable[[Size], bool]) -> tuple[Size, ...]:
    """The largest size of an aspect that fits, and the next one up, which does not.

    Only one size when all fit: then the largest that the encoder sees; every larger one costs the same.
    """
    sizes = family.sizes(_SHAPES[aspect], media)
    best = next((n for n, size in enumerate(sizes) if fits(size)), None)
    if best is None:
        return (sizes[-1],)
    return (sizes[best],) if best == 0 else (sizes[best], sizes[best - 1])


@dataclass(frozen=True, slots=True)
class Agreement:
    """In how many points the engine acted as predicted."""

    measured: int
    exact: int
    linear: int

    def __str__(self) -> str:
        if not self.measured:
            return "predicted, not measured: engine=offline has no limit, and no other engine answered"
        return (
            f"prediction and engine agree in {self.exact} of {self.measured} points, "
            f"the old estimate and the engine in {self.linear}"
        )


def agreement(points: Iterable[Point]) -> Agreement:
    """Points in which the engine was asked and the rule or the old estimate was right."""
    known = [p for p in points if p.agrees is not None]
    return Agreement(len(known), sum(bool(p.agrees) for p in known), sum(bool(p.linear_agrees) for p in known))


def observed_limit(points: Iterable[Point], plan: Plan, measured_at: str) -> ObservedLimit | None:
    """What one engine was observed to accept at one budget; None when it answered nothing."""
    seen = [(p.prompt_tokens + p.reserve, p.measured) for p in points if p.measured and p.measured.refusal != "failed"]
    if not seen:
        return None
    settings = plan.settings
    return ObservedLimit(
        host=settings.host.name,
        image=settings.image.reference,
        engine=settings.engine.name,
        model=settings.model.name,
        version=next((m.engine for _, m in seen if m.engine), ""),
        max_model_len=settings.max_model_len,
        accepted=max((length for length, m in seen if m.accepted), default=None),
        refused=min((length for length, m in seen if not m.accepted), default=None),
        measured_at=measured_at,
    )


def disagreements(points: Iterable[Point]) -> list[Point]:
    """Points in which the engine did not act as predicted."""
    return [p for p in points if p.agrees is False]


# What vLLM (0.8 to 0.32) writes about memory when it starts.
_MEMORY = re.compile(
    r"(?:GPU|CPU) KV cache size: [\d,]+ tokens|Available KV cache memory: [\d.]+ GiB|[Mm]odel loading took [\d.]+ GiB"
    r"|\([\d./]+\) GiB for KV cache"
)


def memory_lines(log: str) -> list[str]:
    """The lines about memory in an engine's log."""
    return [match[0] for match in _MEMORY.finditer(log)]
