"""`task=manifest`: a planned run, and what starts its workers on Kubernetes, on Slurm or by hand, on a disk that all share."""

from __future__ import annotations

import os
import shlex
from contextlib import closing
from dataclasses import replace
from typing import Any

from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..hosts.connect import connect, root_on
from ..hosts.job_folder import open_job
from ..hosts.manifest import PodSettings, PoolWorkers, kubernetes_job, slurm_script
from ..planning.configure import checked
from ..planning.partition import places
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..run_folder import RunPaths, locked
from ..runs import staging
from ..text import resume_command
from . import Invocation
from .resolving import saved_plan


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when the files are in the run folder; nothing is started."""
    config, paths = invocation.config, invocation.paths
    with locked(paths, config.output.lock_timeout_s):
        plan = read_plan(paths.plan) if config.run or config.resume else saved_plan(invocation)
        workers = _workers(plan, paths)
        slurm, kubernetes = paths.root / "slurm.sh", paths.root / "job.yaml"
        write_atomic(slurm, slurm_script(workers))
        if workers.image.reference:
            pod = checked(PodSettings, "manifest", vars(config.manifest))
            write_atomic(kubernetes, _yaml(kubernetes_job(workers, pod, os.getuid(), os.getgid())))
    invocation.print(f"{len(workers.jobs)} workers for {len(plan.distinct_ids):,} items, in {workers.host.root}")
    invocation.print(f"controller    {resume_command(paths.root)}")
    if workers.image.reference:
        invocation.print(f"Kubernetes    kubectl apply -f {shlex.quote(str(kubernetes))}")
    else:
        invocation.print("Kubernetes    image.reference=IMAGE also writes job.yaml")
    invocation.print(f"Slurm         sbatch {shlex.quote(str(slurm))}")
    invocation.print(f"by hand       WORKER=0 sh {shlex.quote(str(slurm))}")
    return ExitCode.OK


def _workers(plan: Plan, paths: RunPaths) -> PoolWorkers:
    """The workers of a run, each with its job folder, whose name is fixed from now on."""
    settings = plan.settings
    if settings.host.kind != "pool":
        raise InputError(
            f"host={settings.host.name}: its workers are started by this program",
            hint="task=manifest is for host=pool host.root=FOLDER host.workers=N",
        )
    jobs = []
    for place in places(plan):
        jobs.append(staging.job_folder(plan, paths.jobs, place.name))
        open_job(jobs[-1], staging.upsample_job(plan, place.name))
    with closing(connect(settings.host)) as host:
        root = root_on(host, settings.host)
    return PoolWorkers(
        jobs=[job.root.name for job in jobs],
        python=settings.python,
        host=replace(settings.host, root=root),
        image=settings.image,
        grace_s=settings.engine.grace_s,
        secrets=(settings.engine.api_key_env,) if settings.engine.api_key_env else (),
    )


def _yaml(value: object) -> str:
    """As YAML, where a text of several lines is written as such."""
    import yaml

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_representer(str, text)
    return str(yaml.dump(value, Dumper=dumper, sort_keys=False, width=120))
