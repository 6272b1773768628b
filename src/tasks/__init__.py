"""What a run can do: one module per task, all with one signature, `run(invocation) -> ExitCode`.

Tasks talk to people and put the other packages together; they do not import one another. One that goes on with another
hands over with `run_task`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import Config, TaskConf, TaskName
from ..errors import ExitCode
from ..run_folder import RunPaths

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of the program: what is asked, in which run folder, by which command, and where to write for people.

    out: results, for pipes and files. err: progress and messages. in_sweep: whether it is one point of several.
    """

    config: Config
    paths: RunPaths
    command: str
    out: Console
    err: Console
    in_sweep: bool = False

    def print(self, text: str) -> None:
        """A line of results: as it is, whatever brackets and characters it has, and not broken to fit the terminal."""
        self.out.print(text, markup=False, highlight=False, soft_wrap=True)


def run_invocation(invocation: Invocation) -> ExitCode:
    """Run the task that the config names. With resume= and no task, the folder decides which one that is."""
    name = invocation.config.task.name
    if invocation.config.resume and name in (TaskName.upsample, TaskName.attach):
        return resume(invocation, invocation.config.resume)
    return run_task(invocation, name)


def resume(invocation: Invocation, folder: str) -> ExitCode:
    """Resume whatever lies in a run folder."""
    from ..runs.saved_run import kind_of

    name = TaskName(kind_of(RunPaths(Path(folder))))
    config = replace(invocation.config, task=TaskConf(name), resume=folder, run=folder)
    return run_task(replace(invocation, config=config), name)


def run_task(invocation: Invocation, name: TaskName, **options: Any) -> ExitCode:
    """Run a task; its module is imported now, and no other. options: keywords that its `run` takes."""
    module = importlib.import_module(f"{__name__}.{name.value}")
    code: ExitCode = module.run(invocation, **options)
    return code
