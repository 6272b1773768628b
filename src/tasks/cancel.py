"""`task=cancel run=FOLDER`: ask a run's workers to finish what they have in flight and end. What is answered stays."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from .. import log
from ..errors import ExitCode, HostError, InputError
from ..hosts.job_handle import handle_of_plan
from ..inference.generate import open_handles
from ..inference.pipeline_file import read_pipeline
from ..run_folder import RunPaths
from ..runs import render_tasks
from ..runs.saved_run import jobs_of
from ..text import resume_command
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when no worker runs any more."""
    if not invocation.config.run:
        raise InputError("task=cancel: which run?", hint="name its folder: run=outputs/DATE/TIME")
    paths = RunPaths(Path(invocation.config.run))
    with ExitStack() as stack:
        if handles := {job.root.name: handle for job, handle in open_handles(paths)}:  # then upsampling is over
            grace_s, is_awaited = read_pipeline(paths)[1].grace_s, False
        else:
            plan, jobs = jobs_of(paths)
            grace_s = plan.settings.engine.grace_s
            is_awaited = plan.settings.host.kind == "pool"  # a worker that is not there yet may come
            if renderer := render_tasks.renderer(plan.settings):
                stack.callback(render_tasks.cancel, paths.root, renderer)  # after the workers, whatever they meet
            handles = {job.root.name: handle_of_plan(plan, job, place.settings) for place, job in jobs}
        running, unreached = {}, None
        for name, handle in [*handles.items()]:
            stack.callback(handle.close)
            try:
                state = handle.peek().state
                if state.is_alive or is_awaited:
                    handle.ask_to_stop()
                if state.is_alive:
                    running[name] = handle
                    log.get().info("waiting_for_requests_in_flight", job=name)
            except HostError as e:  # the others are cancelled first
                unreached = e
                del handles[name]
        patience_s = grace_s + invocation.config.host.command_timeout_s
        deadline = time.monotonic() + patience_s
        for handle in running.values():
            while handle.peek().state.is_alive:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the worker does not end within {patience_s:g} s (its grace_s, and host.command_timeout_s)",
                        hint="inspect it with task=status log=true",
                    )
                time.sleep(handle.poll_s)
        for name, handle in handles.items():
            invocation.print(f"{name}  {handle.peek().state.label}; resume:  {resume_command(paths.root)}")
    if unreached:
        raise unreached
    return ExitCode.OK
