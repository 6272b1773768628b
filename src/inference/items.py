"""The items of inference: the prompt, the controls and the batch line of each, or why it is left out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from ..files import file_sha256
from ..planning.plan import PlanItem
from ..planning.settings import digest
from ..prompts.paths import find_file
from ..text import counted
from .engines.engine import Place, Refused, Request
from .settings import InferenceSettings
from .vocabulary import asked_of, request_of

FPS = 24  # of videos, unless an item asks for another (NVIDIA)
UPSAMPLED, ORIGINAL, SPEC = "upsampled", "original", "spec"  # where a prompt came from


class UpsampledRow(TypedDict):
    """What inference reads of a row of results.json."""

    state: str
    reason: str
    upsampled_prompt: str | None


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The prompt that an item goes with and where it came from, or why it is left out."""

    prompt: str
    source: str
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class InferenceItem:
    """One item of inference, resolved.

    id: hash of all that its video depends on; "" for one that is left out, with the reason. group: what items have in common
    that share a load of the model (`Engine.group`), line: its line of a batch; JSON texts, with files by their name in the job
    folder. files: (that name, file here). pieces: in how many it is made. asked: engine, controls and keys, JSON text with files
    as they are here.
    """

    id: str
    name: str
    slug: str
    prompt: str
    source: str
    left_out: str
    video_path: str | None
    group: str = ""
    line: str = ""
    video: str = ""
    files: tuple[tuple[str, str], ...] = ()
    pieces: int = 0
    asked: str = "{}"


def choose_prompt(item: PlanItem, row: UpsampledRow | None, *, require_upsampled: bool) -> PromptChoice:
    """The prompt that an item goes with. row: its row of results.json, None when nothing was upsampled in this run."""
    if row is None:
        given = json.loads(item.extra).get("upsampled_prompt")
        if isinstance(given, str) and given.strip():
            return PromptChoice(given, SPEC)
    elif row["state"] == "upsampled":
        return PromptChoice(row["upsampled_prompt"] or "", UPSAMPLED)
    elif row["state"] == "failed":
        return PromptChoice("", "", f"its prompt failed: {row['reason']}")
    if require_upsampled:
        return PromptChoice(
            "", "", f"its prompt was not upsampled: {row['reason'] if row else 'nothing was in this run'}"
        )
    return PromptChoice(item.prompt, ORIGINAL) if item.prompt.strip() else PromptChoice("", "", "it has no prompt")


def inference_items(
    items: Sequence[PlanItem], rows: Sequence[UpsampledRow] | None, settings: InferenceSettings
) -> tuple[InferenceItem, ...]:
    """What goes to inference, in input order, and what is left out. Reads control files, to know them by content."""
    known: dict[Path, str] = {}
    table: Sequence[UpsampledRow | None] = rows if rows is not None else [None] * len(items)
    return tuple(_take(item, row, settings, known) for item, row in zip(items, table, strict=True))


def _take(
    item: PlanItem, row: UpsampledRow | None, settings: InferenceSettings, known: dict[Path, str]
) -> InferenceItem:
    choice = choose_prompt(item, row, require_upsampled=settings.require_upsampled)
    taken = InferenceItem("", item.name, item.slug, choice.prompt, choice.source, choice.left_out, item.video_path)
    if choice.left_out:
        return taken
    video = _name_by_content(item.video.sha256, Path(item.video.path)) if item.video else ""
    files = {video: item.video.path} if item.video else {}
    try:
        if item.video_path and not item.video:
            raise Refused(item.problem or "its video cannot be used")
        if item.video:
            _check_length(item, settings)
        request = request_for(item, choice.prompt, video, settings, _placer(item, files, known, settings.repository))
        _refuse_downloads(request, settings)
    except Refused as e:
        return replace(taken, left_out=str(e))
    engine = settings.engine_of
    group, line = json.dumps(engine.group(request), sort_keys=True), engine.line(request, "")
    return replace(
        taken,
        id=_id_of(choice.prompt, video, group, line, settings),
        group=group,
        line=json.dumps(line),
        video=video,
        files=tuple(files.items()),
        pieces=engine.pieces_of(item.video.frames if item.video else 1, request.arguments),
        asked=_asked(request, files, settings.engine),
    )


def _check_length(item: PlanItem, settings: InferenceSettings) -> None:
    """Raises Refused for a clip that is too short to make a video of."""
    frames = item.video.frames if item.video else 0
    if frames < settings.engine_of.least_frames:
        raise Refused(f"its video has {counted(frames, 'frame')}; {settings.engine_of.title} makes a picture of that")


def _asked(request: Request, files: Mapping[str, str], engine: str) -> str:
    text = json.dumps({"engine": engine, "controls": request.whole, **request.arguments})
    for name, path in files.items():
        text = text.replace(json.dumps(name), json.dumps(path))
    return text


def request_for(item: PlanItem, prompt: str, clip: str, settings: InferenceSettings, place: Place) -> Request:
    """What an item asks of the engine of these settings. Raises Refused."""
    asked = asked_of(json.loads(item.extra), settings.ignore, from_table=item.is_of_table)
    request = request_of(settings.engine_of, settings.template, asked, prompt, clip, place)
    fps = max(1, round(item.video.fps)) if item.video else FPS
    if "upscale" in request.controls and fps != FPS:  # else a video of another frame rate would play at another speed
        request = replace(request, arguments={"fps": fps, **request.arguments})
    return request


def _id_of(prompt: str, video: str, group: str, line: dict[str, Any], settings: InferenceSettings) -> str:
    overrides = json.dumps(line.get("control_overrides", {}), sort_keys=True)
    common = ("inference", prompt, video, group, overrides, settings.checkpoint_dir, settings.extra_args)
    if settings.engine == "transfer1":
        return digest(*common)
    return digest(*common, settings.engine, settings.checkpoint, json.dumps(line, sort_keys=True))


def _placer(item: PlanItem, files: dict[str, str], known: dict[Path, str], repository: str) -> Place:
    """Names files in the job folder, by content, and adds them to `files`: they travel with the job."""

    def place(written: str) -> str:
        path, _ = find_file(Path(item.source).parent, written, (), (repository, "."))
        if not os.path.isfile(path):
            raise ValueError("is not a file")
        if path not in known:
            known[path] = file_sha256(path)
        name = _name_by_content(known[path], path)
        files[name] = str(path)
        return name

    return place


def _refuse_downloads(request: Request, settings: InferenceSettings) -> None:
    """Raises Refused for what needs a model from the Hugging Face hub, where the container has neither network nor cache."""
    if settings.reaches_hub:
        return
    masks = ("control_weight_prompt", "mask_prompt")
    for name, fields in request.whole.items():
        made = name in settings.engine_of.from_hub and not any(
            fields.get(key) for key in ("input_control", "control_path")
        )
        if made or any(fields.get(key) for key in masks):
            raise Refused(
                f"{name}: NVIDIA's script makes its {'control video' if made else 'mask'} with a model from the Hugging Face "
                "hub, and the container has no network: name the hub's cache on the host with inference.hf_home=FOLDER, "
                "allow image.network=host, or give the item an input_control"
            )


def _name_by_content(sha256: str, path: Path) -> str:
    """Name of a file in the job folder. NVIDIA's reader goes by the suffix, so it stays, if it is a plain one."""
    suffix = path.suffix.lower()
    return f"frames/{sha256}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else '.mp4'}"
