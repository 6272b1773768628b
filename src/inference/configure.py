"""The config group `inference` becomes a frozen value; what NVIDIA's parser would refuse is rejected before anything starts."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import InputError
from ..hosts.docker import WORKSPACE
from ..planning import gpus
from ..planning.configure import checked, host_settings, image_settings
from ..planning.settings import Settings
from ..worker.records import to_json
from .settings import CONTROLS, FLAGS, RESERVED_ARGS, SPEC_ARGUMENTS, InferenceSettings, wrong_argument, wrong_weight


def inference_settings(config: Config, run: Settings | None) -> InferenceSettings:
    """The inference of this config, on its host; run: the settings of the run whose prompts go in, None for a new one.

    A config that names no host uses the run's. Raises InputError with all that is wrong.
    """
    chosen, image = config.inference, image_settings(config)
    place = host_settings(config)
    if run is not None and place.kind == "local":
        place = run.host
        image = image if image.reference else run.image
    reference = chosen.image or image.reference
    python = chosen.python or (image.python if reference else "")
    if not python:
        python = sys.executable if place.kind == "local" else config.worker.python
    arguments = {name: getattr(chosen, name) for name in SPEC_ARGUMENTS if getattr(chosen, name) is not None}
    settings = InferenceSettings(
        name=chosen.name,
        controls=json.dumps(chosen.controls, sort_keys=True),
        arguments=json.dumps(arguments, sort_keys=True),
        flags=tuple(flag for flag in FLAGS if getattr(chosen, flag)),
        checkpoint_dir=chosen.checkpoint_dir,
        num_gpus=chosen.num_gpus,
        repository=chosen.repository.rstrip("/") or (WORKSPACE if reference and image.repository else ""),
        script=chosen.script,
        torchrun=chosen.torchrun,
        python=python,
        extra_args=tuple(chosen.extra_args),
        require_upsampled=chosen.require_upsampled,
        max_attempts=chosen.max_attempts,
        grace_s=chosen.grace_s,
        time_limit_s=chosen.time_limit_s,
        host=place,
        image=replace(image, reference=reference, python=python),
    )
    if wrong := [*_wrong_controls(chosen.controls), *_wrong_arguments(settings, arguments), *_wrong_place(settings)]:
        raise InputError("the config cannot be used for inference:\n" + "\n".join(f"  - {w}" for w in wrong))
    return checked(InferenceSettings, "inference", to_json(settings))


def _wrong_controls(controls: dict[str, Any]) -> list[str]:
    if not controls:
        return ["inference.controls: is empty; choose inference=edge, depth, seg, vis, keypoint or multi"]
    wrong = [
        f"inference.controls.{name}: must be one of {', '.join(CONTROLS)}" for name in controls if name not in CONTROLS
    ]
    for name, fields in controls.items():
        if not isinstance(fields, dict):
            wrong.append(f"inference.controls.{name}: must be an object, as in {{control_weight: 1.0}}")
        elif "control_weight" in fields and (reason := wrong_weight(fields["control_weight"])):
            wrong.append(f"inference.controls.{name}.control_weight: {reason}")
    return wrong


def _wrong_arguments(settings: InferenceSettings, arguments: dict[str, Any]) -> list[str]:
    wrong = [
        f"inference.{name}={value}: {reason}"
        for name, value in arguments.items()
        if (reason := wrong_argument(name, value))
    ]
    for word in settings.extra_args:
        if word.partition("=")[0] in RESERVED_ARGS:
            wrong.append(f"inference.extra_args: {word} is managed by the program")
    if settings.max_attempts < 1 or settings.grace_s < 0 or settings.time_limit_s < 0:
        wrong.append("inference: max_attempts must be 1 or more, grace_s and time_limit_s 0 or more")
    return wrong


def _wrong_place(settings: InferenceSettings) -> list[str]:
    wrong = []
    if not settings.checkpoint_dir:
        wrong.append("inference.checkpoint_dir: is needed, the folder above nvidia/Cosmos-Transfer1-7B on the host")
    elif settings.image.reference and not settings.checkpoint_dir.startswith("/"):
        wrong.append(
            "inference.checkpoint_dir: must be an absolute path on the host, because it is mounted into the container"
        )
    if not settings.repository and not settings.script.startswith("/"):
        wrong.append("inference.repository: is needed, the checkout of cosmos-transfer1 that has inference.script")
    try:
        named = gpus.devices(settings.host.gpus)
    except ValueError as e:
        return [*wrong, f"host.gpus={e}"]
    if settings.num_gpus < 1 or (named and len(named) < settings.num_gpus):
        wrong.append(f"inference.num_gpus={settings.num_gpus}: must be 1 or more, and host.gpus={settings.host.gpus}")
    return wrong


def refuse_what_is_missing(settings: InferenceSettings) -> None:
    """Raises InputError for what is missing on this machine, before prompts are upsampled for nothing."""
    if settings.host.kind != "local" or settings.image.reference:
        return
    script = Path(settings.repository, settings.script)  # an absolute script stands alone
    wanted = {
        f"inference.checkpoint_dir={settings.checkpoint_dir}": Path(settings.checkpoint_dir).is_dir(),
        f"inference.script={script}": script.is_file(),
        f"inference.torchrun={settings.torchrun}": shutil.which(settings.torchrun) is not None,
    }
    if missing := [what for what, is_there in wanted.items() if not is_there]:
        raise InputError("what inference needs is missing:\n" + "\n".join(f"  - {what}" for what in missing))
