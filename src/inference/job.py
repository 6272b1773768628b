"""The job folder of inference: NVIDIA's command, job.json, batch lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..hosts.docker import detached_argv
from ..planning.settings import Settings
from .items import Take
from .settings import InferenceSettings

GIVE_UP_AFTER = 3  # rounds in a row without a video


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
