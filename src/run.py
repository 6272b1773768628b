"""The entry point: `python -m src.run`. Hydra composes the config, one task runs, and its exit code is the program's.

What is heavy is imported inside the task, so that --help and --cfg are fast.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import __version__, console, interrupts, overrides, seals, sweep
from .choices import ProgressMode
from .config import Config
from .errors import ExitCode, InputError
from .files import bundled, relative
from .help import help_text
from .resolvers import created, is_new, members
from .run_folder import SWEEP_RECORD, discard_unused
from .shortcuts import expanded
from .text import PROGRAM, resume_command

if TYPE_CHECKING:
    from rich.console import Console


CONF = bundled("conf")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(raw: DictConfig) -> None:
    """One run. It leaves its exit code and raises nothing, so that a bad point does not stop a sweep."""
    code = ExitCode.INTERRUPTED
    try:
        code = _run(raw)
    finally:
        sweep.record(code)
        folder = HydraConfig.get().runtime.output_dir
        if code in (ExitCode.OK, ExitCode.INPUT, ExitCode.INTERRUPTED) and is_new(folder):
            discard_unused(Path(folder))


def _run(raw: DictConfig) -> ExitCode:
    """Errors end here, as a message and an exit code."""
    from . import log

    try:
        config = config_of(raw)
    except InputError as e:
        console.message(f"error: {e.message}")
        return ExitCode.INPUT
    except OmegaConfBaseException as e:
        return _refused(e)
    hydra_config = HydraConfig.get()
    os.chdir(hydra_config.runtime.cwd)  # also with hydra.job.chdir: paths are those of the folder of the command
    if sweep.is_elsewhere(hydra_config) and config.console.progress is ProgressMode.auto:
        config.console.progress = ProgressMode.lines  # bars of several processes would paint over one another
    root = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN and config.console.level.value in ("debug", "info"):
        console.message(f"── point {hydra_config.job.num}: {' '.join(hydra_config.overrides.task)}")
    out, err = console.results_console(), console.messages_console()
    log.configure(err, None, config.console.level.value)  # if its file cannot be opened
    try:
        log.configure(err, root / "log.jsonl", config.console.level.value)
        return run_task(config, root, out, err)
    except KeyboardInterrupt:
        started = (root / "plan.json").exists()
        whole = Path(hydra_config.sweep.dir) if hydra_config.mode is RunMode.MULTIRUN else root
        command = resume_command(relative(whole))
        console.message(
            f"\nstopped; nothing is lost. Resume:\n  {command}" if started else "\nstopped; nothing was started"
        )
        raise
    except Exception as e:
        code = console.report_error(e, root)
        if config.console.traceback and code is ExitCode.BUG:
            err.print_exception()
        return code


def config_of(raw: DictConfig) -> Config:
    """The config that Hydra has composed. Raises InputError for fields that it does not have."""
    if unknown := overrides.unknown_fields(raw, Config):
        raise InputError(f"the config has no field {', '.join(unknown)}")
    config = cast(Config, OmegaConf.to_object(raw))
    config.fleet = members(config.host)
    return config


def _seal_records(root: Path) -> None:
    """Seal the command lines that Hydra has just written down; later starts take them over."""
    hydra_config = HydraConfig.get()
    records = [root / ".hydra" / "overrides.yaml"] if hydra_config.output_subdir == ".hydra" else []
    if hydra_config.mode is RunMode.MULTIRUN:
        records.append(Path(hydra_config.sweep.dir) / SWEEP_RECORD)
    for record in filter(Path.is_file, records):
        seals.seal(record)


def run_task(config: Config, root: Path, out: Console, err: Console) -> ExitCode:
    """The task of the config that Hydra has composed, in its run folder."""
    from .run_folder import RunPaths
    from .tasks import Invocation, ending

    _seal_records(root)
    command = f"{PROGRAM} {shlex.join(HydraConfig.get().overrides.task)}".rstrip()
    in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    return ending.run(Invocation(config, RunPaths(relative(root)), command, out, err, in_sweep))


def prepared(arguments: list[str]) -> list[str]:
    """The command line as Hydra gets it. Raises sweep.Refused for one that cannot work."""
    given = overrides.as_texts(overrides.with_own_conf(arguments, CONF))
    given = overrides.with_lists(overrides.with_run_folders(given))
    secret = overrides.secret_among(map(overrides.split_override, given))
    if reason := secret or overrides.why_not_resumable(given) or overrides.why_not_readable(given, CONF):
        raise sweep.Refused(reason)
    try:
        ready = overrides.resumed_sweep(overrides.with_inherited(overrides.quoted(overrides.flags_first(given))))
    except ValueError as e:
        raise sweep.Refused(str(e)) from None
    if ready != given and (reason := overrides.why_not_readable(ready, CONF)):
        raise sweep.Refused(reason)
    created.extend(overrides.new_folders(given))
    return ready


def _information(arguments: list[str]) -> str:
    """What --version or --help print; "" without them."""
    if "--version" in arguments:
        return f"prompt upsampler {__version__}"
    if {"--help", "-h"} & {*arguments}:
        return help_text(arguments, overrides.own_conf(CONF), shutil.get_terminal_size().columns)
    return ""


def _written_out(arguments: list[str]) -> list[str]:
    """Short commands as overrides, and the user's own options found; says what became of the command line."""
    try:
        typed = expanded(arguments)
    except ValueError as e:
        raise sweep.Refused(str(e)) from None
    if typed != arguments and not overrides.secret_among(map(overrides.split_override, typed)):
        console.message(f"→ {PROGRAM} {shlex.join(typed)}")
    given = overrides.with_own_conf(typed, CONF)
    if given != typed:
        console.message(f"options of {Path('conf').resolve()} are used")
    return given


