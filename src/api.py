"""The Python API: `plan`, `run`, `resume` and `results`, with the overrides of the command line.

    from prompt_upsampler import api  # `from src import api` in a checkout

    folder = api.run("prompts=prompts.json", "upsample=best_fit")
    texts = [row["upsampled_prompt"] for row in api.results(folder)]

Errors are the exceptions of `errors`. Nothing is printed without show=True. One call at a time in a process: paths are those
of the working folder, and the log is the process's.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from . import console, log, sweep
from .errors import ExitCode, InputError
from .resolvers import created, is_new
from .run import CONF, config_of, input_error, prepared, run_task
from .run_folder import discard_unused
from .text import hydra_quoted, plain_override

if TYPE_CHECKING:
    from .reports.rows import Row


def plan(*overrides: str, show: bool = False) -> dict[str, Any]:
    """What would run, to the token, as `task=plan console.format=json` prints it; `run` in it is the folder to resume.

    Raises InputError for prompts or a config that cannot work.
    """
    _, text = _call(["task=plan", *overrides, "console.format=json"], show)
    return cast(dict[str, Any], json.loads(text))


def run(*overrides: str, show: bool = False) -> Path:
    """Run what the overrides ask for, to its end; the run folder. Items that failed are no error: `results` has their states.

    Raises UpsamplerError: InputError before anything starts, HostError and EngineError for a run that `resume` takes up.
    """
    return _call([*overrides], show)[0]


def resume(folder: str | Path, *overrides: str, show: bool = False) -> Path:
    """Resume the run in a folder, of a name, or "latest"; else as `run`."""
    return _call([plain_override("resume", str(folder)), *overrides], show)[0]


def results(folder: str | Path) -> Iterator[Row]:
    """The rows of a run's results.json, each read when it is asked for. Raises InputError where there are none."""
    from .overrides import split_override, with_run_folders
    from .reports.compare import rows_of_run

    [named] = with_run_folders([f"run={folder}"])
    return iter(rows_of_run(split_override(named)[1]))


def _call(overrides: list[str], show: bool) -> tuple[Path, str]:
    """Run one task as the command line does; its run folder, and what it printed for programs."""
    captured, logging = io.StringIO(), structlog.get_config()

    def task(raw: DictConfig) -> Path | Exception:
        return _run(raw, captured if "console.format=json" in overrides else None, show)

    try:
        ended = _under_hydra(_checked(overrides), task)
    except sweep.Refused as e:
        reason, _, hint = e.reason.partition("\n  → ")
        raise InputError(reason, hint=hint) from None
    except Exception as e:
        if isinstance(e, (InputError, OSError)) and not isinstance(e, HydraException):
            raise
        raise input_error(e) from e
    finally:
        created.clear()
        structlog.configure(**logging)
    if isinstance(ended, OmegaConfBaseException):
        raise input_error(ended) from ended
    if isinstance(ended, Exception):
        raise ended
    return ended, captured.getvalue()


def _checked(overrides: list[str]) -> list[str]:
    """The overrides as Hydra gets them. Raises InputError, or sweep.Refused, for those that cannot work."""
    if flags := [word for word in overrides if word.startswith("-")]:
        raise InputError(f"{flags[0]}: only overrides are taken", hint="sweeps are for the command line")
    ready = prepared(overrides)
    if "--multirun" in ready:
        raise InputError("resume: the folder of a sweep", hint="resume it on the command line, or each of its points")
    return ready


def _under_hydra(ready: list[str], task: Callable[[DictConfig], Path | Exception]) -> Path | Exception:
    own = [f"file://{Path(word.partition('=')[2]).resolve()}" for word in ready if word.startswith("--config-dir=")]
    given = [word for word in ready if not word.startswith("-")]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name="upsample"):
        hydra = GlobalHydra.instance().hydra
        assert hydra
        searched = [*given, f"hydra.searchpath=[{','.join(map(hydra_quoted, own))}]"]
        return cast(Path | Exception, hydra.run("config", task, searched).return_value)


def _run(raw: DictConfig, captured: io.StringIO | None, show: bool) -> Path | Exception:
    """The run folder of a composed config after its task. An error is returned: Hydra would print one that is raised."""
    root = Path(HydraConfig.get().runtime.output_dir)
    out, err = console.results_console(), console.messages_console()
    if captured is not None:
        out.file = captured
    else:
        out.quiet = not show
    err.quiet = not show
    try:
        config = config_of(raw)
        log.configure(err, root / "log.jsonl", config.console.level.value)
        os.chdir(HydraConfig.get().runtime.cwd)  # also with hydra.job.chdir
        if run_task(config, root, out, err) is ExitCode.INPUT and config.task.name.value == "spec":
            raise InputError("task=spec: some specs cannot be made", hint="show=True prints which, and why")
    except Exception as e:
        return e
    finally:
        if is_new(str(root)):
            discard_unused(root)
    return root
