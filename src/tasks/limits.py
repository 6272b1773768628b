"""`task=limits`: which frames at which budget, predicted by the token rule and proved by an engine.

A point of a sweep is planned by itself, like any run, from a test card; when the last one is planned, those that share
an engine are sent through it together, so that it is loaded once. What is answered stays answered: a sweep that is
started again in the same folder measures what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import log
from ..config import ChecksConf, Config, EngineName, SizeRule, SpecOutput, UpsampleConf
from ..errors import ExitCode, InputError, UpsamplerError
from ..files import RunPaths, locked, write_atomic
from ..limits import matrix
from ..limits.calibration_clip import test_card
from ..limits.points import Point, edge, envelope_of, marked, memory_lines, point_of, prompt_of, size_of
from ..media import geometry
from ..media.geometry import Size
from ..planning import observed_limits, partition
from ..planning.plan import Plan, digest, fields_of, item_id, read_plan, with_batches
from ..planning.resolve import resolve
from ..runs.outcomes import Outcome, read_outcomes
from ..runs.upsampling import execute
from ..timing.progress import showing
from . import Invocation
from .resolving import save_plan

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = "engines"  # folder of a sweep with a run for each engine


def run(invocation: Invocation) -> ExitCode:
    """Plan one point (or one for each aspect). By itself, it is measured and written up at once."""
    config, paths = invocation.config, invocation.paths
    with locked(paths):
        if paths.plan.exists() and not invocation.sweep:
            plan = read_plan(paths.plan)
        else:
            plan = _plan(config, paths)
            save_plan(plan, paths)
    for item in plan.items:
        needs = item.tokens.prompt + item.tokens.output_reserved
        limit = plan.settings.max_model_len
        words = "fits" if needs <= limit else "does not fit"
        invocation.err.print(f"{item.name}: {item.tokens.prompt} tokens, {words} {limit}", highlight=False, style="dim")
    if not invocation.sweep:
        return conclude(paths.root, config, invocation.out, invocation.err)
    if _asks(plan) and not config.limits.together:
        _measure(plan, paths.root, config, invocation.err)
    return ExitCode.OK


def conclude(folder: Path, config: Config, out: Console, err: Console) -> ExitCode:
    """Measure what is missing of the points below a folder, and write the matrix.

    Exit code 3 when a point could not be measured or did not end as predicted; that of its error when an engine failed.
    """
    groups = _by_engine(folder)
    if not groups:
        raise InputError(f"{folder}: holds no point", hint="every point of the sweep was refused; see above")
    code, points, facts = ExitCode.OK, [], {}
    for group in groups:
        if _asks(group.plan) and config.limits.together:
            try:
                _measure(group.plan, group.folder, config, err)
            except UpsamplerError as e:  # the other engines go on
                log.get().error("not_measured", max_model_len=group.plan.settings.max_model_len, reason=str(e))
                code = max(code, e.exit_code)
        seen: dict[str, Outcome] = {}
        for place in (*group.members, group.folder):
            seen |= read_outcomes(RunPaths(place).journal)
        found = [point_of(item, group.plan, group.key, seen.get(item.id)) for item in group.plan.items]
        _remember(found, group.plan)
        points += found
        facts[group.key] = _facts(group)
    table = marked(points)
    matrix.write(table, facts, folder)
    matrix.show(table, folder, out)
    whole = all(point.agrees for point in table) or not any(_asks(group.plan) for group in groups)
    return max(code, ExitCode.OK if whole else ExitCode.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class _Group:
    """Points that share an engine: the folders where they were planned, and one plan for all of them.

    folder: where they are measured together.
    """

    key: str
    folder: Path
    members: tuple[Path, ...]
    plan: Plan


def _asks(plan: Plan) -> bool:
    """Whether there is an engine to ask."""
    return plan.settings.engine.name != EngineName.offline.value


def _by_engine(folder: Path) -> list[_Group]:
    """The points below a folder by engine configuration, the smallest budget first."""
    found: dict[str, list[tuple[Path, Plan]]] = {}
    for path in sorted([*folder.glob("plan.json"), *folder.glob("*/plan.json")]):
        plan = read_plan(path)
        name = f"{plan.settings.max_model_len}-{digest(json.dumps(plan.settings, default=fields_of))[:8]}"
        found.setdefault(name, []).append((path.parent, plan))
    groups = []
    for key, parts in sorted(found.items(), key=lambda pair: pair[1][0][1].settings.max_model_len):
        items = tuple({item.id: item for _, plan in parts for item in plan.items}.values())
        plan = _asking_all(replace(parts[0][1], items=items))
        groups.append(_Group(key, folder / ENGINES / key, tuple(place for place, _ in parts), plan))
    return groups


def _plan(config: Config, paths: RunPaths) -> Plan:
    """The plan of the points that the config names, each a test card sent as it is."""
    cards = Path(config.cache_dir) / "test_cards"
    asked = replace(
        config,
        prompts=str(paths.root / "points.json"),
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
                "video_path": str(test_card(size, config.frames.fps, cards).resolve()),
                "aspect": aspect,
                "category": category,
            }
            for size, aspect, category in sizes
        ]
        write_atomic(Path(asked.prompts), json.dumps(points, indent=1) + "\n")
        return _asking_all(resolve(asked))

    if not config.search:
        return planned(_sizes(config))
    [probe] = planned([(Size(16, 16), "", "")]).items  # the tokens of its text are those of all
    recipe_room = config.budget.max_model_len - config.budget.max_output_tokens - config.budget.text_margin

    def fits(size: Size) -> bool:
        return prompt_of(size, config.frames.count, probe.tokens.text) <= recipe_room

    return planned([(size, aspect, "") for aspect in _aspects(config) for size in edge(aspect, fits)])


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


def _asking_all(plan: Plan) -> Plan:
    """The plan with every point sent, also those that the rule says do not fit: that is what is asked."""
    items = tuple(
        replace(
            item, problem="", id=item_id(item.prompt, item.text, item.system, item.video, item.hint, "", plan.settings)
        )
        for item in plan.items
    )
    lengths = {item.id: item.tokens.prompt + item.tokens.output_reserved for item in items}
    grouped = partition.group(list(lengths.items()), 32, 1 << 30)
    return Plan(plan.settings, grouped, with_batches(items, grouped))


def _measure(plan: Plan, folder: Path, config: Config, err: Console) -> dict[str, Outcome]:
    """Send the points through their engine, as any run."""
    paths = RunPaths(folder)
    with locked(paths), showing(config.console.progress.value, err) as progress:
        save_plan(plan, paths)
        return execute(plan, paths, progress)


def _remember(points: Sequence[Point], plan: Plan) -> None:
    """Keep what this engine was seen to take, for the plans that come."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    seen = envelope_of(points, plan, now)
    if not seen:
        return
    file = observed_limits.limits_file(Path(plan.settings.cache_dir))
    known = observed_limits.remember(file, observed_limits.key_of(plan.settings), seen)
    if known.believed_len:
        log.get().warning(
            "engine_takes_less", max_model_len=known.max_model_len, believed=known.believed_len, file=str(file)
        )


def _facts(group: _Group) -> Mapping[str, str]:
    """What is known of an engine, with the memory that it reported."""
    settings = group.plan.settings
    logs = [file for place in (*group.members, group.folder) for file in sorted(place.glob("job/*/server.log"))]
    said = [line for file in logs for line in memory_lines(file.read_text(errors="replace"))]
    return {
        "engine": settings.engine.name,
        "model": settings.model.name,
        "host": settings.host,
        "image": settings.container.reference,
        "max_model_len": str(settings.max_model_len),
        "memory": "; ".join(dict.fromkeys(said)),
    }