def main() -> None:
    """Run, and end with the highest exit code of all jobs."""
    console.accept_any_terminal()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, in place of printing them
    interrupts.listen()
    gc.set_threshold(20_000)  # there are many records, and no cycles among them
    try:
        if text := _information(sys.argv[1:]):
            print(text)
            console.flush()
            sys.exit(0)
        sys.argv[1:] = prepared(_written_out(sys.argv[1:]))
        if not overrides.may_set_mode(sys.argv[1:], CONF):
            Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]  # for which it composes the config once more
        _job()
    except sweep.Refused as e:
        console.message(f"error: {e.reason}")
        sweep.codes.append(ExitCode.INPUT)
    except KeyboardInterrupt:
        if folder := sweep.sent_from():
            console.message(
                f"\nstopped waiting for the sweep in {folder}; points on a cluster keep running. Resume the others:\n"
                f"  {resume_command(folder)}"
            )
        sweep.codes.append(ExitCode.INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        pass
    except Exception as e:
        if isinstance(e, OSError) and not isinstance(e, HydraException):
            sweep.codes.append(_not_written(e))
        elif wants_traceback:
            raise
        else:
            sweep.codes.append(_refused(e))
    code = sweep.exit_code()
    sweep.discard_if_unused()
    console.flush()
    sys.exit(int(code))


def _not_written(error: OSError) -> ExitCode:
    """Report a file that Hydra could not write into the folder of a run or sweep."""
    is_file = isinstance(error, (FileExistsError, NotADirectoryError))  # where a folder is named
    if is_file or not sweep.started:
        console.message(f"error: {error.filename or ''}: {error.strerror or error}")
        return ExitCode.INPUT if is_file else ExitCode.HOST
    from . import log

    log.configure(console.messages_console(), None, "info")
    return console.report_error(error, sweep.started[-1])


# Where the part of Hydra's messages begins that is about Hydra.
_ABOUT_HYDRA = re.compile(r"\n(?:To append to your config|See https://hydra.cc|Config search path)")
_FIELD = re.compile(r"\n\s*full_key: (\S+)")  # in those of OmegaConf


def _refused(error: Exception) -> ExitCode:
    """Report what Hydra or a launcher raised; the exit code for it."""
    if sweep.sent_from() and not isinstance(error, (HydraException, OmegaConfBaseException)):
        console.message(
            f"error: the launcher ended the sweep: {error}\n  → points that had started may still be running; their results "
            "are in their folders"
        )
        return ExitCode.BUG
    console.message(f"error: {input_error(error)}")
    return ExitCode.INPUT


def input_error(error: Exception) -> InputError:
    """What Hydra raised about a config, in words for people."""
    text = _ABOUT_HYDRA.split(str(error))[0].rstrip(".")
    if isinstance(error, OverrideParseException) and not text.startswith("Ambiguous"):
        text = f"{error.override!r} is neither FIELD=VALUE nor a flag"
    elif field := _FIELD.search(text):
        text = f"{field[1]}: {text.splitlines()[0]}"
    cause = str(error.__cause__ or "").split("\n")[0]  # of a wrong value: which values there are
    if cause and cause not in text:
        text += f": {cause}"
    hint = overrides.did_you_mean(text) or "the config was rejected and nothing was started; --help lists what there is"
    if isinstance(error, MissingConfigException) and (error.missing_cfg_file or "").startswith("hydra/launcher/"):
        hint = "launchers are the extra cluster: pip install hydra-joblib-launcher hydra-submitit-launcher"
    return InputError(text, hint=hint)


if __name__ == "__main__":
    main()
