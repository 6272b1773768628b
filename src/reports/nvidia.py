"""An item as NVIDIA's programs read it: a line of a batch, or a controlnet spec. What would end a batch is never a line of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..inference.engines import ENGINES, transfer1
from ..inference.engines.engine import Place, Refused, Request
from ..inference.vocabulary import Asked, asked_of, placed, request_of
from ..planning.plan import PlanItem
from ..prompts.paths import find_file

# Controls of an item that names none, for an engine that needs one.
ALONE: dict[str, dict[str, dict[str, Any]]] = {"transfer2_5": {"edge": {}}}
SIDECAR = ".upsampling"  # beside a spec: what NVIDIA's loader would take for the name of a control


def place_of(item: PlanItem, folder: Path | None) -> Place:
    """Where files that an item names are: absolute, or seen from this folder. ValueError for one that is not there."""

    return partial(_place_of_file, item.source, folder)


@lru_cache(maxsize=4096)  # many items share a clip
def _place_of_file(source: str, folder: Path | None, written: str) -> str:
    path, _ = find_file(Path(source).parent, written)
    if not os.path.isfile(path):  # a name that is too long, or a folder that may not be entered, holds none
        raise ValueError("is not a file")
    return os.path.relpath(path, folder) if folder else str(path)


def request_for(engine: str, item: PlanItem, prompt: str, negative: str, folder: Path | None) -> Request:
    """What an item asks of an engine by itself. negative: for an item without one of its own. Raises Refused."""
    if item.video_path and not item.video:
        raise Refused(item.problem or "its video cannot be used")
    clip = item.video.path if item.video else ""
    return replace(_request(engine, item.extra, item.is_of_table, item.source, clip, negative, folder), prompt=prompt)


@lru_cache(maxsize=4096)  # and most ask for the same
def _request(
    engine: str, extra: str, from_table: bool, source: str, clip: str, negative: str, folder: Path | None
) -> Request:
    asked = asked_of(json.loads(extra), from_table=from_table)
    template: dict[str, dict[str, Any]] = {name: {} for name in asked.overrides} or ALONE.get(engine, {})
    defaults = Asked(controls=template, keys={"negative_prompt": negative} if negative else {})
    place = partial(_place_of_file, source, folder)
    try:
        where = place(clip) if clip else ""
    except ValueError as e:  # it was there when the run was planned
        raise Refused(f"{clip}: {e}") from None
    return request_of(ENGINES[engine], defaults, asked, "", where, place)


def line_of(engine: str, item: PlanItem, prompt: str, negative: str, folder: Path | None) -> dict[str, Any]:
    """The line of a batch. Keys that Cosmos-Transfer1 takes from the spec alone stand in its lines too: it ignores them there,
    and they are read back. Raises Refused."""
    request = request_for(engine, item, prompt, negative, folder)
    line = ENGINES[engine].line(request, item.slug)
    return {**line, **request.arguments} if engine == transfer1.ENGINE.name else line


def moved(item: PlanItem, given: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The fields of an item, for a file elsewhere: files that they name are where they are."""

    def place(written: str) -> str:
        try:
            return place_of(item, folder)(written)
        except ValueError:
            return written

    return placed(given, place)


def split(spec: Mapping[str, Any], additions: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A spec with additions, and what has to stand beside it: of a controlnet spec, objects that are no controls."""
    is_controlnet = any(isinstance(spec.get(name), dict) for name in transfer1.CONTROLS)
    beside = {name: value for name, value in additions.items() if is_controlnet and isinstance(value, dict)}
    return {name: value for name, value in {**spec, **additions}.items() if name not in beside}, beside
