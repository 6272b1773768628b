"""plan.json, written and read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..worker.records import from_json
from .plan import Plan, PlanItem
from .settings import Settings, dumps, fields_of

VERSION = 2


def write_plan(plan: Plan, out: IO[str]) -> None:
    """Write plan.json, one line per item, so that 100,000 items are never in memory as one text."""
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
        out.write(("  " if n == 0 else ",\n  ") + dumps(_item_json(item)))
    out.write("\n ]\n}\n")


def _item_json(item: PlanItem) -> dict[str, Any]:
    tokens = fields_of(item.tokens) | {"linear_estimate": item.linear_estimate}
    return fields_of(item) | {"tokens": tokens, "extra": json.loads(item.extra)}


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` wrote; keys that a later version added are ignored.

    Raises InputError when the file is torn, of another version, or not a plan.
    """
    try:
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        version = data["version"]
        if version not in (1, VERSION):
            raise InputError(f"{path}: version {version}, this program reads {VERSION}")
        settings = data["settings"] if version == VERSION else _settings_of_version_1(data["settings"])
        for item in data["items"]:
            item["extra"] = json.dumps(item["extra"], ensure_ascii=False)
        return Plan(
            from_json(Settings, settings, "settings"),
            tuple(tuple(b) for b in data["batches"]),
            tuple(from_json(PlanItem, item, f"items[{n}]") for n, item in enumerate(data["items"])),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(
            f"{path}: not a valid plan ({type(e).__name__}: {e})",
            hint="start the run again; answers already paid for come from the cache with reuse=true",
        ) from e


def _settings_of_version_1(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had the names of host and image next to their settings, and another name for the effective limit."""
    return {**data, "host": data["place"], "image": data["container"], "effective_len": data.get("believed_len", 0)}
