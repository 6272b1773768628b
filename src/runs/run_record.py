"""run.json: what a list of runs shows of one, so that its plan need not be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..files import write_atomic
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..run_folder import RunPaths
from ..worker.records import from_json, to_json

VERSION = 1


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run: its name, the prompt file or folder as people know it, and how many items and distinct requests it has.

    is_away: its jobs survive the controller. planned_tokens: of all prompts. states: how the items ended, empty until all
    have. tokens (of prompts and answers, as the engine counted them), seconds, cost: of all its starts together, as far as
    they are known. failure: why its last start did not end well, if an error ended it. outputs: what was written at its end,
    by name in its folder, with its bytes and the time of its change.
    """

    name: str
    prompts: str
    items: int
    requests: int
    engine: str
    model: str
    host: str
    is_away: bool
    created: str
    planned_tokens: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    failure: str = ""
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    version: int = VERSION

    @property
    def title(self) -> str:
        return " · ".join(filter(None, (self.prompts, self.name)))


def record_plan(plan: Plan, paths: RunPaths, name: str = "") -> None:
    """Write run.json for a plan that is new in its folder."""
    _write(_of_plan(plan, name, datetime.now().astimezone()), paths)


def record_more(paths: RunPaths, **known: Any) -> None:
    """Add to run.json what became known of the run: fields of `RunRecord`."""
    _write(replace(read_record(paths), **known), paths)


def read_record(paths: RunPaths) -> RunRecord:
    """The record of a run; one of an earlier version of this program has it in its plan. Raises InputError for no plan."""
    try:
        return from_json(RunRecord, json.loads(paths.record.read_bytes()), "run")
    except (OSError, ValueError, RecursionError):
        return _of_plan(read_plan(paths.plan), "", datetime.fromtimestamp(paths.plan.stat().st_mtime).astimezone())


def _write(record: RunRecord, paths: RunPaths) -> None:
    write_atomic(paths.record, json.dumps(to_json(record), ensure_ascii=False, indent=1) + "\n")


def _of_plan(plan: Plan, name: str, created: datetime) -> RunRecord:
    settings = plan.settings
    return RunRecord(
        name,
        prompts_of(plan.items[0].source, plan.items[-1].source) if len(plan.items) else "",
        len(plan.items),
        len(plan.distinct_ids),
        settings.engine.name,
        settings.model.name if settings.engine.name != "offline" else "",
        settings.host.name,
        settings.host.kind != "local" or bool(settings.image.reference),
        created.isoformat(timespec="seconds"),
        plan.summary.tokens - plan.summary.sent * settings.max_output_tokens,
    )


def prompts_of(first: str, last: str) -> str:
    """The name of the prompt file, or of the folder of several, by the files of the first and the last item."""
    return Path(first).name if first == last else f"{Path(first).parent.name}/"
