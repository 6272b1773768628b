"""The jobs of this program on a host, running or ended, and their removal: nothing else there is touched."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import HostError
from ..planning.settings import HostSettings
from . import docker, slurm
from .connect import root_on
from .host import Host, checked, reading, script
from .mirror import REMOVE

_JOBS = """
cd "$1/jobs" 2>/dev/null || exit 0
for job in *; do
  [ -d "$job/batches" ] && [ -d "$job/frames" ] || continue
  answered=$(cat "$job/results.jsonl" 2>/dev/null | wc -l)
  state=ended
  [ -e "$job/lock" ] && ! flock -n "$job/lock" true && state=running
  # Others start its worker, perhaps later, and on a node whose lock is not seen here.
  [ "$2" != shared ] || [ -e "$job/exit.json" ] || [ -e "$job/cancelled" ] || [ -e "../ended/$job" ] || state=running
  echo "$answered $state $(du -sk "$job" | cut -f1) $job"
done
"""
_JOB_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class StaleJob:
    """A job on a host. has_folder and containers tell what of it there is."""

    job_id: str
    status: str
    answered: int
    kib: int
    has_folder: bool
    containers: tuple[str, ...]


def jobs_on(host: Host, settings: HostSettings) -> list[StaleJob]:
    """All jobs below host.root; without Docker there are no containers."""
    root, kind = root_on(host, settings), "shared" if settings.kind == "pool" else ""
    with reading(host, checked(host.run(script(_JOBS, root, kind)), host, "jobs cannot be listed")) as listed:
        rows = (line.split(" ", 3) for line in listed.splitlines())
        folders = {
            row[3]: (int(row[0]), row[1], int(row[2])) for row in rows if len(row) == 4 and _JOB_ID.fullmatch(row[3])
        }
    found, in_cluster = _containers(host, settings, root), _in_cluster(host, settings)
    jobs = []
    for job_id in sorted({*folders, *(job for job, _, _ in found)}):
        if not _JOB_ID.fullmatch(job_id):
            continue  # not a job of this program
        answered, status, kib = folders.get(job_id, (0, "ended", 0))
        own = [(name, state) for job, name, state in found if job == job_id]
        if job_id in in_cluster or any(state.startswith("Up") for _, state in own):
            status = "running"
        jobs.append(StaleJob(job_id, status, answered, kib, job_id in folders, tuple(name for name, _ in own)))
    return jobs


def _in_cluster(host: Host, settings: HostSettings) -> set[str]:
    """The jobs that Slurm runs or queues; raises HostError when it does not answer."""
    if settings.kind != "slurm":
        return set()
    names = checked(host.run((*slurm.SQUEUE, "--format=%j")), host, "Slurm's jobs cannot be listed")
    return {name.removeprefix(slurm.NAME) for name in names.decode().split()}


def _containers(host: Host, settings: HostSettings, root: str) -> list[tuple[str, str, str]]:
    """Job, name and status of each container of a job."""
    try:
        done = host.run(docker.list_argv(settings, root))
    except HostError:
        return []  # no docker command on this machine
    if done.code:
        return []
    rows = (line.split("\t", 2) for line in done.out.decode("utf-8", "replace").splitlines())
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def remove(host: Host, settings: HostSettings, job: StaleJob) -> None:
    """Remove an ended job's container and folder."""
    root = root_on(host, settings)
    for name in job.containers:
        done = host.run((*settings.docker, "rm", name))
        checked(done, host, f"container of {job.job_id}")
    if job.has_folder:
        done = host.run(script(REMOVE, f"{root}/jobs/{job.job_id}", root))
        checked(done, host, f"folder of {job.job_id}")
