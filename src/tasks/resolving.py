"""What tasks share at their start: the plan, resolved with progress shown, and written down."""

from __future__ import annotations

import shlex
from pathlib import Path

from .. import log
from ..errors import InputError
from ..files import RunPaths, appearing
from ..planning.plan import Plan, read_plan, write_plan
from ..planning.resolve import resolve
from ..text import command_line
from ..timing.progress import showing
from . import Invocation


def resolve_shown(invocation: Invocation, files: list[Path] | None = None) -> Plan:
    """The plan of this config, or of its settings and these prompt files; long probing is shown."""
    config = invocation.config
    with showing(config.console.progress.value, invocation.err) as progress:
        return resolve(config, files=files, on_probe=lambda done, total: progress.step("clips probed", done, total))


# Groups and fields that a run which is taken up again still hears; all else is in its files.
_STILL_HEARD = ("task", "resume", "run", "output", "console", "hydra", "pipeline")


def say_what_is_ignored(invocation: Invocation, decides: str) -> None:
    """Warn of overrides on the command line that have no say any more. decides: the file of the run that has."""
    given = [override.lstrip("+~") for override in shlex.split(invocation.command)[3:]]
    if ignored := [override for override in given if override.split("=")[0].split(".")[0] not in _STILL_HEARD]:
        log.get().warning("ignored", overrides=" ".join(ignored), note=f"the run's {decides} decides")


def refuse_another_run(plan: Plan, paths: RunPaths) -> None:
    """Raises InputError where the folder holds the answers of a run that asked something else."""
    if paths.journal.exists() and paths.plan.exists():
        before = [item.id for item in read_plan(paths.plan).items]
        if before != [item.id for item in plan.items]:
            raise InputError(
                f"{paths.root}: holds another run already, of {len(before)} items",
                hint=f"name another folder; that run goes on with  {command_line('resume', paths.root)}",
            )


def save_plan(plan: Plan, paths: RunPaths) -> None:
    with appearing(paths.plan) as f:
        write_plan(plan, f)
