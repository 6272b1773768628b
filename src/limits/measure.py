"""The points of a limits sweep, measured by their engines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import log
from ..choices import EngineName
from ..config import Config
from ..errors import ExitCode, InputError, UpsamplerError
from ..planning import observed_limits, partition
from ..planning.plan import Plan, batch_numbers, item_id
from ..planning.plan_file import read_plan
from ..planning.settings import digest, fields_of
from ..run_folder import RunPaths, locked
from ..runs.outcomes import Outcomes
from ..runs.saved_run import save_plan
from ..runs.upsampling import execute
from ..timing.progress import progress_display
from ..worker.protocol import Outcome
from . import matrix
from .points import Point, marked, memory_lines, observed_limit, point_of

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = "engines"  # folder of a sweep with a run for each engine


def conclude(folder: Path, config: Config, out: Console, err: Console) -> ExitCode:
    """Measure what is missing of the points below a folder, and write the matrix.

    Exit code 3 when a point could not be measured or did not end as predicted; that of its error when an engine failed.
    """
    groups = _by_engine(folder)
    if not groups:
        raise InputError(f"{folder}: has no points", hint="every point of the sweep was rejected; see above")
    code, points, facts = ExitCode.OK, [], {}
    for group in groups:
        if asks_engine(group.plan) and config.limits.together:
            try:
                measure(group.plan, group.folder, config, err)
            except UpsamplerError as e:  # the other engines are still measured
                log.get().error("not_measured", max_model_len=group.plan.settings.max_model_len, reason=str(e))
                code = max(code, e.exit_code)
        seen: dict[str, Outcome] = {}
        for place in (*group.members, group.folder):
            seen |= Outcomes(RunPaths(place).journal)
        found = [point_of(item, group.plan, group.key, seen.get(item.id)) for item in group.plan.items]
        _remember(found, group.plan)
        points += found
        facts[group.key] = _facts(group)
    table = marked(points)
    first = groups[0].plan
    clip_fps = next((item.hint.clip_fps for item in first.items if item.hint), None)
    matrix.write(table, facts, folder, first.settings.family, clip_fps)
    matrix.show(table, folder, out)
    whole = all(point.agrees for point in table) or not any(asks_engine(group.plan) for group in groups)
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


def asks_engine(plan: Plan) -> bool:
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
        plan = asking_all(replace(parts[0][1], items=items))
        groups.append(_Group(key, folder / ENGINES / key, tuple(place for place, _ in parts), plan))
    return groups


def asking_all(plan: Plan) -> Plan:
    """The plan with every point sent, also those that do not fit by the token rule: the engine decides."""
    items = tuple(
        replace(
            item, problem="", id=item_id(item.prompt, item.text, item.system, item.video, item.hint, "", plan.settings)
        )
        for item in plan.items
    )
    lengths = {item.id: item.tokens.prompt + item.tokens.output_reserved for item in items}
    grouped = partition.group(lengths, 32, 1 << 30)
    number = batch_numbers(grouped)
    return Plan(plan.settings, grouped, tuple(replace(item, batch=number.get(item.id)) for item in items))


def measure(plan: Plan, folder: Path, config: Config, err: Console) -> Outcomes:
    """Send the points through their engine, as any run."""
    paths = RunPaths(folder)
    with locked(paths, config.output.lock_timeout_s), progress_display(config.console.progress.value, err) as progress:
        save_plan(plan, paths)
        return execute(plan, paths, progress)


def _remember(points: Sequence[Point], plan: Plan) -> None:
    """Keep what this engine was observed to accept, for later plans."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    observed = observed_limit(points, plan, now)
    if not observed:
        return
    file = observed_limits.limits_file(Path(plan.settings.cache_dir))
    known = observed_limits.remember(file, observed_limits.key_of(plan.settings), observed)
    if known.effective_len:
        log.get().warning(
            "engine_accepts_less", max_model_len=known.max_model_len, effective=known.effective_len, file=str(file)
        )


def _facts(group: _Group) -> Mapping[str, str]:
    """The facts of an engine, with the memory that it reported."""
    settings = group.plan.settings
    logs = [file for place in (*group.members, group.folder) for file in sorted(place.glob("job/*/server.log"))]
    lines = [line for file in logs for line in memory_lines(file.read_text(errors="replace"))]
    return {
        "engine": settings.engine.name,
        "model": settings.model.name,
        "host": settings.host.name,
        "image": settings.image.reference,
        "max_model_len": str(settings.max_model_len),
        "memory": "; ".join(dict.fromkeys(lines)),
    }
