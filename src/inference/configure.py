"""The config group `inference` becomes a frozen value; what NVIDIA's parser would refuse is rejected before anything starts."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from ..config import Config
from ..errors import InputError
from ..hosts.docker import WORKSPACE
from ..planning import gpus
from ..planning.configure import checked, image_settings, one_machine
from ..planning.settings import Settings
from ..worker.records import to_json
from .engines import ENGINES
from .engines.engine import Refused
from .settings import ARGUMENTS, FLAGS, InferenceSettings
from .vocabulary import CONTROLS, Asked, request_of


def inference_settings(config: Config, run: Settings | None) -> InferenceSettings:
    """The inference of this config, on its host; run: the settings of the run whose prompts go in, None for a new one.

    A config that names no host uses the run's. Raises InputError with all that is wrong.
    """
    chosen, image = config.inference, image_settings(config)
    place = one_machine(config, "videos are made on")
    if run is not None and place.kind == "local":
        place = run.host
        image = image if image.reference else run.image
    reference = chosen.image or image.reference
    python = chosen.python or (image.python if reference else "")
    if not python:
        python = sys.executable if place.kind == "local" else config.worker.python
    if chosen.engine not in ENGINES:
        raise InputError(f"inference.engine={chosen.engine}: must be one of {', '.join(ENGINES)}")
    arguments = {name: getattr(chosen, name) for name in ARGUMENTS if getattr(chosen, name) is not None}
    arguments |= chosen.arguments
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
        engine=chosen.engine,
        checkpoint=chosen.checkpoint,
        hf_home=chosen.hf_home,
        keep_controls=chosen.keep_controls,
        ignore=tuple(chosen.ignore),
        upscale=config.pipeline.upscale,
    )
    if wrong := [*_wrong_keys(settings), *_wrong_arguments(settings), *_wrong_place(settings)]:
        raise InputError("the config cannot be used for inference:\n" + "\n".join(f"  - {w}" for w in wrong))
    return checked(InferenceSettings, "inference", to_json(settings))


def upscaling(settings: InferenceSettings) -> InferenceSettings:
    """The same with NVIDIA's 4K upscaler, as conf/inference/upscale.yaml has it, for videos that these settings made."""
    control, arguments = {"upscale": {"control_weight": 0.5}}, {"num_steps": 10}
    return replace(
        settings,
        name="upscale",
        controls=json.dumps(control),
        arguments=json.dumps(arguments),
        upscale=False,
        ignore=(),
        require_upsampled=False,  # of such prompts, the videos were made
    )


def _wrong_keys(settings: InferenceSettings) -> list[str]:
    if settings.controls == "{}":
        return ["inference.controls: is empty; choose inference=edge, depth, seg, vis, keypoint or multi"]
    if unknown := [name for name in json.loads(settings.controls) if name not in CONTROLS]:
        return [f"inference.controls.{unknown[0]}: must be one of {', '.join(settings.engine_of.controls.values())}"]
    engine, template = settings.engine_of, settings.template
    if settings.upscale and "upscale" not in engine.controls:
        return [
            f"pipeline.upscale=true: {engine.title} has no upscaler; upscale its videos with inference/engine=transfer1"
        ]
    try:  # as an item that has no controls: it brings a clip, and what it lacks is its own affair
        request_of(replace(engine, problem=lambda request: ""), template, Asked(), "", "clip.mp4")
    except Refused as e:
        return [
            f"inference.{'controls.' if part.split('.')[0].split(':')[0] in CONTROLS else ''}{part}"
            for part in str(e).split("; ")
        ]
    return []


def _wrong_arguments(settings: InferenceSettings) -> list[str]:
    engine = settings.engine_of
    reserved = {word.lstrip("-").replace("_", "-"): word for word in engine.reserved}
    wrong = [
        f"inference.extra_args: {word} is managed by the program"
        for word in settings.extra_args
        if word.startswith("-") and word.partition("=")[0].lstrip("-").replace("_", "-") in reserved
    ]
    words = [word for argument in settings.extra_args for word in argument.replace("_", "-").split("=", 1)]
    if ("--parallelism-preset", "throughput") in pairwise(words):
        wrong.append(
            "inference.extra_args: --parallelism-preset=throughput makes several videos at a time, and hides which one ended a call"
        )
    wrong += [
        f"inference.{flag}: {engine.title} has no such option" for flag in settings.flags if flag not in engine.flags
    ]
    if settings.max_attempts < 1 or settings.grace_s < 0 or settings.time_limit_s < 0:
        wrong.append("inference: max_attempts must be 1 or more, grace_s and time_limit_s 0 or more")
    return wrong


def _wrong_place(settings: InferenceSettings) -> list[str]:
    wrong = []
    engine = settings.engine_of
    if not settings.checkpoint_dir and not engine.needs_hub:
        wrong.append("inference.checkpoint_dir: is needed, the folder above nvidia/Cosmos-Transfer1-7B on the host")
    for name in ("checkpoint_dir", "hf_home"):
        if settings.image.reference and (folder := getattr(settings, name)) and not folder.startswith("/"):
            wrong.append(
                f"inference.{name}: must be an absolute path on the host, because it is mounted into the container"
            )
    if engine.needs_hub and not settings.reaches_hub:
        wrong.append(
            f"inference.hf_home: is needed, the folder of the Hugging Face hub's cache on the host, for {engine.title}'s "
            "models come from there, and the container has no network; or allow image.network=host"
        )
    if not settings.repository and not settings.script.startswith("/"):
        wrong.append(f"inference.repository: is needed, the checkout that has {engine.script[-1]}")
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
    script = settings.script or settings.engine_of.script[-1].replace(".py", "").replace(".", "/") + ".py"
    script_file = Path(settings.repository, script)  # an absolute script stands alone
    folders = {name: getattr(settings, name) for name in ("checkpoint_dir", "hf_home") if getattr(settings, name)}
    wanted = {f"inference.{name}={folder}": Path(folder).is_dir() for name, folder in folders.items()} | {
        f"inference.script={script_file}": script_file.is_file(),
        f"inference.torchrun={settings.torchrun}": shutil.which(settings.torchrun) is not None,
    }
    if missing := [what for what, is_there in wanted.items() if not is_there]:
        raise InputError("what inference needs is missing:\n" + "\n".join(f"  - {what}" for what in missing))
