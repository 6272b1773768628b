"""Inference with Cosmos-Transfer1 as values: which prompt an item goes with, which controls, and NVIDIA's command.

Source for every name that is NVIDIA's: github.com/nvidia-cosmos/cosmos-transfer1 (Apache-2.0),
cosmos_transfer1/diffusion/inference/transfer.py (`parse_arguments`, `demo`; commits b046cc17 and 0879ceef),
inference_utils.py (`valid_hint_keys`, `load_controlnet_specs`, `validate_controlnet_specs`; 004e3e56), preprocessors.py
(the fields of a control; 05bb9769) and examples/inference_cosmos_transfer1_7b.md (0ea680f3).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..hosts.docker import detached_argv
from ..planning.plan import (
    ContainerSettings,
    HostSettings,
    PlanItem,
    Settings,
    container_from_json,
    digest,
    fields_of,
    place_from_json,
)
from ..prompts.specs import OBJECT_FIELDS, absolute_video

CONTROLS = ("vis", "seg", "edge", "depth", "keypoint", "upscale", "hdmap", "lidar")
STRENGTHS = ("very_low", "low", "medium", "high", "very_high")
# Fields beside the controls of a spec, which transfer.py reads as if they were arguments.
SPEC_ARGUMENTS: dict[str, type] = {
    "negative_prompt": str, "sigma_max": float, "blur_strength": str, "canny_threshold": str, "num_steps": int,
    "guidance": float, "fps": int, "seed": int,
}  # fmt: skip
LEAST = {"num_steps": 1, "fps": 1, "guidance": 0, "sigma_max": 0}  # of those that are numbers
# Fields of a control (examples/inference_cosmos_transfer1_7b.md, preprocessors.py).
CONTROL_FIELDS = ("control_weight", "control_weight_prompt", "input_control", "input_control_prompt", "ckpt_path")
FLAGS = ("offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models")
# Arguments that are ours to give: with another value, what we follow and fetch would not be what is made.
OURS = (
    "--checkpoint_dir", "--video_save_folder", "--video_save_name", "--controlnet_specs", "--num_gpus",
    "--batch_input_path", "--batch_size", "--input_video_path", "--prompt", "--upsample_prompt",
)  # fmt: skip
GIVE_UP_AFTER = 3  # rounds in a row without a video
UPSAMPLED, ORIGINAL, SPEC = "upsampled", "original", "spec"  # where a prompt came from

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How inference runs; field by field as in the config group `inference`, but for:

    controls: the template, JSON text. arguments: what is set of SPEC_ARGUMENTS, JSON text. flags: those that are set.
    image, python: with the defaults of the other groups in place of "". place, container: host and image.
    """

    name: str
    controls: str
    arguments: str
    flags: tuple[str, ...]
    checkpoint_dir: str
    num_gpus: int
    repository: str
    script: str
    torchrun: str
    python: str
    extra_args: tuple[str, ...]
    require_upsampled: bool
    max_attempts: int
    grace_s: float
    time_limit_s: float
    place: HostSettings
    container: ContainerSettings

    @property
    def how(self) -> str:
        """What the time that a video takes depends on, in words."""
        steps = json.loads(self.arguments).get("num_steps")
        gpus = f"{self.num_gpus} GPU{'s' if self.num_gpus > 1 else ''}"
        return f"inference={self.name}, {gpus}" + (f", {steps} steps" if steps else "")


@dataclass(frozen=True, slots=True)
class Choice:
    """The prompt that an item goes with and where it came from, or why it is left out."""

    prompt: str
    source: str
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Take:
    """One item of inference, resolved.

    id: hash of all that its video depends on; "" for one that is left out, which says why. spec: the controlnet spec that
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


def choose_prompt(item: PlanItem, row: Row | None, *, require_upsampled: bool) -> Choice:
    """The prompt that an item goes with. row: its row of results.json, None when nothing was upsampled in this run."""
    if row is None:
        given = json.loads(item.extra).get("upsampled_prompt")
        if isinstance(given, str) and given.strip():
            return Choice(given, SPEC)
    elif row["state"] == "upsampled":
        return Choice(row["upsampled_prompt"], UPSAMPLED)
    elif row["state"] == "failed":
        return Choice("", "", f"its prompt failed: {row['reason']}")
    if require_upsampled:
        return Choice("", "", f"its prompt was not upsampled: {row['reason'] if row else 'nothing was in this run'}")
    return Choice(item.prompt, ORIGINAL) if item.prompt.strip() else Choice("", "", "it has no prompt")


def takes(items: Sequence[PlanItem], rows: Sequence[Row] | None, settings: InferenceSettings) -> tuple[Take, ...]:
    """What goes to inference, in input order, and what is left out. Reads control files, to know them by content."""
    known: dict[Path, str] = {}
    table: Sequence[Row | None] = rows if rows is not None else [None] * len(items)
    return tuple(_take(item, row, settings, known) for item, row in zip(items, table, strict=True))


def _take(item: PlanItem, row: Row | None, settings: InferenceSettings, known: dict[Path, str]) -> Take:
    choice = choose_prompt(item, row, require_upsampled=settings.require_upsampled)
    empty = Take(
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
            overrides[control] = {k: _with_file(k, v, control, item, files, known) for k, v in fields.items()}
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
        if said := wrong_argument(name, value):
            raise _Unusable(f"{name}={value}: {said}")
    return base, {name: {**fields, **changes.get(name, {})} for name, fields in own.items()}, arguments, note


def _ignored(
    extra: Mapping[str, Any], own: Mapping[str, Any], overrides: Mapping[str, Any], not_there: Sequence[str]
) -> Iterator[str]:
    """What an item says about controls that NVIDIA's script does not read."""
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
                yield f"{name}: no such control; is {meant} meant?"


