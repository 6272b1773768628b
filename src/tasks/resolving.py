"""What tasks share at their start: the plan, resolved with progress shown, and written down."""

from __future__ import annotations

import shlex
from pathlib import Path

from .. import log
from ..planning.plan import Plan
from ..planning.resolve import resolve
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
