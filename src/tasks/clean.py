"""`task=clean host=NAME`: list what ended jobs left on a host, and remove it after asking. Running jobs stay."""

from __future__ import annotations

from ..errors import ExitCode
from ..hosts import stale_jobs
from ..hosts.connect import connect
from ..planning.configure import machines_of
from ..planning.settings import HostSettings
from . import Invocation
from .confirm import agrees


def run(invocation: Invocation) -> ExitCode:
    for settings in machines_of(invocation.config):
        _clean(settings, invocation)
    return ExitCode.OK


def _clean(settings: HostSettings, invocation: Invocation) -> None:
    host, out = connect(settings), invocation.out
    try:
        found = stale_jobs.jobs_on(host, settings)
        ended = [job for job in found if job.status != "running"]
        for job in found:
            what = " + ".join(w for w, has in (("folder", job.has_folder), ("container", bool(job.containers))) if has)
            note = "  stays" if job not in ended else ""
            size = f"{job.kib / 1024:.1f} MiB"
            out.print(
                f"{job.job_id}  {job.status:8} {job.answered:>7} answered  {size:>12}  {what}{note}", markup=False
            )
        if not ended:
            out.print(f"nothing to remove on {settings.name}")
            return
        if not agrees(
            invocation, f"Remove {len(ended)} ended job(s) on {settings.name}? Answers not fetched yet are lost"
        ):
            out.print("nothing was removed")
            return
        for job in ended:
            stale_jobs.remove(host, settings, job)
        out.print(f"{len(ended)} removed")
    finally:
        host.close()
