"""The plan: frozen values that say everything about a run before any of it happens, and print as JSON.

`plan.json` is the same bytes for the same inputs, and is all that execution reads. Keys may be added; a key is never
renamed or removed without a new VERSION.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ..media.hint import Hint
from ..media.video import Video
from ..models import pixtral
from .settings import Settings, digest, dumps


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one request; `prompt` is the whole request as the engine counts it."""

    image: int
    text: int
    prompt: int
    output_reserved: int


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One prompt, resolved.

    id: hash of all that the answer depends on; items with the same id are sent once.
    text, system: the messages that the model is sent. problem: why the item cannot be served as asked, "" when it can.
    shrunk_from: "WxH" that the size rule asked for, when the budget made it smaller.
    source, extra: where the item came from, and its fields that the program does not use (JSON text).
    """

    id: str
    name: str
    slug: str
    prompt: str
    text: str
    system: str
    video: Video | None
    hint: Hint | None
    tokens: Tokens
    fits: bool
    batch: int | None
    problem: str
    shrunk_from: str | None
    video_path: str | None
    source: str
    extra: str

    @property
    def linear_estimate(self) -> int:
        """Tokens by the estimate of the original investigation, for comparison."""
        hint = self.hint
        return pixtral.linear_estimate(hint.width_px, hint.height_px, hint.frames) if hint else 0

    @property
    def runs(self) -> bool:
        """Whether the item is sent to the engine at all."""
        return self.batch is not None


@dataclass(frozen=True)
class Plan:
    """All of a run, or one worker's part of it (`part_of`: the run's id, see `planning.partition`).

    `batches` holds item ids in the order in which they are staged.
    """

    settings: Settings
    batches: tuple[tuple[str, ...], ...]
    items: tuple[PlanItem, ...]
    part_of: str = ""

    @property
    def run_id(self) -> str:
        """Hash of all requests, in order."""
        return self.part_of or digest([item.id for item in self.items], dumps(self.settings))

    @cached_property
    def by_id(self) -> dict[str, PlanItem]:
        """Items by identity; the last of identical items stands for all."""
        return {item.id: item for item in self.items}


def item_id(
    prompt: str, text: str, system: str, video: Video | None, hint: Hint | None, problem: str, settings: Settings
) -> str:
    """Identity of an item: everything that its answer depends on, and nothing else (no name, no path, no budget)."""
    pixels = (video.sha256, hint.width_px, hint.height_px, hint.rule, hint.frames, hint.fps) if video and hint else None
    s = settings
    model = (s.model.name, s.model.checkpoint, s.model.tokenizer, s.model.dtype, s.model.load_format)
    sampling = (s.max_output_tokens, s.temperature, s.seed)
    return digest(prompt, text, system, pixels, problem, s.engine.name, s.engine.base_url, model, sampling)


def with_batches(items: tuple[PlanItem, ...], batches: tuple[tuple[str, ...], ...]) -> tuple[PlanItem, ...]:
    """Items that know the number of their batch."""
    number = {item_id: n for n, batch in enumerate(batches) for item_id in batch}
    return tuple(replace(item, batch=number.get(item.id)) for item in items)
