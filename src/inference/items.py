"""The items of inference with Cosmos-Transfer1: the prompt and the controls of each, or why it is left out.

Source for every name that is NVIDIA's: github.com/nvidia-cosmos/cosmos-transfer1 (Apache-2.0),
cosmos_transfer1/diffusion/inference/transfer.py (`parse_arguments`, `demo`; commits b046cc17 and 0879ceef),
inference_utils.py (`valid_hint_keys`, `load_controlnet_specs`, `validate_controlnet_specs`; 004e3e56), preprocessors.py
(the fields of a control; 05bb9769) and examples/inference_cosmos_transfer1_7b.md (0ea680f3).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from ..planning.plan import PlanItem
from ..planning.settings import digest
from ..prompts.fields import OBJECT_FIELDS
from ..prompts.paths import find_file
from .settings import CONTROL_FIELDS, CONTROLS, SPEC_ARGUMENTS, InferenceSettings, wrong_argument, wrong_weight

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

    id: hash of all that its video depends on; "" for one that is left out, with the reason. spec: the controlnet spec that
    it needs, JSON text; items with the same spec share a call of transfer.py. controls: what it overrides in that spec,
    JSON text, files by their name in the job folder. files: (that name, file here).
    """

    id: str
    name: str
    slug: str
    prompt: str
    source: str
    left_out: str
    note: str
    spec: str
    controls: str
    video: str
    video_path: str | None
    files: tuple[tuple[str, str], ...]


class _Unusable(Exception):
    """Why an item cannot go to inference."""


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
    empty = InferenceItem(
        "", item.name, item.slug, choice.prompt, choice.source, choice.left_out, "", "", "", "", item.video_path, ()
    )
    if choice.left_out:
        return empty
    try:
        if item.video is None:
            raise _Unusable(item.problem or "it has no video, which Cosmos-Transfer1 starts from")
        base, overrides, arguments, note = controls_of(item, json.loads(settings.controls))
        video = _name_by_content(item.video.sha256, Path(item.video.path))
        files = {video: item.video.path}
        for control, fields in overrides.items():
            _check_control(control, fields)
            overrides[control] = {
                k: _with_file(k, v, control, item, files, known, settings.repository) for k, v in fields.items()
            }
    except _Unusable as e:
        return replace(empty, left_out=str(e))
    spec = json.dumps({**json.loads(settings.arguments), **arguments, **base}, sort_keys=True)
    controls = json.dumps(overrides, sort_keys=True)
    return replace(
        empty,
        id=digest("inference", choice.prompt, video, spec, controls, settings.checkpoint_dir, settings.extra_args),
        note=note,
        spec=spec,
        controls=controls,
        video=video,
        files=tuple(files.items()),
    )


def controls_of(item: PlanItem, template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """The spec that an item needs, what it overrides in it, the arguments that it brings, and a note on what is ignored.

    An item that comes from a controlnet spec names its own controls, and they stand in place of the template.
    `control_overrides` change fields of controls that are there; transfer.py ignores others.
    """
    extra = json.loads(item.extra)
    given = {name: extra[name] for name in CONTROLS if extra.get(name) is not None}
    if wrong := [name for name, fields in given.items() if not isinstance(fields, dict)]:
        raise _Unusable(f"{wrong[0]}: is no object, as a control must be: {json.dumps(given[wrong[0]])[:60]}")
    own = {name: dict(fields) for name, fields in given.items()}
    overrides = _object(extra.get("control_overrides"))
    ignored = [name for name in overrides if name not in (own or template)]
    note = "; ".join(_ignored(extra, own, overrides, ignored))
    changes = {k: dict(v) for k, v in overrides.items() if k not in ignored and isinstance(v, dict)}
    if not own:
        return template, changes, {}, note
    # The checkpoints of controls are loaded from the spec; everything else may differ from item to item.
    base = {name: {k: v for k, v in fields.items() if k == "ckpt_path"} for name, fields in own.items()}
    arguments = {name: extra[name] for name in SPEC_ARGUMENTS if extra.get(name) is not None}
    for name, value in arguments.items():
        if reason := wrong_argument(name, value):
            raise _Unusable(f"{name}={value}: {reason}")
    return base, {name: {**fields, **changes.get(name, {})} for name, fields in own.items()}, arguments, note


def _ignored(
    extra: Mapping[str, Any], own: Mapping[str, Any], overrides: Mapping[str, Any], not_there: Sequence[str]
) -> Iterator[str]:
    """Notes on what NVIDIA's script ignores of an item's controls."""
    if not_there:
        yield f"control_overrides of {', '.join(not_there)}: no such control in the spec"
    if empty := [name for name, fields in overrides.items() if not isinstance(fields, dict)]:
        yield f"control_overrides of {', '.join(empty)}: no object"
    for name, fields in own.items():
        if unknown := [field for field in fields if field not in CONTROL_FIELDS]:
            yield f"{name}.{', '.join(unknown)}: no field of a control ({', '.join(CONTROL_FIELDS)})"
    for name, value in extra.items():
        if isinstance(value, dict) and name not in (*CONTROLS, *OBJECT_FIELDS):
            for meant in difflib.get_close_matches(name, CONTROLS, n=1, cutoff=0.7):
                yield f"{name}: unknown control; did you mean {meant}?"


def _object(value: Any) -> dict[str, Any]:
    """An object field of a prompt file, which in CSV is JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _check_control(name: str, fields: Mapping[str, Any]) -> None:
    if "control_weight" in fields and (wrong := wrong_weight(fields["control_weight"])):
        raise _Unusable(f"{name}.control_weight: {wrong}")


def _with_file(
    field: str,
    value: Any,
    control: str,
    item: PlanItem,
    files: dict[str, str],
    known: dict[Path, str],
    repository: str,
) -> Any:
    """The value of a field; where it names a file, that file's name in the job folder. Such files travel with the job."""
    is_file = field == "input_control" or (field == "control_weight" and str(value).endswith(".pt"))
    if not is_file or not isinstance(value, str) or not value:
        return value
    path, _ = find_file(Path(item.source).parent, value, (), (repository, "."))
    if not path.is_file():
        raise _Unusable(f"{control}.{field}: {value} is not a file")
    if path not in known:
        with open(path, "rb") as f:
            known[path] = hashlib.file_digest(f, "sha256").hexdigest()
    name = _name_by_content(known[path], path)
    files[name] = str(path)
    return name


def _name_by_content(sha256: str, path: Path) -> str:
    """Name of a file in the job folder. NVIDIA's reader goes by the suffix, so it stays, if it is a plain one."""
    suffix = path.suffix.lower()
    return f"frames/{sha256}{suffix if re.fullmatch(r'[.][a-z0-9]{1,5}', suffix) else '.mp4'}"


# Cosmos-Transfer1 makes 121 frames at a time, the first of which it has from the piece before; clips are filled up to that.
NEW_FRAMES_A_PIECE = 120


def pieces_of(frames: int) -> int:
    """In how many pieces Cosmos-Transfer1 makes a video of so many frames; each takes as long as any other.

    Source: nvidia-cosmos/cosmos-transfer1, cosmos_transfer1/diffusion/inference/world_generation_pipeline.py
    (num_new_generated_frames; the last piece is filled up).
    """
    return max(1, math.ceil((frames - 1) / NEW_FRAMES_A_PIECE))
