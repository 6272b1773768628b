"""The entry point: `python -m src.run`. Hydra composes the config, a task carries it out, the exit code tells how.

Home of Hydra, together with src.config and src.sweep. What is heavy is imported inside the task, so that --help and
--cfg are fast.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import __version__, sweep
from .config import Config, ProgressMode, TaskName
from .errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _job(raw: DictConfig) -> None:
    """One run. It leaves its exit code and raises nothing, so that a bad point does not stop a sweep."""
    try:
        sweep.record(_run(raw))
    except KeyboardInterrupt:
        sweep.record(ExitCode.INTERRUPTED)
        raise


def _run(raw: DictConfig) -> ExitCode:
    """Errors end here, as a message and an exit code."""
    from rich.console import Console

    from . import log

    config = cast(Config, OmegaConf.to_object(raw))
    if added := _added(raw, Config):
        print(f"error: the config has no field {', '.join(added)}", file=sys.stderr)
        return ExitCode.INPUT
    hydra_config = HydraConfig.get()
    if sweep.is_elsewhere(hydra_config) and config.console.progress is ProgressMode.auto:
        config.console.progress = ProgressMode.lines  # bars of several processes would paint over one another
    root = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode is RunMode.MULTIRUN and config.console.level.value in ("debug", "info"):
        sweep.say(f"── point {hydra_config.job.num}: {' '.join(hydra_config.overrides.task)}")
    out, err = sweep.console_for_results(), Console(stderr=True)
    log.configure(err, root / "log.jsonl", config.console.level.value)
    try:
        return _carry_out(config, root, out, err)
    except KeyboardInterrupt:
        begun = (root / "plan.json").exists()
        again = f"nothing is lost. Take it up again:\n  {_go_on(root, config)}" if begun else "nothing was begun"
        sweep.say(f"\nstopped; {again}")
        raise
    except Exception as e:
        code = sweep.told(e, root, _go_on(root, config))
        if config.console.traceback and code is ExitCode.BUG:
            err.print_exception()
        return code


def _added(raw: DictConfig, kind: type, prefix: str = "") -> list[str]:
    """Fields that the command line added with + and the schema does not know."""
    known = get_type_hints(kind)
    found = []
    for key in map(str, raw):
        if key not in known:
            found.append(prefix + key)
        elif is_dataclass(known[key]):
            found += _added(raw[key], cast(type, known[key]), f"{prefix}{key}.")
    return found


def _no_run_to_resume(arguments: list[str]) -> str | None:
    """Why resume= cannot be, None when it can: looked at before Hydra makes the folder that it names."""
    for argument in arguments:
        key, value = _override(argument)
        if key in ("resume", "run") and value not in ("", "null") and not (Path(value) / "plan.json").is_file():
            if not Path(value).is_dir():
                return f"{key}={value}: there is no such folder"
            return f"{key}={value}: the folder has no plan.json, so no run was begun in it; start it anew"
    return None


def _override(argument: str) -> tuple[str, str]:
    """Key and value of an override, without what marks it as added or removed, and without quotes."""
    key, _, value = argument.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":  # as Hydra takes quotes off
        value = re.sub(r"\\([\"'])", r"\1", value[1:-1])
    return key.lstrip("+~"), value


# Overrides that say what a run was about, not how it was made.
_OF_THE_RUN_ITSELF = ("task", "prompts", "run", "runs", "resume", "reuse", "log", "yes", "probe")


def with_inherited(arguments: list[str]) -> list[str]:
    """The command line of task=review review.rerun=true, with the overrides of that run before those given now.

    What is asked again is asked as it was, but for what this command line says.
    """
    given = dict(_override(argument) for argument in arguments)
    if given.get("review.rerun", "").lower() != "true" or not given.get("run"):
        return arguments
    try:
        old = [str(o) for o in OmegaConf.load(Path(given["run"]) / ".hydra" / "overrides.yaml")]
    except FileNotFoundError:
        return arguments
    kept = (o for o in old if (key := _override(o)[0]) not in (*given, *_OF_THE_RUN_ITSELF) and key[:7] != "review.")
    return [*arguments, *kept]


def _carry_out(config: Config, root: Path, out: Console, err: Console) -> ExitCode:
    import shlex

    from .files import RunPaths
    from .tasks import Invocation, carry_out

    command = shlex.join(["python", "-m", "src.run", *HydraConfig.get().overrides.task])
    in_sweep = HydraConfig.get().mode is RunMode.MULTIRUN
    return carry_out(Invocation(config, RunPaths(sweep.shown(root)), command, out, err, in_sweep))


# How a run of a task that is not upsample is taken up again.
_COMES_BACK = {
    TaskName.pipeline: "task=pipeline run",
    TaskName.limits: "task=limits resume",
    TaskName.review: "task=review run",
}


def _go_on(path: Path, config: Config) -> str:
    """The command that takes a run up again."""
    from .text import command_line

    return command_line(_COMES_BACK.get(config.task.name, "resume"), sweep.shown(path))


def main() -> None:
    """Run, and end with the highest exit code of all jobs."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors to us, in place of printing them
    # systemd, Slurm and Docker end a program so, and mean what Ctrl-C means.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "--version" in sys.argv[1:]:
        print(f"prompt upsampler {__version__}")
        sys.exit(0)
    try:
        if reason := _no_run_to_resume(sys.argv[1:]):
            sweep.say(f"error: {reason}")
            sweep.codes.append(ExitCode.INPUT)
        else:
            sys.argv[1:] = with_inherited(sys.argv[1:])
            _job()
    except KeyboardInterrupt:
        if folder := sweep.sent_from():
            sweep.say(
                f"\nstopped waiting for the sweep in {folder}; points that are on a cluster go on, the others can be "
                "taken up again, each with resume= and its folder"
            )
        sweep.codes.append(ExitCode.INTERRUPTED)
    except Exception as e:
        if isinstance(e, OSError) and not isinstance(e, HydraException):
            sweep.say(f"error: {e.filename or ''}: {e.strerror or e}")
            sweep.codes.append(ExitCode.HOST)
        elif wants_traceback:
            raise
        else:
            sweep.codes.append(_refused(e))
    sys.stdout.flush()
    sys.exit(int(sweep.exit_code()))


