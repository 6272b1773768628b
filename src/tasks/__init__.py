"""What a run can do: one module a task, all with one signature, `run(invocation) -> ExitCode`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import Config
from ..errors import ExitCode
from ..run_folder import RunPaths

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the program: what is asked, in which run folder, by which command, and where to talk to people.

    out: results, for pipes and files. err: progress and messages. sweep: whether it is one point of several.
    """

    config: Config
    paths: RunPaths
    command: str
    out: Console
    err: Console
    sweep: bool = False


def carry_out(invocation: Invocation) -> ExitCode:
    """Run the task that the config names; its module is imported now, and no other."""
    module = importlib.import_module(f"{__name__}.{invocation.config.task.name.value}")
    code: ExitCode = module.run(invocation)
    return code
