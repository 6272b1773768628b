"""What a run can do: one module per task, all with one signature, `run(invocation) -> ExitCode`.

Tasks talk to people and put the other packages together; they do not import one another. One that continues with another
hands over with `run_task`.
"""

from __future__ import annotations

import importlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import seals
from ..choices import OutputFormat, TaskName
from ..config import Config, TaskConf
from ..errors import ExitCode, HostError, InputError
from ..files import is_safe_name
from ..run_folder import LATEST, RunPaths
from ..text import overrides_in
from ..timing.progress import Progress, progress_display
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

    @property
    def run_name(self) -> str:
        """The name of the run that this starts; the points of a sweep are numbered."""
        name = self.config.name
        return f"{name}-{self.paths.root.name}" if name and self.in_sweep else name

    @property
    def wants_json(self) -> bool:
        return self.config.console.format is OutputFormat.json

    def progress(self, expected_s: float | None = None) -> AbstractContextManager[Progress]:
        """A progress display for people, for what is expected to take so long."""
        return progress_display(self.config.console.progress.value, self.err, expected_s)

    def print_json(self, value: Any) -> None:
        """One JSON document, all that goes to standard output."""
        self.print(json.dumps(value, ensure_ascii=True, allow_nan=False, indent=1))


WITH_JSON = (TaskName.status, TaskName.plan, TaskName.runs, TaskName.doctor)


def run_invocation(invocation: Invocation) -> ExitCode:
    """Run the task that the config names. With resume= and no task, the folder decides which one that is."""
    config = invocation.config
    name = config.task.name
    _check(config, invocation.in_sweep)
    try:
        if folder := config.resume or config.run:
            refuse_foreign_run(RunPaths(Path(folder)), config)
        return _run(invocation, name)
    except InvalidRecord as e:
        raise HostError(str(e), hint="the file is damaged: remove it, then resume the run") from None


def refuse_foreign_run(paths: RunPaths, config: Config) -> None:
    """Raises InputError for another user's run folder that names what this command line does not."""
    from ..inference.pipeline_file import read_pipeline
    from ..planning import trust
    from ..planning.plan_file import read_plan

    if paths.plan.exists() and not seals.holds(paths.plan):
        trust.refuse_foreign(paths.plan, read_plan(paths.plan).settings, config, trust.OF_A_PLAN)
    if paths.pipeline.exists() and not (seals.holds(paths.pipeline) or config.pipeline.again):
        trust.refuse_foreign(paths.pipeline, read_pipeline(paths)[1], config, trust.OF_INFERENCE)


def _run(invocation: Invocation, name: TaskName) -> ExitCode:
    config = invocation.config
    folder = config.resume or (config.run if name is TaskName.upsample else None)
    if folder and name in (TaskName.upsample, TaskName.attach):
        return resume(invocation, folder)
    return run_task(invocation, name)


def _check(config: Config, in_sweep: bool) -> None:
    """Reject what no task can make sense of."""
    if config.console.format is OutputFormat.json and (in_sweep or config.task.name not in WITH_JSON):
        raise InputError(
            f"console.format=json: {'a sweep' if in_sweep else f'task={config.task.name.value}'} prints no JSON",
            hint=f"it is for tasks {', '.join(name.value for name in WITH_JSON)}; other results are in files",
        )
    if config.name and (config.name == LATEST or not is_safe_name(config.name)):
        raise InputError(
            f"name={config.name}: is not a name for a run",
            hint=f"use letters, digits, dots, hyphens and underscores, and not the word {LATEST}",
        )


def resume(invocation: Invocation, folder: str) -> ExitCode:
    """Resume whatever lies in a run folder."""
    from ..runs.saved_run import kind_of

    config = invocation.config
    name = TaskName(kind_of(RunPaths(Path(folder))))
    given = {override.lstrip("+").partition("=")[0] for override in overrides_in(invocation.command)}
    if (
        name is TaskName.review
        and given & {"retry", "output.exports"}
        and not any(key[:7] == "review." for key in given)
    ):
        name = TaskName.upsample  # the verdicts count there too
    config = replace(config, task=TaskConf(name), resume=folder, run=folder)
    return run_task(replace(invocation, config=config), name)


def run_task(invocation: Invocation, name: TaskName, **options: Any) -> ExitCode:
    """Run a task; its module is imported now, and no other. options: keywords that its `run` takes."""
    if invocation.config.detach and name in (TaskName.pipeline, TaskName.limits):
        raise InputError(
            f"detach=true: task={name.value} needs its controller between its stages",
            hint="keep it running in tmux or as a service; it can be interrupted and resumed at any time",
        )
    module = importlib.import_module(f"{__name__}.{name.value}")
    code: ExitCode = module.run(invocation, **options)
    return code
