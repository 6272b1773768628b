"""The plan: frozen values that say everything about a run before any of it happens, and print as JSON.

`plan.json` is the same bytes for the same inputs, and is all that execution reads. Keys may be added; a key is never
renamed or removed without a new VERSION.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from ..media.geometry import Size
from ..media.hint import Hint, hint_key, pixels_of
from ..media.video import Video
from ..models.family import Media
from ..models.linear import linear_estimate
from ..worker.values import FileName
from .settings import Settings, digest, dumps, long_digest

NAMES = 3  # of items that cannot be served, in a summary


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
    unverified: its tokens are estimates that nothing is checked against.
    source, where, extra: the file that the item came from, its place in it, and its fields that the program does not use
    (JSON text). note: what was read, or shown to the model, otherwise than it is.
    """

    id: FileName
    name: str
    slug: FileName
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
    where: str = ""
    note: str = ""
    unverified: bool = False

    @property
    def linear_estimate(self) -> int:
        """Tokens by the estimate of the original investigation, for comparison."""
        hint = self.hint
        return linear_estimate(hint.width_px, hint.height_px, hint.frames) if hint else 0

    @property
    def is_of_table(self) -> bool:
        """Whether its fields are cells of a table, which are text."""
        return self.source.lower().endswith((".csv", ".tsv", ".xlsx", ".xlsm", ".txt"))

    @property
    def runs(self) -> bool:
        """Whether the item is sent to the engine at all."""
        return self.batch is not None


@dataclass(slots=True)
class Summary:
    """The sums of a plan.

    sent: distinct requests, and tokens: of their prompts and reserves together; longest_prompt, most_frames: of one of
    them. hints: the distinct ones of all items that are sent, by key. longest_with_hint: prompt tokens of any item that
    has frames, also one that does not fit. shapes: how many items that fit have a clip of this size and are sent so. planned:
    the first hint that fits, and other: the most tokens beside the frames, by size of the clip. sends_clips: whole ones.
    """

    items: int = 0
    fit: int = 0
    sent: int = 0
    tokens: int = 0
    longest_prompt: int = 0
    most_frames: int = 0
    sends_clips: bool = False
    longest_with_hint: int | None = None
    shrunk: int = 0
    first_shrunk: PlanItem | None = None
    refused_names: list[str] = field(default_factory=list)
    clips: set[str] = field(default_factory=set)
    hints: dict[str, tuple[Video, Hint]] = field(default_factory=dict)
    shapes: Counter[tuple[Size, Media]] = field(default_factory=Counter)
    planned: dict[Size, Hint] = field(default_factory=dict)
    other: dict[Size, int] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Iterable[PlanItem]) -> Summary:
        summary, seen = cls(), set[str]()
        for item in items:
            summary.add(item, sends=item.runs, is_first=item.id not in seen)
            seen.add(item.id)
        return summary

    @property
    def refused(self) -> int:
        return self.items - self.fit

    def add(self, item: PlanItem, *, sends: bool, is_first: bool) -> None:
        """sends: whether the item goes to the engine; a plan in the making does not know its batch yet. is_first: of those that
        are the same."""
        self.items += 1
        self.fit += item.fits
        if not item.fits and len(self.refused_names) < NAMES:
            self.refused_names.append(item.name)
        if item.shrunk_from:
            self.shrunk += 1
            self.first_shrunk = self.first_shrunk or item
        if item.video:
            self._add_clip(item, item.video, sends)
        if sends and is_first:
            self.sent += 1
            self.tokens += item.tokens.prompt + item.tokens.output_reserved
            self.longest_prompt = max(self.longest_prompt, item.tokens.prompt)

    def _add_clip(self, item: PlanItem, video: Video, sends: bool) -> None:
        size = video.size
        self.clips.add(video.sha256)
        self.other[size] = max(self.other.get(size, 0), item.tokens.prompt - item.tokens.image)
        if not item.hint:
            return
        self.longest_with_hint = max(self.longest_with_hint or 0, item.tokens.prompt)
        if item.fits:
            self.shapes[size, Media(item.hint.frames, item.hint.clip_fps)] += 1
            self.planned.setdefault(size, item.hint)
        if sends:
            if item.hint.clip_fps:
                self.sends_clips = True
            else:
                self.most_frames = max(self.most_frames, item.hint.frames)
            self.hints[hint_key(video, item.hint)] = (video, item.hint)


@dataclass(frozen=True)
class Plan:
    """All of a run.

    `batches` holds item ids in the order in which they are staged. `items` may be on disk (`plan_file.StoredItems`): going
    through all of them takes a while, so what several places need to know of all is in `summary`. unused_fields: of the
    prompt files, "NAME (ITEMS)".
    """

    settings: Settings
    batches: tuple[tuple[str, ...], ...]
    items: Sequence[PlanItem]
    unused_fields: tuple[str, ...] = ()

    @cached_property
    def run_id(self) -> str:
        """Hash of all requests, in order."""
        return long_digest(self.ids, dumps(self.settings))

    @cached_property
    def ids(self) -> Sequence[str]:
        """The identities of all items, in order."""
        known: Sequence[str] | None = getattr(self.items, "ids", None)
        return [item.id for item in self.items] if known is None else known

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Where each identity is among the items; of identical items, the last."""
        return {item_id: n for n, item_id in enumerate(self.ids)}

    @property
    def distinct_ids(self) -> KeysView[str]:
        return self.places.keys()

    def find(self, item_id: str) -> PlanItem:
        """The item of this identity; the last of identical items stands for all. Raises KeyError where there is none."""
        return self.items[self.places[item_id]]

    def never_sent(self) -> Iterator[PlanItem]:
        """The items that are in no batch."""
        sent = set(chain.from_iterable(self.batches))
        return (self.items[n] for n, item_id in enumerate(self.ids) if item_id not in sent)

    @cached_property
    def summary(self) -> Summary:
        return Summary.of(self.items)


def item_id(
    prompt: str, text: str, system: str, video: Video | None, hint: Hint | None, problem: str, settings: Settings
) -> str:
    """Identity of an item: everything that its answer depends on, and nothing else (no name, no path, no budget)."""
    pixels = pixels_of(video, hint) if video and hint else None
    s = settings
    model: tuple[object, ...] = (
        *(s.model.name, s.model.checkpoint, s.model.tokenizer, s.model.dtype, s.model.load_format),
    )
    if s.model.family != "pixtral":  # whose requests depend on no more
        model += (s.model.family, s.model.min_pixels, s.model.max_pixels, s.model.thinking)
    if s.target.hash:  # of one that is not the default; what it takes from the clip is in its pixels or in the message
        model += (s.target.hash,)
    if s.model.gguf:
        model += (s.model.gguf, s.model.mmproj)
    if s.model.examples:
        model += (tuple((e.user, e.answer) for e in s.model.examples),)
    sampling = (s.max_output_tokens, s.temperature, s.seed)
    return digest(prompt, text, system, pixels, problem, s.engine.name, s.engine.base_url, model, sampling)


def smallest_max_model_len(prompt_tokens: Sequence[int], reserve: int) -> int:
    """The smallest max_model_len that serves every one of these prompts, with `reserve` tokens kept for the answer."""
    return max(prompt_tokens, default=1) + reserve


def batch_numbers(batches: Iterable[Iterable[str]]) -> dict[str, int]:
    """The number of each item's batch, by its identity."""
    return {item_id: n for n, batch in enumerate(batches) for item_id in batch}
