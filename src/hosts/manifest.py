"""What starts the workers of host=pool: an Indexed Job of Kubernetes, and an array of Slurm that is also a plain script.

Both hold launchers/pool_worker.sh, which runs on its own there. Fields of the Job are those of the API batch/v1.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..files import bundled
from ..planning.settings import HostSettings, ImageSettings
from ..worker.protocol import LOAD_FAILED, NO_ACCESS
from .slurm import STOP_BEFORE_S

CLEANUP_S = 30  # to end the engine, after engine.grace_s
SHM = "/dev/shm"


@dataclass(frozen=True, slots=True)
class PodSettings:
    """What a pod asks for; field by field as in the config block `manifest`."""

    namespace: str
    claim: str
    mount: str
    gpus: int
    gpu_resource: str
    cpus: float
    memory: str
    retries: int
    env_from: str


@dataclass(frozen=True, slots=True)
class PoolWorkers:
    """The workers of a run: the names of their job folders, in order of their numbers, and what runs each. python: without a
    container."""

    jobs: Sequence[str]
    python: str
    host: HostSettings
    image: ImageSettings
    grace_s: float
    secrets: Sequence[str] = ()

    def command(self, root: str, python: str) -> tuple[str, ...]:
        """The arguments of launchers/pool_worker.sh."""
        return (root, python, *self.jobs)


def slurm_script(workers: PoolWorkers) -> str:
    """slurm.sh; outside of Slurm, WORKER=NUMBER chooses the worker that it runs."""
    options = (
        f"--job-name=upsample-{workers.jobs[0]}", f"--array=0-{len(workers.jobs) - 1}", "--requeue", "--open-mode=append",
        f"--signal=B:TERM@{STOP_BEFORE_S}", *workers.host.sbatch,
    )  # fmt: skip
    head = ["#!/bin/sh", *(f"#SBATCH {_directive(' '.join(option.split()))}" for option in options)]
    return "\n".join([*head, f"set -- {shlex.join(workers.command(workers.host.root, workers.python))}", _launcher()])


def _directive(option: str) -> str:
    """An option as a directive has it: one with a value is one word, or two with a blank between."""
    name, _, value = option.partition(" ")
    return shlex.quote(option) if "=" in name or not value else f"{name} {shlex.quote(value)}"


def kubernetes_job(workers: PoolWorkers, pod: PodSettings, uid: int, gid: int) -> dict[str, Any]:
    """The Indexed Job. uid, gid: who owns the shared folder; the pods run as that, unless it is root."""
    count = len(workers.jobs)
    # A pod that was evicted or preempted is no failure of its worker; a model that cannot be loaded is none the second time.
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [LOAD_FAILED, NO_ACCESS]}},
    ]
    spec = {
        "completions": count,
        "parallelism": count,
        "completionMode": "Indexed",
        "backoffLimitPerIndex": pod.retries,
        "maxFailedIndexes": count,
        "podReplacementPolicy": "Failed",  # never two pods in one folder
        "podFailurePolicy": {"rules": rules},
        "template": {"spec": _pod(workers, pod, uid, gid)},
    }
    name = {"name": f"upsample-{workers.jobs[0]}"} | ({"namespace": pod.namespace} if pod.namespace else {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": spec}


def _pod(workers: PoolWorkers, pod: PodSettings, uid: int, gid: int) -> dict[str, Any]:
    user = (
        {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
            "fsGroup": gid,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
        if uid
        else {}
    )
    volumes: list[dict[str, Any]] = [{"name": "root", "persistentVolumeClaim": {"claimName": pod.claim}}]
    if workers.image.shm_size:
        size = _quantity(workers.image.shm_size)
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(workers.grace_s) + CLEANUP_S,
        "automountServiceAccountToken": False,
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(workers, pod)],
        "volumes": volumes,
    }


def _container(workers: PoolWorkers, pod: PodSettings) -> dict[str, Any]:
    mount = pod.mount or workers.host.root
    devices = {pod.gpu_resource: str(pod.gpus)} if pod.gpus else {}
    mounts = [{"name": "root", "mountPath": mount}]
    if workers.image.shm_size:
        mounts.append({"name": "shm", "mountPath": SHM})
    return {
        "name": "worker",
        "image": workers.image.reference,
        "command": ["sh", "-c", _launcher(), "pool_worker.sh"],
        "args": list(workers.command(mount, workers.image.python)),
        "env": [{"name": "HOME", "value": "/tmp"}, *_environment(workers, pod.env_from)],
        "resources": {
            "requests": {"cpu": f"{pod.cpus:g}", "memory": pod.memory, **devices},
            "limits": {"memory": pod.memory, **devices},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }


def _environment(workers: PoolWorkers, secret: str) -> list[Mapping[str, Any]]:
    """NAME=VALUE as it is; a mere NAME, and secrets, from the Secret of the cluster."""
    pairs = dict(entry.split("=", 1) for entry in workers.image.env if "=" in entry)
    names = dict.fromkeys([*(entry for entry in workers.image.env if "=" not in entry), *workers.secrets])
    given = [{"name": name, "value": value} for name, value in pairs.items()]
    return [*given, *({"name": n, "valueFrom": {"secretKeyRef": {"name": secret, "key": n}}} for n in names)]


def _quantity(size: str) -> str:
    """A size of Docker's, as 8g, as a quantity of Kubernetes."""
    parts = re.fullmatch(r"([\d.]+)\s?([kmgtp]?)i?b?", size.strip().lower())
    if parts is None:
        raise InputError(f"image.shm_size={size}: is no size", hint="as in 512m or 16g")
    number, unit = parts.groups()
    return f"{number}{unit.capitalize()}i" if unit else number


def _launcher() -> str:
    return bundled("launchers/pool_worker.sh").read_text()
