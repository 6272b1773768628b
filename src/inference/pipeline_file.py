"""pipeline.json: how a pipeline was started, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..files import write_atomic
from ..planning.plan_file import container_from_json, place_from_json
from ..planning.settings import fields_of
from ..run_folder import RunPaths
from .settings import InferenceSettings

# ------------------------------------------------------------------------------------------------------ pipeline.json


def settings_json(settings: InferenceSettings) -> dict[str, Any]:
    """As it is written to pipeline.json."""
    made = {"place": fields_of(settings.place), "container": fields_of(settings.container)}
    return fields_of(settings) | made | {k: json.loads(getattr(settings, k)) for k in ("controls", "arguments")}


def settings_from_json(data: Mapping[str, Any]) -> InferenceSettings:
    """From pipeline.json; fields that a later version added are left out. Raises KeyError and TypeError for others."""
    known = {name: data[name] for name in InferenceSettings.__dataclass_fields__}
    return InferenceSettings(
        **known
        | {name: json.dumps(data[name], sort_keys=True) for name in ("controls", "arguments")}
        | {name: tuple(data[name]) for name in ("flags", "extra_args")}
        | {"place": place_from_json(data["place"]), "container": container_from_json(data["container"])}
    )


VERSION = 1


def save_pipeline(upsampling: bool, inference: InferenceSettings, paths: RunPaths) -> None:
    record = {"version": VERSION, "upsample": upsampling, "inference": settings_json(inference)}
    write_atomic(paths.pipeline, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_pipeline(paths: RunPaths) -> tuple[bool, InferenceSettings]:
    """Whether a run upsamples, and how its inference runs, from its pipeline.json."""
    try:
        data = json.loads(paths.pipeline.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise InputError(f"{paths.pipeline}: is of version {data['version']}, this program reads {VERSION}")
        return bool(data["upsample"]), settings_from_json(data["inference"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{paths.pipeline}: cannot be read ({type(e).__name__}: {e})", hint="pipeline.again=true goes without it"
        ) from e
