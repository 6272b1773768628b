"""The recipe of a run: how frames are sized, which message goes with them, what must fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..choices import FrameRule, SizeRule
from ..config import Config, UpsampleConf
from ..errors import InputError
from ..media import geometry
from ..media.geometry import Size
from ..media.video import Video
from ..models.family import Family, Media
from ..prompts.specs import PromptSpec
from ..targets.pins import facts_of
from ..targets.target import Messages, Target, skeleton

# What NVIDIA's upsampler asks when the prompt is empty (cosmos-transfer1, auxiliary/upsampler/model/upsampler.py).
EMPTY_PROMPT_TEXT = "describe the following images"
Write = Callable[[PromptSpec, Mapping[str, Any]], tuple[str, str]]


def message_writer(messages: Messages) -> Write:
    """A function that gives the system and the user message of a spec and of further variables.

    Without a template, the user message is the prompt as it stands, and NVIDIA's question where the prompt is empty.
    Raises InputError for a template that is not valid jinja2.
    """
    if not messages.system and messages.user.strip() == "{{ prompt }}" and not messages.user_empty:
        return lambda spec, more: ("", _prompt_or_question(spec))
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    hint = f"templates are jinja2, with the variables prompt, name, {', '.join(EXAMPLE)}"
    try:
        system, user = (environment.from_string(source) for source in (messages.system, messages.user))
        empty = environment.from_string(messages.user_empty) if messages.user_empty else None
        for template in filter(None, (system, user, empty)):
            template.render(prompt="a prompt", name="a name", **EXAMPLE)
    except Exception as e:  # whatever an expression in a template can raise
        raise InputError(f"template: {type(e).__name__}: {e}", hint=hint) from e

    def write(spec: PromptSpec, more: Mapping[str, Any]) -> tuple[str, str]:
        chosen, prompt = user, _prompt_or_question(spec)
        if empty and not spec.prompt.strip():
            chosen, prompt = empty, ""
        try:
            written = [t.render(prompt=prompt, name=spec.name, **more) for t in (system, chosen)]
        except Exception as e:  # as above, with this prompt
            raise InputError(f"template, item {spec.name!r}: {type(e).__name__}: {e}", hint=hint) from e
        return written[0], written[1]

    return write


# The variables of a target's templates, with values as an item may have them.
EXAMPLE: dict[str, Any] = {
    "with_frames": True, "language": "en", "tier": "720", "keys": "{}", "negative_prompt": "",
    "pins": facts_of(16, 9, 5.0, 24.0, "720")
}  # fmt: skip


def variables_of(target: Target, *, text_only: bool = False) -> Callable[[Video | None], dict[str, Any]]:
    """A function that gives those variables for an item with this clip, or with none. text_only: the model sees no frames."""
    keys = json.dumps(skeleton(json.loads(target.answer.schema))) if target.answer.schema else ""

    @lru_cache(maxsize=65_536)  # many items share a clip
    def variables(video: Video | None) -> dict[str, Any]:
        with_frames = video is not None and not text_only
        return {
            "with_frames": with_frames, "language": language_of(target, with_frames=with_frames),
            "tier": target.resolution, "keys": keys, "negative_prompt": target.negative_prompt,
            "pins": clip_facts(target, video),
        }  # fmt: skip

    return variables


def language_of(target: Target, *, with_frames: bool) -> str:
    return (target.with_frames if with_frames else "") or target.answer.language


def clip_facts(target: Target, video: Video | None) -> dict[str, Any]:
    """What the clip decides, or the target where there is none."""
    size = (video.width_px, video.height_px) if video else (16, 9)
    moves = video is not None and video.frames > 1  # a picture has neither duration nor frame rate
    time = (video.duration_s, video.fps) if video and moves else (target.duration_s, target.fps)
    return facts_of(*size, *time, target.resolution)


def pins_of(target: Target, video: Video | None) -> dict[str, Any]:
    """The fields of an answer that are not the model's to choose."""
    facts = clip_facts(target, video) if target.pins else {}
    return {name: facts[name] for name in target.pins}


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


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """How frames are chosen and sized, and what must fit. max_model_len: as observed, where that is less than the config says."""

    config: Config
    family: Family
    max_model_len: int

    @property
    def reserve(self) -> int:
        """Tokens that the answer, and what is not counted of the prompt, may need."""
        return self.config.budget.max_output_tokens + self.config.budget.text_margin

    def media(self, frames: int) -> Media:
        """How so many frames are sent."""
        how = self.config.frames
        return Media(frames, how.fps if how.rule is FrameRule.clip else None)

    def wanted(self, source: Size, frames: int) -> Size:
        """The size that the rule asks for, before the budget is considered (best_fit: the largest that the encoder sees)."""
        media = self.media(frames)
        size = self._by_rule(source, media)
        box = box_of(self.config.upsample)
        size = geometry.within(size, box) if box else size
        return geometry.even(size) if media.clip_fps else size

    def _by_rule(self, source: Size, media: Media) -> Size:
        upsample = self.config.upsample
        match upsample.rule:
            case SizeRule.fixed_width:
                return geometry.fixed_width(source, upsample.width_px, self.family.largest(source, media))
            case SizeRule.native:
                return source
            case SizeRule.category:
                aspect = self.config.aspect or geometry.detect_aspect_ratio(source)
                size = geometry.category_size(self.config.resolution.name, aspect)
                return size if upsample.enlarge else geometry.within(size, source)
            case SizeRule.best_fit:
                return self.family.largest(source, media)

    @lru_cache(maxsize=65_536)  # noqa: B019 - one recipe per run; many items share a clip and a number of other tokens
    def smaller(self, source: Size, size: Size, frames: int, other_tokens: int) -> tuple[Size, int] | None:
        """The largest hint below `size` that fits, and its number of frames; fewer only when no size is left."""
        return geometry.shrunk(
            lambda n: self.family.sizes(source, self.media(n)),
            size,
            frames,
            self.config.upsample.min_side_px,
            lambda s, n: self.fits(s, n, other_tokens),
        )

    def fits(self, size: Size, frames: int, other_tokens: int) -> bool:
        """Whether such frames fit next to the tokens of text and template. False for what the engine refuses anyway."""
        media = self.media(frames)
        prompt = self.family.media_tokens(size, media) + other_tokens
        return prompt + self.reserve <= self.max_model_len and not self.family.refusal(size, media)
