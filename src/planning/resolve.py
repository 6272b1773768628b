"""Config and prompt files become a Plan. Reads files, writes nothing (but the tokenizer's cache), starts nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..config import Config, EngineName, Export, HostKind, SizeRule, SpecOutput, TaskName
from ..errors import InputError, VideoError
from ..media import geometry, sampling
from ..media.geometry import Size
from ..media.video import Video, VideoLimits, probe
from ..models import pixtral
from ..prompts import arrow
from ..prompts.specs import PromptSpec, prompt_files, read_specs
from . import gpus, observed_limits, partition
from .plan import (
    ContainerSettings,
    EngineSettings,
    Hint,
    HostSettings,
    ModelSettings,
    Plan,
    PlanItem,
    Settings,
    Tokens,
    digest,
    item_id,
    with_batches,
)

MAX_FRAMES = 8
# What NVIDIA's upsampler asks when the prompt is empty (cosmos-transfer1, auxiliary/upsampler/model/upsampler.py).
EMPTY_PROMPT_TEXT = "describe the following images"

OnProgress = Callable[[int, int], None]
Messages = Callable[[PromptSpec], tuple[str, str]]


def resolve(
    config: Config, *, files: list[Path] | None = None, on_probe: OnProgress = lambda done, total: None
) -> Plan:
    """The plan of this config.

    files: prompt files in place of those that `prompts` names. on_probe: called with (clips probed, clips in all).
    Raises InputError or SpecError before anything starts.
    """
    _check(config)
    specs = list(read_specs(prompt_files(config.prompts) if files is None else files))
    _check_output(config, specs)
    settings = _settings(config)
    recipe = Recipe.of(config, settings.believed_len or settings.max_model_len)
    probed = probe_all({spec.video for spec in specs if spec.video}, config, on_probe)
    clips = {path: found if isinstance(found, VideoError) else _clip(found, recipe) for path, found in probed.items()}
    count_text = pixtral.text_counter(config.model.tokenizer, Path(config.cache_dir))
    messages = message_writer(config.template.system, config.template.user)
    items = tuple(_item(spec, clips, recipe, settings, messages, count_text) for spec in specs)
    asked: dict[str, int] = {}
    for item in items:
        if item.fits:
            asked.setdefault(item.id, item.tokens.prompt + item.tokens.output_reserved)
    grouped = partition.group(list(asked.items()), config.budget.max_batch_size, config.budget.max_batch_tokens)
    return Plan(settings, grouped, with_batches(items, grouped))


def message_writer(system: str, user: str) -> Messages:
    """A function that gives the system and the user message of a spec.

    Without a template, the user message is the prompt as it stands, and NVIDIA's question where the prompt is empty.
    Raises InputError for a template that is no valid jinja2.
    """
    if not system and user.strip() == "{{ prompt }}":
        return lambda spec: ("", _prompt_or_question(spec))
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How frames are chosen and sized, and what must fit."""

    rule: SizeRule
    width_px: int
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
    def of(config: Config, limit: int) -> Recipe:
        return Recipe(
            rule=config.upsample.rule,
            width_px=config.upsample.width_px,
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

    def wanted(self, source: Size) -> Size:
        """The size that the rule asks for, before the budget is looked at (best_fit: the largest there is)."""
        match self.rule:
            case SizeRule.fixed_width:
                return geometry.fixed_width(source, self.width_px)
            case SizeRule.native:
                return source
            case SizeRule.category:
                return geometry.category_size(self.category, self.aspect or geometry.detect_aspect_ratio(source))
            case SizeRule.best_fit:
                return geometry.visible(source)

    @lru_cache(maxsize=65_536)  # noqa: B019 - one recipe a run; many items share a clip and a number of text tokens
    def smaller(self, source: Size, size: Size, frames: int, text_tokens: int) -> Size | None:
        """The largest size below `size` that fits."""
        return geometry.step_down(source, size, lambda s: self.fits(s, frames, text_tokens))

    def fits(self, size: Size, frames: int, text_tokens: int) -> bool:
        prompt = pixtral.prompt_tokens(size.width_px, size.height_px, frames, text_tokens)
        return prompt + self.reserve <= self.max_model_len


def _check(config: Config) -> None:
    """Refuse values that Hydra's types let through, all at once."""
    wrong = []
    if not config.prompts.strip():
        wrong.append("prompts: is empty; name a file, a folder or a glob")
    if not 1 <= config.frames.count <= MAX_FRAMES:
        wrong.append(f"frames.count={config.frames.count}: must be 1 to {MAX_FRAMES}")
    if config.frames.count > config.model.max_images:
        wrong.append(f"frames.count={config.frames.count}: model.max_images allows {config.model.max_images}")
    if config.upsample.width_px < 16:
        wrong.append(f"upsample.width_px={config.upsample.width_px}: must be at least 16 (one patch)")
    if config.aspect is not None and config.aspect not in geometry.ASPECTS:
        wrong.append(
            f"aspect={config.aspect}: must be one of {', '.join(geometry.ASPECTS)} (quote it: 'aspect=\"16:9\"')"
        )
    if config.resolution.name not in geometry.COSMOS_SIZES:
        wrong.append(f"resolution.name={config.resolution.name}: must be one of {', '.join(geometry.COSMOS_SIZES)}")
    budget = config.budget
    if budget.max_output_tokens < 1 or budget.text_margin < 0:
        wrong.append("budget: max_output_tokens must be at least 1, text_margin at least 0")
    if budget.max_model_len <= budget.max_output_tokens + budget.text_margin + pixtral.WRAPPER_TOKENS:
        wrong.append(
            f"budget.max_model_len={budget.max_model_len}: leaves no room for a prompt beside "
            f"max_output_tokens={budget.max_output_tokens} and text_margin={budget.text_margin}"
        )
    if budget.max_batch_size < 1 or budget.max_batch_tokens < 1:
        wrong.append("budget: max_batch_size and max_batch_tokens must be at least 1")
    wrong += _out_of_range(config)
    if config.engine.name is EngineName.endpoint and not config.engine.base_url.startswith(("http://", "https://")):
        wrong.append("engine.base_url: engine=endpoint needs the address of a server, as in http://localhost:8000/v1")
    if config.engine.name is EngineName.vllm and not (config.model.checkpoint or config.model.tiny_random):
        wrong.append("model.checkpoint: engine=vllm needs the folder of a checkpoint, or model=tiny_random to try it")
    if config.engine.name is EngineName.cosmos and not config.model.checkpoint:
        wrong.append(
            "model.checkpoint: engine=cosmos needs the folder above nvidia/Cosmos-UpsamplePrompt1-12B-Transfer"
        )
    wrong += _placed_wrongly(config)
    if config.checks.script not in ("", "latin"):
        wrong.append(f"checks.script={config.checks.script}: must be latin or empty")
    if not pixtral.tokenizer_file(config.model.tokenizer).is_file():
        wrong.append(f"model.tokenizer={config.model.tokenizer}: no such file here or in mistral-common")
    if wrong:
        raise InputError("the config cannot be used:\n" + "\n".join(f"  - {w}" for w in wrong))


def _placed_wrongly(config: Config) -> list[str]:
    """What is wrong with the host and the container together."""
    wrong = []
    if config.image.name != "none" and not config.image.reference:
        wrong.append(f"image.reference: image={config.image.name} needs the image's name on the host, best by digest")
    elsewhere = config.host.kind is HostKind.ssh or config.image.reference
    asks = config.task.name is not TaskName.pipeline or config.pipeline.upsample
    if elsewhere and asks and config.engine.name is EngineName.offline:
        wrong.append("engine=offline works on this machine only: choose engine=vllm, endpoint or cosmos for that host")
    if config.image.reference and config.model.checkpoint and not config.model.checkpoint.startswith("/"):
        wrong.append("model.checkpoint: must be an absolute path on the host, for it is mounted into the container")
    wants = config.model.tensor_parallel_size * config.model.data_parallel_size
    try:
        named = gpus.devices(gpus.shares(config.host.gpus, max(config.host.workers, 1))[0])
        if named and len(named) < wants:
            wrong.append(f"host.gpus={config.host.gpus}: {len(named)} a worker; model.*_parallel_size want {wants}")
    except ValueError as e:
        wrong.append(f"host.gpus={e}")
    for entry in config.image.mounts:
        if not entry.startswith("/"):
            wrong.append(f"image.mounts: {entry}: must be PATH, SOURCE:TARGET or SOURCE:TARGET:rw with absolute paths")
    return wrong


def _check_output(config: Config, specs: list[PromptSpec]) -> None:
    """Refuse what could not be written in the end."""
    if config.output.specs is SpecOutput.in_place:
        table = next((spec for spec in specs if spec.shape in arrow.KINDS), None)
        if table:
            raise InputError(
                f"output.specs=in_place: {table.source} is {table.shape.capitalize()}, which is not written into",
                hint="output.specs=beside leaves updated specs in the run folder",
            )
    if {Export.parquet, Export.dataset} & set(config.output.exports):
        arrow.require()


# Field -> (least, most) of what the parts can work with; NaN is never within.
_RANGES: dict[str, tuple[float, float]] = {
    "frames.fps": (0.01, 240),
    "sampling.temperature": (0, 10),
    "engine.max_attempts": (1, 100),
    "engine.in_flight": (0, 100_000),
    "engine.item_delay_s": (0, 3600),
    "engine.start_timeout_s": (1, 1e6),
    "engine.request_timeout_s": (1, 1e6),
    "engine.grace_s": (0, 1e6),
    "engine.time_limit_s": (0, 1e7),
    "host.port": (0, 65_535),
    "host.workers": (1, 256),
    "host.patience_s": (0, 1e7),
    "host.price_per_gpu_hour": (0, 1e6),
    "hints.workers": (0, 1024),
    "model.max_images": (1, 1000),
    "model.max_num_seqs": (1, 100_000),
    "model.gpu_memory_utilization": (0.01, 1),
    "model.tensor_parallel_size": (1, 1024),
    "model.data_parallel_size": (1, 1024),
    "video.max_bytes": (1, 1e18),
    "video.max_pixels": (1, 1e18),
    "video.max_duration_s": (0, math.inf),
}


def _out_of_range(config: Config) -> list[str]:
    wrong = []
    for field, (least, most) in _RANGES.items():
        group, name = field.split(".")
        value = getattr(getattr(config, group), name)
        if not least <= value <= most:
            wrong.append(f"{field}={value}: must be {least:g} to {most:g}")
    return wrong


def host_settings(config: Config) -> HostSettings:
    """The host group as a plan value; InputError when it names no machine."""
    if config.host.kind is HostKind.ssh and not config.host.address:
        raise InputError(
            "host.address: host=ssh needs a name from ~/.ssh/config, or the name or address of a machine",
            hint="host.address=NAME, or a file conf/host/NAME.yaml of your own (docs/remote.md)",
        )
    return HostSettings(
        **vars(config.host) | {"kind": config.host.kind.value, "docker": tuple(config.host.docker)},
    )


def container_settings(config: Config) -> ContainerSettings:
    """The image group as a plan value."""
    return ContainerSettings(
        **vars(config.image) | {"mounts": tuple(config.image.mounts), "env": tuple(config.image.env)},
    )


def _settings(config: Config) -> Settings:
    engine, model = vars(config.engine), vars(config.model)
    settings = Settings(
        recipe=config.upsample.name,
        engine=EngineSettings(**engine | {"name": config.engine.name.value}),
        model=ModelSettings(**model | {"extra_args": tuple(config.model.extra_args)}),
        template=config.template.name,
        max_model_len=config.budget.max_model_len,
        max_output_tokens=config.budget.max_output_tokens,
        text_margin=config.budget.text_margin,
        temperature=config.sampling.temperature,
        seed=config.sampling.seed,
        check_cut_off=config.checks.cut_off,
        check_script=config.checks.script,
        python=config.worker.python,
        host=config.host.name,
        image=config.image.name,
        place=host_settings(config),
        container=container_settings(config),
        reuse=config.reuse,
        cache_dir=config.cache_dir,
        hint_video=config.hints.video,
        render_workers=config.hints.workers,
        on_bad_video=config.video.on_bad_video.value,
        spec_output=config.output.specs.value,
        report=config.output.report,
        shrink=config.upsample.shrink,
        exports=tuple(dict.fromkeys(export.value for export in config.output.exports)),
    )
    if config.task.name is TaskName.limits:  # it measures what is believed
        return settings
    seen = observed_limits.read(observed_limits.limits_file(Path(config.cache_dir))).get(
        observed_limits.key_of(settings)
    )
    return replace(settings, believed_len=(seen and seen.believed_len) or 0)


def probe_all(paths: Iterable[Path], config: Config, on_probe: OnProgress) -> dict[Path, Video | VideoError]:
    """Each clip probed once, in parallel; a clip that cannot be used stands as its error."""
    limits = VideoLimits(config.video.max_bytes, config.video.max_pixels, config.video.max_duration_s)

    def one(path: Path) -> Video | VideoError:
        try:
            return probe(path, limits)
        except VideoError as e:
            return e

    ordered = sorted(paths)
    found: dict[Path, Video | VideoError] = {}
    with ThreadPoolExecutor(min(len(ordered), os.cpu_count() or 1) or 1) as pool:
        for path, video in zip(ordered, pool.map(one, ordered), strict=True):
            found[path] = video
            on_probe(len(found), len(ordered))
    return found


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip and what the recipe makes of it, worked out once for all items that share it."""

    video: Video
    times_s: tuple[float, ...]
    wanted: Size


def _clip(video: Video, recipe: Recipe) -> _Clip:
    times = sampling.frame_times(
        recipe.frame_rule,
        recipe.frame_count,
        recipe.frame_fps,
        fps=video.fps,
        frames=video.frames,
        duration_s=video.duration_s,
    )
    return _Clip(video, tuple(round(t, 6) for t in times), recipe.wanted(video.size))


def _item(
    spec: PromptSpec,
    clips: dict[Path, _Clip | VideoError],
    recipe: Recipe,
    settings: Settings,
    messages: Messages,
    count_text: pixtral.CountText,
) -> PlanItem:
    system, text = messages(spec)
    found = clips[spec.video] if spec.video else None
    problem = found.message if isinstance(found, VideoError) else ""
    video, hint, shrunk_from = None, None, None
    if isinstance(found, _Clip):
        video = found.video
        text_tokens = pixtral.message_tokens(count_text, system, text, with_images=True)
        hint, shrunk_from = _hint(found, recipe, text_tokens)
    else:
        text_tokens = pixtral.message_tokens(count_text, system, text, with_images=False)
    account = _account(hint, text_tokens, settings)
    served = not problem or (recipe.text_only_for_bad_video and bool(spec.prompt.strip()))
    fits = served and account.prompt + recipe.reserve <= recipe.max_model_len
    if served and not fits:
        problem = _does_not_fit(account, recipe, settings)
    return PlanItem(
        id=item_id(spec.prompt, text, system, video, hint, problem, settings)
        if fits
        else digest("not sent", spec.name, problem),
        name=spec.name,
        slug=spec.slug,
        prompt=spec.prompt,
        text=text,
        system=system,
        video=video,
        hint=hint,
        tokens=account,
        fits=fits,
        batch=None,
        problem=problem,
        shrunk_from=shrunk_from,
        video_path=spec.video_path,
        source=os.path.abspath(spec.source),
        extra=json.dumps(_extra(spec), ensure_ascii=False),
    )


def _hint(clip: _Clip, recipe: Recipe, text_tokens: int) -> tuple[Hint, str | None]:
    """The hint by the recipe's rule, made smaller where the budget wants it, and the size before that."""
    size, frames, shrunk_from = clip.wanted, len(clip.times_s), None
    searching = recipe.rule is SizeRule.best_fit
    if (recipe.shrink or searching) and not recipe.fits(size, frames, text_tokens):
        # A Cosmos size has an aspect of its own, which a smaller one keeps; every other size has the clip's.
        shape = size if recipe.rule is SizeRule.category else clip.video.size
        smaller = recipe.smaller(shape, size, frames, text_tokens)
        if smaller:
            shrunk_from = None if searching else str(size)
            size = smaller
    return Hint(size.width_px, size.height_px, frames, clip.times_s, recipe.frame_rule, recipe.frame_fps), shrunk_from


def _account(hint: Hint | None, text_tokens: int, settings: Settings) -> Tokens:
    image = pixtral.image_tokens(hint.width_px, hint.height_px) * hint.frames if hint else 0
    linear = pixtral.linear_estimate(hint.width_px, hint.height_px, hint.frames) if hint else 0
    prompt = image + pixtral.WRAPPER_TOKENS + text_tokens
    return Tokens(image, text_tokens, prompt, settings.max_output_tokens, linear)


def _does_not_fit(account: Tokens, recipe: Recipe, settings: Settings) -> str:
    needs = f"needs {account.prompt} prompt + {recipe.reserve} reserved tokens, more than"
    if settings.believed_len:
        return f"{needs} the {settings.believed_len} that the engine was seen to take"
    return f"{needs} max_model_len={recipe.max_model_len}"


def _extra(spec: PromptSpec) -> dict[str, object]:
    """The fields of the item that the plan has no place for: kept, and written out again with the result."""
    return {key: value for key, value in spec.raw.items() if key not in ("name", "prompt", "video_path")}
