"""The job of inference: NVIDIA's command, job.json, batch lines, how its worker is started."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from ..hosts.launch import Launch
from ..worker.protocol import PROTOCOL, InferItem, InferJob
from .items import InferenceItem
from .settings import InferenceSettings

GIVE_UP_AFTER = 3  # rounds in a row without a video


def launch_of(inference: InferenceSettings, run_id: str) -> Launch:
    """How the worker of an inference job is started; the hub's cache is mounted, unless a mount of the image has it."""
    mounted = {mount.split(":")[0] for mount in inference.image.mounts}
    return Launch(
        host=inference.host,
        image=inference.image,
        python=inference.python,
        checkpoint=inference.checkpoint_dir,
        grace_s=inference.grace_s,
        run_id=run_id,
        files=(inference.hf_home,) if inference.hf_home and inference.hf_home not in mounted else (),
    )


def infer_job(specs: Sequence[str], settings: InferenceSettings) -> InferJob:
    """The job.json of an inference job; specs: what its groups have in common, JSON text.

    CHECKPOINT_DIR is where preprocessors of older checkouts of Cosmos-Transfer1 look for their models; those of newer ones look
    into the hub's cache, which without network must not be asked for anything newer.
    """
    is_offline = settings.hf_home and settings.image.reference and settings.image.network in ("", "none")
    environment = {
        "PYTHONPATH": settings.repository,
        "CHECKPOINT_DIR": "" if settings.engine_of.needs_hub else settings.checkpoint_dir,
        "HF_HOME": settings.hf_home,
        "HF_HUB_OFFLINE": "1" if is_offline else "",
    }
    return InferJob(
        protocol=PROTOCOL,
        argv=settings.engine_of.command(settings),
        cwd=settings.repository,
        env={name: value for name, value in environment.items() if value},
        groups=tuple(json.loads(spec) for spec in specs),
        max_attempts=settings.max_attempts,
        give_up_after=GIVE_UP_AFTER,
        grace_s=settings.grace_s,
        time_limit_s=settings.time_limit_s,
        engine=settings.engine,
        keep_controls=settings.keep_controls,
    )


def specs_of(wanted: Iterable[InferenceItem]) -> tuple[str, ...]:
    """The different groups, in order of first use."""
    return tuple(dict.fromkeys(take.group for take in wanted))


def infer_item(take: InferenceItem, specs: Sequence[str]) -> InferItem:
    """The line of a batch file in the job folder."""
    return InferItem(
        id=take.id,
        group=specs.index(take.group),
        prompt=take.prompt,
        video=take.video,
        controls={},
        line=json.loads(take.line),
        frames=tuple(name for name, _ in take.files),
    )
