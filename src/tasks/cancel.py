"""`task=cancel run=FOLDER`: ask a run's worker to finish what it has in flight and end. What is answered stays."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from src import log
from src.errors import ExitCode, HostError, InputError
from src.paths import RunPaths
from src.tasks import Invocation
from src.tasks.status import jobs_of, opened

PATIENCE_S = 30.0  # beyond the grace time of the worker


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when no worker runs any more."""
    if not invocation.config.run:
        raise InputError("task=cancel: which run?", hint="name its folder: run=outputs/DATE/TIME")
    plan, parts = jobs_of(RunPaths(Path(invocation.config.run)))
    with ExitStack() as stack:
        sites = {job.root.name: opened(part, job) for part, job in parts}
        for site in sites.values():
            stack.callback(site.close)
        running = {name: site for name, site in sites.items() if site.glance().state.status == "running"}
        for name, site in running.items():
            site.ask_to_stop()
            log.get().info("waiting_for_what_is_in_flight", job=name)
        deadline = time.monotonic() + plan.settings.engine.grace_s + PATIENCE_S
        for site in running.values():
            while site.glance().state.status == "running":
                if time.monotonic() > deadline:
                    raise HostError("the worker does not end", hint="look at it with task=status log=true")
                time.sleep(site.poll_s)
        for name, site in sites.items():
            state = site.glance().state
            said = f"ended: {state.ending}" if state.ending else state.status
            invocation.out.print(
                f"{name}  {said}; what is missing:  python -m src.run resume={invocation.config.run}", markup=False
            )
    return ExitCode.OK
