"""The start of a task: its plan, resolved with progress, or a warning about what a resumed run ignores."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

from .. import log
from ..files import write_atomic
from ..planning.plan import Plan
from ..planning.resolve import resolve
from ..runs.saved_run import refuse_another_run, save_plan
from ..text import overrides_in
from . import Invocation


def resolve_with_progress(invocation: Invocation, files: list[Path] | None = None) -> Plan:
    """The plan of this config, or of its settings and these prompt files, with a progress display."""
    config = invocation.config
    with invocation.progress() as progress:
        return resolve(config, files=files, step=progress.step)


# Groups and fields that still count when a run is resumed; all else is in its files.
_STILL_USED = ("task", "resume", "run", "retry", "output", "console", "hydra", "pipeline", "notify", "detach")


def warn_ignored_overrides(invocation: Invocation, decides: str) -> None:
    """Warn of overrides on the command line that no longer count. decides: the file of the run that does."""
    given = [override.lstrip("+~") for override in overrides_in(invocation.command)]
    if ignored := [override for override in given if override.split("=")[0].split(".")[0] not in _STILL_USED]:
        log.get().warning("ignored", overrides=" ".join(ignored), note=f"the run's {decides} decides")


def saved_plan(
    invocation: Invocation, command: str = "", files: list[Path] | None = None, most: int | None = None
) -> Plan:
    """A new plan in its run folder, with the command that started it. Raises InputError where the folder holds another run.

    command: another one, that the run may become. files: prompt files in place of those that the config names. most: so many
    items at most.
    """
    plan, paths = resolve_with_progress(invocation, files), invocation.paths
    refuse_another_run(plan, paths)
    if most is not None:
        first = tuple(islice((item for item in plan.items if item.fits), most))
        plan = replace(plan, items=first, batches=(tuple(item.id for item in first),))
    save_plan(plan, paths, invocation.run_name)
    write_atomic(paths.command, (command or invocation.command) + "\n")
    return plan
