"""The recipe of a run: how frames are sized, which message goes with them, what must fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..choices import SizeRule
from ..config import Config, UpsampleConf
from ..errors import InputError
from ..media import geometry
from ..media.geometry import Size
from ..media.hint import CLIP
from ..models.family import Family, Media
from ..prompts.specs import PromptSpec

# What NVIDIA's upsampler asks when the prompt is empty (cosmos-transfer1, auxiliary/upsampler/model/upsampler.py).
EMPTY_PROMPT_TEXT = "describe the following images"
Messages = Callable[[PromptSpec], tuple[str, str]]


def message_writer(system: str, user: str) -> Messages:
    """A function that gives the system and the user message of a spec.

    Without a template, the user message is the prompt as it stands, and NVIDIA's question where the prompt is empty.
    Raises InputError for a template that is not valid jinja2.
    """
    if not system and user.strip() == "{{ prompt }}":
        return lambda spec: ("", _prompt_or_question(spec))
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    hint = "templates are jinja2, with the variables prompt and name"
    try:
        templates = [environment.from_string(source) for source in (system, user)]
        for template in templates:
            template.render(prompt="a prompt", name="a name")
    except Exception as e:  # whatever an expression in a template can raise
        raise InputError(f"template: {type(e).__name__}: {e}", hint=hint) from e

    def write(spec: PromptSpec) -> tuple[str, str]:
        try:
            written = [t.render(prompt=_prompt_or_question(spec), name=spec.name) for t in templates]
        except Exception as e:  # as above, with this prompt
            raise InputError(f"template, item {spec.name!r}: {type(e).__name__}: {e}", hint=hint) from e
        return written[0], written[1]

    return write


def _prompt_or_question(spec: PromptSpec) -> str:
    return spec.prompt if spec.prompt.strip() else EMPTY_PROMPT_TEXT


def box_of(upsample: UpsampleConf) -> Size | None:
    """The box of max_side_px and max_box together; None for no limit. ValueError for a max_box that is not WIDTHxHEIGHT."""
    sides = [Size(upsample.max_side_px, upsample.max_side_px)] if upsample.max_side_px else []
    if upsample.max_box:
        width, _, height = upsample.max_box.partition("x")
        sides.append(Size(int(width), int(height)))
    if not sides:
        return None
    return Size(min(s.width_px for s in sides), min(s.height_px for s in sides))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How frames are chosen and sized, and what must fit."""

    family: Family
    rule: SizeRule
    width_px: int
    box: Size | None
    enlarge: bool
    min_side_px: int
    shrink: bool
    category: str
    aspect: str | None
    frame_rule: str
    frame_count: int
    frame_fps: float
    max_model_len: int
    reserve: int
    max_images: int
    text_only_for_bad_video: bool

    @staticmethod
    def of(config: Config, family: Family, limit: int) -> Recipe:
        return Recipe(
            family=family,
            rule=config.upsample.rule,
            width_px=config.upsample.width_px,
            box=box_of(config.upsample),
            enlarge=config.upsample.enlarge,
            min_side_px=config.upsample.min_side_px,
            shrink=config.upsample.shrink,
            category=config.resolution.name,
            aspect=config.aspect,
            frame_rule=config.frames.rule.value,
            frame_count=config.frames.count,
            frame_fps=config.frames.fps,
            max_model_len=limit,
            reserve=config.budget.max_output_tokens + config.budget.text_margin,
            max_images=config.model.max_images,
            text_only_for_bad_video=config.video.on_bad_video.value == "text_only",
        )

    def media(self, frames: int) -> Media:
        """How so many frames are sent."""
        return Media(frames, self.frame_fps if self.frame_rule == CLIP else None)

    def wanted(self, source: Size, frames: int) -> Size:
        """The size that the rule asks for, before the budget is considered (best_fit: the largest that the encoder sees)."""
        media = self.media(frames)
        size = self._by_rule(source, media)
        size = geometry.within(size, self.box) if self.box else size
        return geometry.even(size) if media.clip_fps else size

    def _by_rule(self, source: Size, media: Media) -> Size:
        match self.rule:
            case SizeRule.fixed_width:
                return geometry.fixed_width(source, self.width_px, self.family.largest(source, media))
            case SizeRule.native:
                return source
            case SizeRule.category:
                size = geometry.category_size(self.category, self.aspect or geometry.detect_aspect_ratio(source))
                return size if self.enlarge else geometry.within(size, source)
            case SizeRule.best_fit:
                return self.family.largest(source, media)

    @lru_cache(maxsize=65_536)  # noqa: B019 - one recipe per run; many items share a clip and a number of other tokens
    def smaller(self, source: Size, size: Size, frames: int, other_tokens: int) -> tuple[Size, int] | None:
        """The largest hint below `size` that fits, and its number of frames; fewer only when no size is left."""
        return geometry.shrunk(
            lambda n: self.family.sizes(source, self.media(n)),
            size,
            frames,
            self.min_side_px,
            lambda s, n: self.fits(s, n, other_tokens),
        )

    def fits(self, size: Size, frames: int, other_tokens: int) -> bool:
        """Whether such frames fit next to the tokens of text and template. False for what the engine refuses anyway."""
        media = self.media(frames)
        prompt = self.family.media_tokens(size, media) + other_tokens
        return prompt + self.reserve <= self.max_model_len and not self.family.refusal(size, media)
