"""`task=cancel run=FOLDER`: ask a run's worker to finish what it has in flight and end. What is answered stays."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from .. import log
from ..errors import ExitCode, HostError, InputError
from ..inference.generate import open_sites
from ..inference.pipeline_file import read_pipeline
from ..run_folder import RunPaths
from ..runs.saved_run import jobs_of, looked_at, opened
from ..text import command_line
from . import Invocation

PATIENCE_S = 30.0  # beyond the grace time of the worker


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when no worker runs any more."""
    if not invocation.config.run:
        raise InputError("task=cancel: which run?", hint="name its folder: run=outputs/DATE/TIME")
    paths = RunPaths(Path(invocation.config.run))
    with ExitStack() as stack:
        sites = {job.root.name: site for job, site in open_sites(paths)}  # then upsampling is over
        if sites:
            grace_s = read_pipeline(paths)[1].grace_s
            for site in sites.values():
                looked_at(site)
        else:
            plan, parts = jobs_of(paths)
            grace_s = plan.settings.engine.grace_s
            sites = {job.root.name: opened(part, job) for part, job in parts}
        for site in sites.values():
            stack.callback(site.close)
        running = {name: site for name, site in sites.items() if site.glance().state.status == "running"}
        for name, site in running.items():
            site.ask_to_stop()
            log.get().info("waiting_for_what_is_in_flight", job=name)
        deadline = time.monotonic() + grace_s + PATIENCE_S
        for site in running.values():
            while site.glance().state.status == "running":
                if time.monotonic() > deadline:
                    raise HostError("the worker does not end", hint="look at it with task=status log=true")
                time.sleep(site.poll_s)
        again = command_line("task=pipeline run" if paths.pipeline.exists() else "resume", paths.root)
        for name, site in sites.items():
            state = site.glance().state
            said = f"ended: {state.ending}" if state.ending else state.status
            invocation.out.print(
                f"{name}  {said}; what is missing:  {again}", markup=False, highlight=False, soft_wrap=True
            )
    return ExitCode.OK