def wrong_argument(name: str, value: object) -> str:
    """What is wrong with one of SPEC_ARGUMENTS; "" when nothing is."""
    if name in ("blur_strength", "canny_threshold"):
        return "" if value in STRENGTHS else f"must be one of {', '.join(STRENGTHS)}"
    if SPEC_ARGUMENTS[name] is str:
        return "" if isinstance(value, str) else "must be text"
    if isinstance(value, bool) or not isinstance(value, int if SPEC_ARGUMENTS[name] is int else int | float):
        return "must be a whole number" if SPEC_ARGUMENTS[name] is int else "must be a number"
    least = LEAST.get(name)
    return "" if least is None or value >= least else f"must be {least} or more"


def _object(value: Any) -> dict[str, Any]:
    """An object field of a prompt file, which in CSV is JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def wrong_weight(weight: object) -> str:
    """What NVIDIA's `validate_controlnet_specs` says against a control_weight; "" when it is right."""
    if isinstance(weight, str) and weight.endswith(".pt"):
        return ""
    try:
        right = float(weight) >= 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        right = False
    return "" if right else f"{weight!r} is neither a number from 0 on nor a .pt file"


def _check_control(name: str, fields: Mapping[str, Any]) -> None:
    if "control_weight" in fields and (wrong := wrong_weight(fields["control_weight"])):
        raise _Unusable(f"{name}.control_weight: {wrong}")


def _with_file(
    field: str, value: Any, control: str, item: PlanItem, files: dict[str, str], known: dict[Path, str]
) -> Any:
    """The value of a field; where it names a file, that file's name in the job folder. Such files travel with the job."""
    is_file = field == "input_control" or (field == "control_weight" and str(value).endswith(".pt"))
    if not is_file or not isinstance(value, str) or not value:
        return value
    path = absolute_video(Path(item.source), value)
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


# --------------------------------------------------------------------------------------------------------- the job


def transfer_argv(settings: InferenceSettings) -> tuple[str, ...]:
    """NVIDIA's command for a batch; {videos}, {spec} and {batch} are put in by launchers/infer.py, for each round."""
    return (
        settings.torchrun, f"--nproc_per_node={settings.num_gpus}", "--nnodes=1", "--node_rank=0", settings.script,
        "--checkpoint_dir", settings.checkpoint_dir,
        "--video_save_folder", "{videos}",
        "--controlnet_specs", "{spec}",
        "--num_gpus", str(settings.num_gpus),
        "--batch_input_path", "{batch}",
        *(f"--{flag}" for flag in settings.flags),
        *settings.extra_args,
    )  # fmt: skip


def infer_argv(
    settings: Settings, inference: InferenceSettings, run_id: str, job: str, root: str, user: str
) -> tuple[str, ...]:
    """The `docker run` that starts the runner of an inference job, detached. settings: from `stage_settings`."""
    command = (settings.container.python, f"{job}/infer.py", job)
    return detached_argv(settings, run_id, job, root, user, inference.checkpoint_dir, command)


def stage_settings(settings: Settings, inference: InferenceSettings) -> Settings:
    """The settings of a run as its inference stage has them: its own place, container and interpreter, and no engine."""
    engine = replace(settings.engine, name="", api_key_env="", grace_s=inference.grace_s)
    return replace(
        settings, engine=engine, place=inference.place, container=inference.container, python=inference.python
    )


def job_record(specs: Sequence[str], settings: InferenceSettings, protocol: int) -> dict[str, Any]:
    """What job.json of an inference job says; specs: the controlnet specs of its groups, JSON text.

    CHECKPOINT_DIR is where NVIDIA's preprocessors look (auxiliary/depth_anything/model/depth_anything.py).
    """
    environment = {"PYTHONPATH": settings.repository, "CHECKPOINT_DIR": settings.checkpoint_dir}
    return {
        "protocol": protocol,
        "argv": transfer_argv(settings),
        "cwd": settings.repository,
        "env": {name: value for name, value in environment.items() if value},
        "groups": [json.loads(spec) for spec in specs],
        "max_attempts": settings.max_attempts,
        "give_up_after": GIVE_UP_AFTER,
        "grace_s": settings.grace_s,
        "time_limit_s": settings.time_limit_s,
    }


def specs_of(wanted: Iterable[Take]) -> tuple[str, ...]:
    """The different controlnet specs, in order of first use."""
    return tuple(dict.fromkeys(take.spec for take in wanted))


def job_line(take: Take, specs: Sequence[str]) -> dict[str, Any]:
    """The line of a batch file in the job folder."""
    return {
        "id": take.id,
        "group": specs.index(take.spec),
        "prompt": take.prompt,
        "video": take.video,
        "controls": json.loads(take.controls),
        "frames": [name for name, _ in take.files],
    }


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