# Where the part of Hydra's messages begins that speaks of Hydra.
_NOT_FOR_PEOPLE = re.compile(r"\n(?:To append to your config|See https://hydra.cc|Config search path)")


def _refused(error: Exception) -> ExitCode:
    """Say what Hydra or a launcher raised; the exit code for it."""
    if sweep.sent_from() and not isinstance(error, (HydraException, OmegaConfBaseException)):
        sweep.say(
            f"error: the launcher ended the sweep: {error}\n  → points that had started may still be running; what "
            "they made is in their folders"
        )
        return ExitCode.BUG
    hint = _meant(str(error)) or "the config was refused and nothing was started; --help shows what there is"
    if isinstance(error, MissingConfigException) and (error.missing_cfg_file or "").startswith("hydra/launcher/"):
        hint = "launchers are an extra: pip install hydra-joblib-launcher hydra-submitit-launcher"
    said = _NOT_FOR_PEOPLE.split(str(error))[0].rstrip(".")
    cause = str(error.__cause__ or "").split("\n")[0]  # of a wrong value: which values there are
    if cause and cause not in said:
        said += f": {cause}"
    sweep.say(f"error: {said}\n  → {hint}")
    return ExitCode.INPUT


def _meant(said: str) -> str:
    """For a name that the config does not have: the names that look like it, "" where there is none."""
    import difflib

    if not (found := re.search(r"Could not override '([^']+)'", said)):
        return ""
    name = found[1]
    known = [*_names(Config), "hydra.run.dir", "hydra.sweep.dir"]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all groups and fields of the schema."""
    for name, node in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(node):
            yield from _names(cast(type, node), f"{prefix}{name}.")


if __name__ == "__main__":
    main()
