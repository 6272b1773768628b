"""Config and prompt files become a Plan. Reads files, writes nothing but into the cache folder, starts nothing."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..choices import SizeRule
from ..config import BudgetConf, Config
from ..counted import Step, counted, no_step
from ..errors import VideoError
from ..interrupts import in_background, threads
from ..media.geometry import Size
from ..media.hint import Hint, hint_times
from ..media.video import Video, VideoLimits, probe
from ..models.family import Family, Media
from ..prompts import remote
from ..prompts.fields import Reading, other_fields
from ..prompts.spec_spool import SpecSpool
from ..prompts.specs import PromptSpec, prompt_files, read_specs
from . import partition
from .clip_cache import ClipCache
from .configure import messages_of, plan_settings, reading
from .plan import Plan, PlanItem, Summary, Tokens, item_id
from .plan_file import ItemSpool
from .recipe import Recipe, message_writer, variables_of
from .settings import Settings, digest
from .validate import UPDATABLE, check_config, check_output

FETCHES = 16  # clips at addresses that are fetched at the same time


def resolve(config: Config, *, files: list[Path] | None = None, step: Step = no_step) -> Plan:
    """The plan of this config.

    files: prompt files in place of those that `prompts` names. step: told of the progress.
    Raises InputError or SpecError before anything starts.
    """
    check_config(config)
    files = prompt_files(config.prompts, Path(config.cache_dir)) if files is None else files
    how = reading(config)
    unused = Counter[str]()
    settings = plan_settings(config)
    # Loading the tokenizer, or asking a server, takes as long as probing some clips.
    loaded = in_background(lambda: settings.family.text_tokens("", "", with_media=False))
    specs, named = _specs_of(files, config, how, step)
    probed = probe_all(named, config, step)
    loaded.result()
    recipe = Recipe(config, settings.family, settings.effective_len or settings.max_model_len)
    clips = {path: found if isinstance(found, VideoError) else _clip(found, recipe) for path, found in probed.items()}
    write = message_writer(messages_of(config)[1])
    variables = variables_of(settings.target, text_only=settings.model.text_only)
    if settings.model.text_only:
        clips |= _measured({path: clip for path, clip in clips.items() if isinstance(clip, _Clip)}, recipe, settings)

    def item_of(spec: PromptSpec) -> PlanItem:
        unused.update(spec.unused)
        return _item(
            spec, clips, recipe, settings, lambda spec, video, facts: write(_with_facts(spec, facts), variables(video))
        )

    spool, summary = ItemSpool(Path(config.cache_dir)), Summary()
    items = counted(map(item_of, specs), "items planned", step, len(specs))
    grouped = _batches(items, spool, summary, config.budget)
    plan = Plan(
        settings, grouped, spool.items(grouped), unused_fields=tuple(f"{n} ({k})" for n, k in unused.most_common())
    )
    plan.__dict__["summary"] = summary
    return plan


def _batches(
    items: Iterable[PlanItem], spool: ItemSpool, summary: Summary, budget: BudgetConf
) -> tuple[tuple[str, ...], ...]:
    """Write items down as they come, and put those that fit into batches."""
    asked = dict[str, int]()
    for item in items:
        spool.add(item)
        summary.add(item, sends=item.fits, is_first=item.id not in asked)
        if item.fits:
            asked.setdefault(item.id, item.tokens.prompt + item.tokens.output_reserved)
    return partition.group(asked, budget.max_batch_size, budget.max_batch_tokens)


def _specs_of(files: list[Path], config: Config, how: Reading, step: Step) -> tuple[SpecSpool, set[Path]]:
    """The items of these files and the clips that they name; raises SpecError for what is wrong with any item."""
    specs, clips, shapes = SpecSpool(Path(config.cache_dir)), set[Path](), set[tuple[Path, str]]()
    for spec in counted(read_specs(files, how), "prompts read", step):
        specs.add(spec)
        if spec.video:
            clips.add(spec.video)
        if spec.shape not in UPDATABLE:
            shapes.add((spec.source, spec.shape))
    check_output(config, shapes)
    return specs, clips


def probe_all(paths: Collection[Path], config: Config, step: Step) -> dict[Path, Video | VideoError]:
    """Each clip that is not known from an earlier plan probed once, in parallel; for one that cannot be used, its error."""
    video, ended = config.video, threading.Event()
    limits = VideoLimits(video.max_bytes, video.max_pixels, video.max_duration_s, video.max_render_s)

    cache, keys = ClipCache(Path(config.cache_dir), limits), dict[Path, str | None]()

    def one(path: Path) -> Video | VideoError:
        try:
            address = remote.address_of(path)
            local = remote.fetched(address, Path(config.cache_dir), limits.max_bytes) if address else path
            keys[path] = cache.key(local)
            return probe(local, limits, ended.is_set)
        except VideoError as e:
            return e

    found: dict[Path, Video | VideoError] = {**cache.find(paths)}
    ordered, known = sorted(path for path in paths if path not in found), len(found)
    side_by_side = FETCHES if any(map(remote.address_of, ordered[:1])) else os.cpu_count() or 1
    with threads(min(len(ordered), side_by_side) or 1) as pool:
        try:
            for path, clip in zip(ordered, pool.map(one, ordered), strict=True):
                found[path] = clip
                step("clips probed", len(found), known + len(ordered))
        finally:
            ended.set()  # after Ctrl-C, the clips in work are given up
    cache.put((keys.get(path), found[path]) for path in ordered)
    return found


@dataclass(frozen=True, slots=True)
class _Clip:
    """A clip and the hint that the recipe makes of it, worked out once for all items that share it. facts: what is measured in
    its frames, for a model that sees none."""

    video: Video
    hint: Hint
    facts: str = ""


def _clip(video: Video, recipe: Recipe) -> _Clip:
    times = times_of(video, recipe, recipe.config.frames.count)
    return _Clip(video, _hint_of(recipe.wanted(video.size, len(times)), times, recipe))


def _hint_of(size: Size, times: tuple[float, ...], recipe: Recipe) -> Hint:
    how = recipe.config.frames
    return Hint(size.width_px, size.height_px, len(times), times, how.rule.value, how.fps)


def _measured(clips: dict[Path, _Clip], recipe: Recipe, settings: Settings) -> dict[Path, _Clip | VideoError]:
    """The clips with their facts, which are part of the text before it is counted."""
    from .facts import facts_of

    found = facts_of([(clip.video, _hint(clip, recipe, 0)[0]) for clip in clips.values()], settings)
    with_facts = ((path, clip, found[clip.video.path]) for path, clip in clips.items())
    return {path: replace(clip, facts=words) if isinstance(words, str) else words for path, clip, words in with_facts}


def _with_facts(spec: PromptSpec, facts: str) -> PromptSpec:
    return replace(spec, prompt=f"{spec.prompt.strip()} {facts}".strip()) if facts else spec


def times_of(video: Video, recipe: Recipe, count: int) -> tuple[float, ...]:
    """Times in seconds of the frames that the recipe takes, at most `count`."""
    return hint_times(video, recipe.config.frames.rule.value, count, recipe.config.frames.fps)


def _item(
    spec: PromptSpec,
    clips: dict[Path, _Clip | VideoError],
    recipe: Recipe,
    settings: Settings,
    messages: Callable[[PromptSpec, Video | None, str], tuple[str, str]],
) -> PlanItem:
    found = clips[spec.video] if spec.video else None
    problem = found.message if isinstance(found, VideoError) else ""
    clip = found if isinstance(found, _Clip) else None
    video = clip.video if clip else None
    system, text = messages(spec, video, clip.facts if clip else "")
    wrapper = recipe.family.wrapper_tokens(system)
    text_tokens = recipe.family.text_tokens(system, text, with_media=clip is not None)
    hint, shrunk_from = _hint(clip, recipe, wrapper + text_tokens) if clip else (None, None)
    account = _account(hint, wrapper, text_tokens, recipe, settings)
    may_be_text = recipe.config.video.on_bad_video.value == "text_only"
    served = not problem or (may_be_text and bool(spec.prompt.strip()))
    if refused := _refusal(hint, system, text, recipe.family):
        served, problem = False, refused
    fits = served and (not recipe.family.verified or account.prompt + recipe.reserve <= recipe.max_model_len)
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
        extra=json.dumps(other_fields(spec.raw, spec.found), ensure_ascii=False),
        where=spec.where,
        note="; ".join(note for note in (spec.note, video.note if video else "") if note),
        unverified=not recipe.family.verified,
    )


def _hint(clip: _Clip, recipe: Recipe, other_tokens: int) -> tuple[Hint, str | None]:
    """The hint by the recipe's rule, made smaller where the budget requires it, and what it was before that."""
    upsample = recipe.config.upsample
    hint, size, searching = clip.hint, clip.hint.size, upsample.rule is SizeRule.best_fit
    if not (upsample.shrink or searching) or recipe.fits(size, hint.frames, other_tokens):
        return hint, None
    # A Cosmos size has an aspect of its own, which a smaller one keeps; every other size has the clip's.
    shape = size if upsample.rule is SizeRule.category else clip.video.size
    smaller = recipe.smaller(shape, size, hint.frames, other_tokens)
    if smaller is None:
        return hint, None
    if smaller[1] < hint.frames:
        return _hint_of(smaller[0], times_of(clip.video, recipe, smaller[1]), recipe), f"{hint.frames} frames of {size}"
    return _hint_of(smaller[0], hint.times_s, recipe), None if searching else str(size)


def _account(hint: Hint | None, wrapper: int, text_tokens: int, recipe: Recipe, settings: Settings) -> Tokens:
    image = recipe.family.media_tokens(hint.size, recipe.media(hint.frames)) if hint else 0
    return Tokens(image, text_tokens, image + wrapper + text_tokens, settings.max_output_tokens)


def _refusal(hint: Hint | None, system: str, text: str, family: Family) -> str:
    """Why the engine would refuse or misread an item whatever its limit; "" for one that it takes."""
    if typed := next((name for name in family.reserved if name in text or name in system), None):
        return f"the text contains {typed}, which the model reads as a control token: remove it"
    return family.refusal(hint.size, Media(hint.frames, hint.clip_fps)) if hint else ""


def _does_not_fit(account: Tokens, recipe: Recipe, settings: Settings) -> str:
    needs = f"needs {account.prompt} prompt + {recipe.reserve} reserved tokens, more than"
    if settings.effective_len:
        return f"{needs} the {settings.effective_len} that this engine was observed to accept"
    return f"{needs} max_model_len={recipe.max_model_len}"
