"""What a run can do: one module per task, all with one signature, `run(invocation) -> ExitCode`.

Tasks talk to people and put the other packages together; they do not import one another. One that goes on with another
hands over with `run_task`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import seals
from ..config import Config, TaskConf, TaskName
from ..errors import ExitCode, HostError
from ..run_folder import RunPaths
from ..worker.records import InvalidRecord

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
    config = invocation.config
    name = config.task.name
    try:
        if folder := config.resume or config.run:
            refuse_foreign_run(RunPaths(Path(folder)), config)
        return _run(invocation, name)
    except InvalidRecord as e:
        raise HostError(str(e), hint="the file is damaged: remove it, then resume the run") from None


def refuse_foreign_run(paths: RunPaths, config: Config) -> None:
    """Raises InputError for a run folder of somebody else that names what this command line does not."""
    from ..inference.pipeline_file import read_pipeline
    from ..planning import trust
    from ..planning.plan_file import read_plan

    if paths.plan.exists() and not seals.holds(paths.plan):
        trust.refuse_foreign(paths.plan, read_plan(paths.plan).settings, config, trust.OF_A_PLAN)
    if paths.pipeline.exists() and not (seals.holds(paths.pipeline) or config.pipeline.again):
        trust.refuse_foreign(paths.pipeline, read_pipeline(paths)[1], config, trust.OF_INFERENCE)


def _run(invocation: Invocation, name: TaskName) -> ExitCode:
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
