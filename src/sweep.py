"""How the points of a sweep ended, also those that a launcher runs in other processes or on other machines.

Each point leaves a record in the sweep's folder, which is all that the process that started the sweep learns of it. State
lives here and not in `run`, which runs as `__main__`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write

from .choices import TaskName
from .config import Config
from .console import message, messages_console, report_error, results_console
from .errors import ExitCode, InputError
from .files import relative, write_atomic
from .overrides import leaves_of, secret_among
from .resolvers import created, register
from .run_folder import SWEEP_ENDS, SWEEP_RECORD, discard_unused
from .text import resume_command

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig
    from rich.console import Console

register()  # here, because the callback takes this module, and so schema and resolvers, into a launcher's processes
codes: list[ExitCode] = []  # of the jobs that ran in this process
started: list[Path] = []  # folders of the run and of the sweep, before Hydra writes into them
_records: Path | None = None  # of the sweep that this process started
_is_sent = False  # whether other processes run the points of that sweep


@dataclass(frozen=True, slots=True)
class Ended:
    """A point of a sweep that ended, well or not."""

    number: int
    folder: Path
    code: ExitCode
    overrides: tuple[str, ...] = ()


class Sweep(Callback):
    """What Hydra calls around a sweep, in the process that started it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before Hydra writes into the run folder."""
        _refuse(config, Path(OmegaConf.select(config, "hydra.run.dir")))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the records of an earlier sweep in the same folder, and say where the points log when that is elsewhere."""
        global _records, _is_sent
        folder = Path(config.hydra.sweep.dir)
        _refuse(config, folder)
        subdir = str(OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index,call-overload]
        given = [*config.hydra.overrides.task, *map(str, (config.hydra.sweeper.get("params") or {}).values())]
        if "${" not in subdir and any("," in override or "(" in override for override in given):
            _end(f"hydra.sweep.subdir={subdir}: the points of the sweep would share a folder\n  → leave it out")
        _records, _is_sent = folder / SWEEP_ENDS, is_elsewhere(config.hydra)
        shutil.rmtree(_records, ignore_errors=True)
        if _is_sent:
            logs = str(config.hydra.launcher.get("submitit_folder") or "").split("%")[0]
            print(f"sweep in {folder}" + (f", logs of its points in {logs}" if logs else ""), flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print how each point ended; conclude a sweep that is measured or compared as a whole."""
        if config.task.name is TaskName.limits:
            if _is_sent:
                for job in ended():
                    print(f"point {job.number}: exit code {int(job.code)}  {relative(job.folder)}")
            codes.append(_concluded(config, _measure_limits))
            return
        codes.append(_concluded(config, _tabulate))
        finished = _comparable() if config.task.name is TaskName.upsample else []
        if len(finished) == 2 or (len(finished) > 2 and _is_ab_test()):
            codes.append(_concluded(config, partial(_compare, finished)))


def _refuse(config: DictConfig, folder: Path) -> None:
    """Raises Refused for a config that holds a secret and for another user's folder."""
    started.append(folder)
    own = OmegaConf.to_container(config, resolve=False)
    assert isinstance(own, dict)
    reason = secret_among(leaves_of({key: value for key, value in own.items() if key != "hydra"}))
    if not reason and folder.is_dir() and (foreign := foreign_in(folder)):
        reason = f"{folder}: holds {foreign.name}, and no run: files of others are never overwritten\n  → name another folder"
    if reason:
        _end(reason)


class Refused(SystemExit):
    """A command line or config that cannot work; nothing was started. Hydra makes a warning of every Exception in a callback."""

    def __init__(self, reason: str) -> None:
        super().__init__(int(ExitCode.INPUT))
        self.reason = reason


def _end(reason: str) -> NoReturn:
    for folder in created:
        discard_unused(Path(folder))
    raise Refused(reason)


def foreign_in(folder: Path) -> Path | None:
    """A file in a folder that no run of this program was started in; None where one was, and where there is none."""
    if any((folder / name).exists() for name in ("plan.json", "log.jsonl", SWEEP_RECORD)):
        return None
    return next((entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")), None)


Conclusion = Callable[["Path", Config, "Console", "Console"], ExitCode]  # folder of the sweep, its config, out, err


def _measure_limits(folder: Path, config: Config, out: Console, err: Console) -> ExitCode:
    """Measure the points of a limits sweep together and write its matrix."""
    from .limits import measure

    return measure.conclude(folder, config, out, err)


def _tabulate(folder: Path, config: Config, out: Console, err: Console) -> ExitCode:
    """A table of the points, on the terminal and in files; a message where one is asked for."""
    from .reports import sweep_table
    from .tasks import ending

    points = [sweep_table.Point(job.number, relative(job.folder), job.overrides, job.code) for job in ended()]
    rows = sweep_table.rows_of(points)
    sweep_table.print_rows(rows, folder, out)
    if any(row.record for row in rows):
        sweep_table.write_table(rows, folder / "sweep.csv")
        sweep_table.write_page(rows, folder / "index.html")
        print(f"index.html    {folder / 'index.html'}")
    if url := ending.address(config.notify):
        ends = [{"folder": str(row.point.folder), "exit_code": int(row.point.code), "state": row.words} for row in rows]
        text = f"sweep {folder}: " + "; ".join(row.words for row in rows)
        facts = {"text": text, "sweep": str(folder), "points": ends, "exit_code": int(exit_code())}
        ending.post(url, facts, config.notify.timeout_s)
    return ExitCode.OK


def _compare(runs: list[Path], folder: Path, config: Config, out: Console, err: Console) -> ExitCode:
    """Points side by side, in the folder of the sweep."""
    from .tasks.compare import compare

    try:
        compare([str(run) for run in runs], config.pair_by, folder, out)
    except InputError as e:  # nobody asked for it
        message(f"not compared: {e.message}")
    return ExitCode.OK


def _is_ab_test() -> bool:
    """Whether the points differ in who the prompts are for, or in who writes them."""
    names = ("target", "model", "target.template", "template")
    given = ({o.lstrip("+") for o in job.overrides if o.lstrip("+").partition("=")[0] in names} for job in ended())
    return len(set(map(frozenset, given))) > 1


def _comparable() -> list[Path]:
    """The points that ended with results."""
    return [relative(job.folder) for job in ended() if (job.folder / "results.json").is_file()]


def _concluded(raw: DictConfig, conclude: Conclusion) -> ExitCode:
    """What is done once all points have ended."""
    from . import log

    own = copy.deepcopy(raw)
    with read_write(own), open_dict(own):
        del own["hydra"]
    config = cast(Config, OmegaConf.to_object(own))
    folder = relative(Path(raw.hydra.sweep.dir))
    out, err = results_console(), messages_console()
    log.configure(err, folder / "log.jsonl", config.console.level.value)
    try:
        return conclude(folder, config, out, err)
    except KeyboardInterrupt:
        message(f"\nstopped; nothing is lost. Resume the sweep:\n  {resume_command(folder)}")
        raise
    except Exception as e:  # Hydra would make a warning of it, and the exit code would not tell
        return report_error(e, folder)


def record(code: ExitCode) -> None:
    """Keep how the job that runs in this process ended; in a sweep for the process that started it, too."""
    codes.append(code)
    config = HydraConfig.get()
    if config.mode == RunMode.MULTIRUN:
        facts = {"exit_code": int(code), "folder": config.runtime.output_dir, "overrides": list(config.overrides.task)}
        path = Path(config.sweep.dir) / SWEEP_ENDS / f"{config.job.num}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(facts))


def ended() -> list[Ended]:
    """The jobs that ended, of the sweep that this process started."""
    found = []
    for path in _records.glob("*.json") if _records else ():
        facts = json.loads(path.read_text(encoding="utf-8"))
        overrides = tuple(facts.get("overrides", ()))
        found.append(Ended(int(path.stem), Path(facts["folder"]), ExitCode(facts["exit_code"]), overrides))
    return sorted(found, key=lambda job: job.number)


def exit_code() -> ExitCode:
    """The highest of all jobs, wherever they ran."""
    return max([*codes, *(job.code for job in ended())], default=ExitCode.OK)


def discard_if_unused() -> None:
    """Remove the folder of the sweep that this process started, where nothing was."""
    if (
        _records
        and codes
        and set(codes) <= {ExitCode.OK, ExitCode.INPUT, ExitCode.INTERRUPTED}
        and str(_records.parent) in created
    ):
        discard_unused(_records.parent)


def sent_from() -> Path | None:
    """Folder of the sweep that this process started and whose points other processes run, if there is one."""
    return _records.parent if _records and _is_sent else None


def is_elsewhere(hydra: HydraConf) -> bool:
    """Whether the jobs run in other processes than the one that was started, several at the same time."""
    return hydra.mode == RunMode.MULTIRUN and hydra.runtime.choices["hydra/launcher"] != "basic"
