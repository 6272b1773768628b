"""The job of inference: NVIDIA's command, job.json, batch lines, how its worker is started."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..hosts.launch import Launch
from ..worker.protocol import PROTOCOL, InferItem, InferJob
from .items import InferenceItem
from .settings import InferenceSettings

GIVE_UP_AFTER = 3  # rounds in a row without a video


def transfer_argv(settings: InferenceSettings) -> tuple[str, ...]:
    """NVIDIA's command for a batch; {videos}, {spec} and {batch} are replaced by the worker, for each round."""
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


def launch_of(inference: InferenceSettings, run_id: str) -> Launch:
    """How the worker of an inference job is started."""
    return Launch(
        host=inference.host,
        image=inference.image,
        python=inference.python,
        checkpoint=inference.checkpoint_dir,
        grace_s=inference.grace_s,
        run_id=run_id,
    )


def infer_job(specs: Sequence[str], settings: InferenceSettings) -> InferJob:
    """The job.json of an inference job; specs: the controlnet specs of its groups, JSON text.

    CHECKPOINT_DIR is where NVIDIA's preprocessors look (auxiliary/depth_anything/model/depth_anything.py).
    """
    environment = {"PYTHONPATH": settings.repository, "CHECKPOINT_DIR": settings.checkpoint_dir}
    return InferJob(
        protocol=PROTOCOL,
        argv=transfer_argv(settings),
        cwd=settings.repository,
        env={name: value for name, value in environment.items() if value},
        groups=tuple(json.loads(spec) for spec in specs),
        max_attempts=settings.max_attempts,
        give_up_after=GIVE_UP_AFTER,
        grace_s=settings.grace_s,
        time_limit_s=settings.time_limit_s,
    )


def specs_of(wanted: Iterable[InferenceItem]) -> tuple[str, ...]:
    """The different controlnet specs, in order of first use."""
    return tuple(dict.fromkeys(take.spec for take in wanted))


def infer_item(take: InferenceItem, specs: Sequence[str]) -> InferItem:
    """The line of a batch file in the job folder."""
    return InferItem(
        id=take.id,
        group=specs.index(take.spec),
        prompt=take.prompt,
        video=take.video,
        controls=json.loads(take.controls),
        frames=tuple(name for name, _ in take.files),
    )
