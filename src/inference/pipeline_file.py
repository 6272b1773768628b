"""pipeline.json: how a pipeline was started, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .. import seals
from ..errors import InputError
from ..run_folder import RunPaths
from ..worker.records import from_json, to_json
from .settings import InferenceSettings

VERSION = 2
_JSON_TEXTS = ("controls", "arguments")  # fields that are JSON text in the settings and objects in the file


def settings_json(settings: InferenceSettings) -> dict[str, Any]:
    """As it is written to pipeline.json."""
    return {**to_json(settings), **{name: json.loads(getattr(settings, name)) for name in _JSON_TEXTS}}


def settings_from_json(data: Mapping[str, Any]) -> InferenceSettings:
    """From pipeline.json. Raises InvalidRecord for what is not that."""
    texts = {name: json.dumps(data[name], sort_keys=True) for name in _JSON_TEXTS}
    return from_json(InferenceSettings, {**data, **texts}, "inference")


def save_pipeline(upsampling: bool, inference: InferenceSettings, paths: RunPaths) -> None:
    record = {"version": VERSION, "upsample": upsampling, "inference": settings_json(inference)}
    with seals.open_sealed(paths.pipeline) as f:
        f.write(json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_pipeline(paths: RunPaths) -> tuple[bool, InferenceSettings]:
    """Whether a run upsamples, and how its inference runs, from its pipeline.json."""
    try:
        data = json.loads(paths.pipeline.read_text(encoding="utf-8"))
        version, settings = data["version"], data["inference"]
        if version not in (1, VERSION):
            raise InputError(f"{paths.pipeline}: version {version}, this program reads {VERSION}")
        if version == 1:
            settings = {**settings, "host": settings["place"], "image": settings["container"]}
        return bool(data["upsample"]), settings_from_json(settings)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise InputError(
            f"{paths.pipeline}: cannot be read ({type(e).__name__}: {e})", hint="pipeline.again=true ignores it"
        ) from e
