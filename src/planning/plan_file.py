"""plan.json, written and read."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import InputError
from ..media.hint import Hint
from ..media.video import Video
from .plan import Plan, PlanItem, Tokens
from .settings import ContainerSettings, EngineSettings, HostSettings, ModelSettings, Settings, dumps, fields_of

VERSION = 1
T = TypeVar("T")


def write_plan(plan: Plan, out: IO[str]) -> None:
    """Write plan.json, an item a line, so that 100,000 items never stand in memory as one text."""
    budget = {"max_model_len": plan.settings.max_model_len, "max_output_tokens": plan.settings.max_output_tokens}
    head: dict[str, Any] = {
        "version": VERSION,
        "run": plan.run_id,
        "model": plan.settings.model.name,
        "engine": plan.settings.engine.name,
        "budget": budget,
        "settings": plan.settings,
        "batches": plan.batches,
    }
    out.write("{\n")
    for key, value in head.items():
        out.write(f" {json.dumps(key)}: {dumps(value)},\n")
    out.write(' "items": [\n')
    for n, item in enumerate(plan.items):
        out.write(("  " if n == 0 else ",\n  ") + dumps(fields_of(item) | {"extra": json.loads(item.extra)}))
    out.write("\n ]\n}\n")


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` wrote; keys that a later version added are left out.

    Raises InputError when the file is torn, of another version, or not a plan.
    """
    try:
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        if data["version"] != VERSION:
            raise InputError(f"{path}: is of version {data['version']}, this program reads {VERSION}")
        items = tuple(_item_from_json(item) for item in data["items"])
        return Plan(_settings_from_json(data["settings"]), tuple(tuple(b) for b in data["batches"]), items)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path}: is not a plan that can be read ({type(e).__name__}: {e})",
            hint="start the run anew; answers already paid for come from the cache with reuse=true",
        ) from e


def from_json(kind: type[T], data: dict[str, Any], **made: Any) -> T:
    """A plan value from JSON: the fields that it has, `made` in place of those that need making; a field with a default
    may be missing, for plans that were written before it came."""
    given = data | made
    wanted = (f for f in fields(kind) if f.name in given or f.default is MISSING)  # type: ignore[arg-type]
    return kind(**{f.name: given[f.name] for f in wanted})


def _settings_from_json(data: dict[str, Any]) -> Settings:
    model = from_json(ModelSettings, data["model"], extra_args=tuple(data["model"]["extra_args"]))
    place, container = place_from_json(data["place"]), container_from_json(data["container"])
    engine = from_json(EngineSettings, data["engine"])
    exports = tuple(data.get("exports", ()))  # a plan of an older version has none
    return from_json(Settings, data, engine=engine, model=model, place=place, container=container, exports=exports)


def place_from_json(data: dict[str, Any]) -> HostSettings:
    """As `write_plan` writes it."""
    return from_json(HostSettings, data, docker=tuple(data["docker"]))


def container_from_json(data: dict[str, Any]) -> ContainerSettings:
    """As `write_plan` writes it."""
    return from_json(ContainerSettings, data, mounts=tuple(data["mounts"]), env=tuple(data["env"]))


def _item_from_json(data: dict[str, Any]) -> PlanItem:
    hint = data["hint"] and from_json(Hint, data["hint"], times_s=tuple(data["hint"]["times_s"]))
    return from_json(
        PlanItem,
        data,
        video=data["video"] and from_json(Video, data["video"]),
        hint=hint,
        tokens=from_json(Tokens, data["tokens"]),
        extra=json.dumps(data["extra"], ensure_ascii=False),
    )
