"""The command line before Hydra reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from .config import Config


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


def why_not_resumable(arguments: list[str]) -> str | None:
    """Why resume= cannot be, None when it can: looked at before Hydra makes the folder that it names."""
    for argument in arguments:
        key, value = split_override(argument)
        if key in ("resume", "run") and value not in ("", "null") and not (Path(value) / "plan.json").is_file():
            if not Path(value).is_dir():
                return f"{key}={value}: there is no such folder"
            return f"{key}={value}: the folder has no plan.json, so no run was begun in it; start it anew"
    return None


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

    What is asked again is asked as it was, but for what this command line says.
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


def did_you_mean(said: str) -> str:
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
