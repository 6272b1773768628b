"""The command line before Hydra reads it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from .config import Config
from .run_folder import LATEST, OUTPUTS, SWEEP_RECORD, named_run
from .text import hydra_quoted


def unknown_fields(raw: DictConfig, kind: type, prefix: str = "") -> list[str]:
    """Fields that the command line added with + and the schema does not know."""
    known = get_type_hints(kind)
    found = []
    for key in map(str, raw):
        if key not in known:
            found.append(prefix + key)
        elif is_dataclass(known[key]):
            found += unknown_fields(raw[key], cast(type, known[key]), f"{prefix}{key}.")
    return found


def with_run_folders(arguments: list[str]) -> list[str]:
    """The command line with folders in place of `latest` and of runs' names, in resume=, run= and runs=[A,B]."""

    def folder(value: str, resumes: bool) -> str:
        is_name = value == LATEST or (value not in ("", "null") and not Path(value).is_dir())
        found = named_run(value, resumes=resumes) if is_name else None
        return str(found or value)

    replaced = []
    for argument in arguments:
        key, value = split_override(argument)
        if key == "runs":
            parts = [part.strip() for part in value.strip("[]").split(",")]
            runs = [part if part[:1] in "'\"" else folder(part, False) for part in parts]
            argument = argument if runs == parts else f"runs=[{','.join(map(hydra_quoted, runs))}]"
        elif key in ("resume", "run") and (found := folder(value, key == "resume")) != value:
            argument = f"{key}={hydra_quoted(found)}"
        replaced.append(argument)
    return replaced


def new_folders(arguments: list[str]) -> list[str]:
    """The folders that a command line names for a new run or sweep, and that are not there yet."""
    named = dict(map(split_override, arguments))
    folders = [named.get("hydra.run.dir"), named.get("hydra.sweep.dir")]
    return [folder for folder in folders if folder and not Path(folder).exists()]


def why_not_resumable(arguments: list[str]) -> str | None:
    """Why a folder cannot be resumed, None when it can: checked before Hydra creates the folder that resume= names."""
    for argument in arguments:
        key, value = split_override(argument)
        if key not in ("resume", "run") or value in ("", "null") or (Path(value) / "plan.json").is_file():
            continue
        if value == LATEST:
            return f"{key}={value}: there is no run in {OUTPUTS}/ yet"
        if not Path(value).is_dir():
            named = "" if "/" in value else ", and no run of that name in outputs/ (task=runs lists them)"
            return f"{key}={value}: there is no such folder{named}"
        if key == "run" or not (Path(value) / SWEEP_RECORD).is_file():
            return f"{key}={value}: the folder has no plan.json, so no run was started in it; start a new one"
    return None


def resumed_sweep(arguments: list[str]) -> list[str]:
    """For resume= with the folder of a sweep: the command line that started it, in the same folder; points that ended are
    not run again. Other command lines as they are."""
    given = dict(split_override(argument) for argument in arguments)
    folder = given.get("resume", "")
    record = Path(folder) / SWEEP_RECORD
    if not folder or (Path(folder) / "plan.json").is_file() or not record.is_file():
        return arguments
    started = OmegaConf.load(record).hydra.overrides
    saved = [str(o) for o in (*started.hydra, *started.task)]
    kept = [o for o in saved if split_override(o)[0] not in (*given, "hydra.mode", "hydra.sweep.dir")]
    new = [argument for argument in arguments if split_override(argument)[0] != "resume"]
    return ["--multirun", *kept, *new, f"hydra.sweep.dir={hydra_quoted(folder)}"]


def flags_first(arguments: list[str]) -> list[str]:
    """The command line with --multirun before the overrides: between two of them, Hydra's parser does not know it."""
    flags = [argument for argument in arguments if argument in ("--multirun", "-m")]
    return [*flags, *(argument for argument in arguments if argument not in flags)]


def quoted(arguments: list[str]) -> list[str]:
    """Overrides whose values have characters that Hydra's grammar reserves, with the quotes that it needs.

    Only those that it cannot read as they are: host.gpus=device=0, image.env=[NAME=VALUE], a path with a comma in it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()

    def is_readable(override: str) -> bool:
        try:
            parser.parse_override(override)
        except HydraException:
            return False
        return True

    def with_quotes(argument: str) -> str:
        key, _, value = argument.partition("=")
        if argument.startswith("-") or not value or is_readable(argument):
            return argument
        if value.startswith("[") and value.endswith("]"):
            value = f"[{','.join(hydra_quoted(part.strip()) for part in value[1:-1].split(','))}]"
        else:
            value = hydra_quoted(value)
        return f"{key}={value}" if is_readable(f"{key}={value}") else argument

    return [with_quotes(argument) for argument in arguments]


def split_override(argument: str) -> tuple[str, str]:
    """Key and value of an override, without what marks it as added or removed, and without quotes."""
    key, _, value = argument.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":  # as Hydra takes quotes off
        value = re.sub(r"\\([\"'])", r"\1", value[1:-1])
    return key.lstrip("+~"), value


# Overrides that say what a run was about, not how it was made.
_OF_THE_RUN_ITSELF = ("task", "prompts", "run", "runs", "resume", "reuse", "log", "yes", "probe")


def with_inherited(arguments: list[str]) -> list[str]:
    """The command line of task=review review.rerun=true, with the overrides of that run before those given now.

    What is asked again is asked as before, except for what this command line changes.
    """
    given = dict(split_override(argument) for argument in arguments)
    if given.get("review.rerun", "").lower() != "true" or not given.get("run"):
        return arguments
    try:
        old = [str(o) for o in OmegaConf.load(Path(given["run"]) / ".hydra" / "overrides.yaml")]
    except FileNotFoundError:
        return arguments
    kept = (
        o for o in old if (key := split_override(o)[0]) not in (*given, *_OF_THE_RUN_ITSELF) and key[:7] != "review."
    )
    return [*arguments, *kept]


def did_you_mean(error: str) -> str:
    """For a name or a value that the config does not have: those that look like it, "" where there is none."""
    if ambiguous := re.search(r"Ambiguous value for argument '([^=']+)=(.*)'\n", error):
        text = shlex.quote(f"{ambiguous[1]}={hydra_quoted(ambiguous[2])}")
        return f"a text with a comma is quoted twice, once for the shell and once for Hydra: {text}"
    if option := re.search(r"Could not find '([^']+)/([^'/]+)'", error):
        return _near(option[2], re.findall(r"^\t(\S+)$", error, re.MULTILINE), f"{option[1]}=")
    if value := re.search(r"(\S+=)\S*: Invalid value '([^']*)', expected one of \[([^]]*)\]", error):
        return _near(value[2], value[3].split(", "), value[1])
    if not (found := re.search(r"Could not override '([^']+)'", error)):
        return ""
    return _near(found[1], [*_names(Config), "hydra.run.dir", "hydra.sweep.dir"], cutoff=0.7)


def _near(name: str, known: Iterable[str], before: str = "", cutoff: float = 0.6) -> str:
    """The question whether one of the known names was meant, without regard to case, hyphens and underscores."""
    import difflib

    plain = {re.sub(r"[-_\s]", "", other.casefold()): other for other in known}
    near = difflib.get_close_matches(re.sub(r"[-_\s]", "", name.casefold()), plain, n=2, cutoff=cutoff)
    return f"did you mean {' or '.join(before + plain[n] for n in near)}?" if near else ""


def _names(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all groups and fields of the schema."""
    for name, node in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(node):
            yield from _names(cast(type, node), f"{prefix}{name}.")
