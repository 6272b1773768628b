"""`task=limits`: which frames at which budget, predicted by the token rule and proved by an engine.

A point of a sweep is planned by itself, like any run, from a test card; when the last one is planned, those that share
an engine are sent through it together, so that it is loaded once. What is answered stays answered: a sweep that is
started again in the same folder measures what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ..choices import SizeRule, SpecOutput
from ..config import ChecksConf, Config, UpsampleConf
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..limits.calibration_clip import calibration_clip
from ..limits.measure import asking_all, asks_engine, conclude, measure
from ..limits.points import edge, size_of
from ..media import geometry
from ..media.geometry import Size
from ..models.family import Media
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..planning.resolve import resolve
from ..run_folder import RunPaths, locked
from ..runs.saved_run import kind_of, save_plan
from ..text import resume_command
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Plan one point (or one for each aspect). By itself, it is measured and written up at once."""
    config, paths = invocation.config, invocation.paths
    if find_spec("matplotlib") is None:
        raise InputError(
            "task=limits: draws its matrix with matplotlib, which is not installed",
            hint="pip install matplotlib, or the extra plots",
        )
    with locked(paths, invocation.config.output.lock_timeout_s):
        if paths.plan.exists() and not invocation.in_sweep:
            if kind_of(paths) != "limits":
                raise InputError(
                    f"{paths.root}: is no run of task=limits", hint=f"to resume it:  {resume_command(paths.root)}"
                )
            plan = read_plan(paths.plan)
        else:
            plan = _plan(config, paths)
            save_plan(plan, paths)
    for item in plan.items:
        needs = item.tokens.prompt + item.tokens.output_reserved
        limit = plan.settings.max_model_len
        words = "fits" if needs <= limit else "does not fit"
        invocation.err.print(f"{item.name}: {item.tokens.prompt} tokens, {words} {limit}", highlight=False, style="dim")
    if asks_engine(plan) and not config.limits.together:
        measure(plan, paths.root, config, invocation.err)
    return ExitCode.OK if invocation.in_sweep else conclude(paths.root, config, invocation.out, invocation.err)


def _plan(config: Config, paths: RunPaths) -> Plan:
    """The plan of the points that the config names, each a test card sent as it is."""
    cards = Path(config.cache_dir) / "test_cards"
    asked = replace(
        config,
        prompts=str(paths.points),
        aspect=None,
        reuse=False,
        upsample=UpsampleConf(name="limits", rule=SizeRule.native, shrink=False),
        engine=replace(config.engine, max_attempts=1),
        checks=ChecksConf(cut_off=False),
        hints=replace(config.hints, video=False),
        output=replace(config.output, specs=SpecOutput.none, report=False),
    )

    def planned(sizes: Iterable[tuple[Size, str, str]]) -> Plan:
        points = [
            {
                "name": " ".join(word for word in (category, aspect, str(size)) if word),
                "prompt": config.limits.prompt,
                "video_path": str(calibration_clip(size, config.frames.fps, cards, config.frames.count).resolve()),
                "aspect": aspect,
                "category": category,
            }
            for size, aspect, category in sizes
        ]
        write_atomic(Path(asked.prompts), json.dumps(points, indent=1) + "\n")
        return asking_all(resolve(asked))

    if not config.search:
        return planned(_sizes(config))
    plan = planned([(Size(16, 16), "", "")])
    [probe] = plan.items  # the tokens of its text are those of all
    assert probe.hint
    family, media = plan.settings.family, Media(probe.hint.frames, probe.hint.clip_fps)
    reserved = config.budget.max_output_tokens + config.budget.text_margin
    room = config.budget.max_model_len - reserved - (probe.tokens.prompt - probe.tokens.image)

    def fits(size: Size) -> bool:
        return family.media_tokens(size, media) <= room

    return planned([(size, aspect, "") for aspect in _aspects(config) for size in edge(aspect, family, media, fits)])


def _sizes(config: Config) -> list[tuple[Size, str, str]]:
    """Size, aspect and category of each point; InputError for what names none."""
    if config.size is None:
        category = config.resolution.name
        return [(geometry.category_size(category, aspect), aspect, category) for aspect in _aspects(config)]
    try:
        size = size_of(config.size)
    except ValueError:
        raise InputError(f"size={config.size}: must be WIDTHxHEIGHT, as in size=640x360") from None
    named = ((a, c) for c, sizes in geometry.COSMOS_SIZES.items() for a, pair in sizes.items() if Size(*pair) == size)
    aspect, category = next(named, ("", ""))
    return [(size, aspect, category)]


def _aspects(config: Config) -> tuple[str, ...]:
    if config.aspect == "all":
        return geometry.ASPECTS
    aspect = config.aspect or "16:9"
    if aspect not in geometry.ASPECTS:
        raise InputError(f"aspect={aspect}: must be all, or one of {', '.join(geometry.ASPECTS)}")
    return (aspect,)
