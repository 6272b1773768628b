"""The command line before Hydra reads it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from . import seals
from .config import Config
from .run_folder import LATEST, OUTPUTS, SWEEP_RECORD, link_in, named_run
from .text import FLAGS_WITH_A_WORD, PROGRAM, hydra_quoted, is_other_type, plain_override


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


def plain_spelling(argument: str) -> str:
    """review.from= by the name of its field: `from` is a keyword of Python, which no field of a dataclass can be."""
    return argument.replace("from", "verdicts", 1) if argument.startswith("review.from=") else argument


def with_run_folders(arguments: list[str]) -> list[str]:
    """The command line with folders in place of `latest` and of runs' names, in resume=, run= and runs=[A,B], and with fields
    in place of their other spellings."""

    def folder(value: str, resumes: bool) -> str:
        is_run = any((Path(value) / name).is_file() for name in ("plan.json", SWEEP_RECORD))
        is_name = value == LATEST or (value not in ("", "null") and not is_run)
        found = named_run(value, resumes=resumes) if is_name else None
        return str(found or value)

    replaced = []
    for argument in arguments:
        argument = plain_spelling(argument)
        key, value = split_override(argument)
        if key == "runs":
            parts = [split_override(f"run={part.strip()}")[1] for part in value.strip("[]").split(",")]
            runs = [folder(part, False) for part in parts]
            argument = argument if runs == parts else f"runs=[{','.join(map(hydra_quoted, runs))}]"
        elif key in ("resume", "run") and (found := folder(value, key == "resume")) != value:
            argument = f"{key}={hydra_quoted(found)}"
        replaced.append(argument)
    return replaced


def with_lists(arguments: list[str]) -> list[str]:
    """The command line with host=[A,B] as the fleet of these members, where Hydra would lay one over the other, and
    engine.base_url=[A,B] as the first server and the others."""
    found = []
    for argument in arguments:
        key, value = split_override(argument)
        if key == "host" and value.startswith("["):
            found += ["host=fleet", f"host.members={value}"]
        elif key == "engine.base_url" and value.startswith("["):
            first, _, others = value.strip("[]").partition(",")
            found += [f"engine.base_url={first.strip()}", f"engine.more_urls=[{others}]"]
        else:
            found.append(argument)
    return found


def new_folders(arguments: list[str]) -> list[str]:
    """The folders that a command line names for a new run or sweep, and that are not there yet."""
    named = dict(map(split_override, arguments))
    folders = [named.get("hydra.run.dir"), named.get("hydra.sweep.dir")]
    return [folder for folder in folders if folder and not Path(folder).exists()]


def why_not_resumable(arguments: list[str]) -> str | None:
    """Why a folder cannot be resumed, None when it can: checked before Hydra creates the folder that resume= names."""
    for argument in arguments:
        key, value = split_override(argument)
        if key not in ("resume", "run") or value in ("", "null"):
            continue
        if Path(value).is_dir() and (link := link_in(Path(value))):
            return f"{key}={value}: {link} is a link, and a run folder has none; remove it"
        if (Path(value) / "plan.json").is_file():
            continue
        if value == LATEST:
            return f"{key}={value}: there is no run in {OUTPUTS}/ yet"
        if not Path(value).is_dir():
            named = "" if "/" in value else ", and no run of that name in outputs/ (task=runs lists them)"
            return f"{key}={value}: there is no such folder{named}"
        takes_sweep = key == "resume" or "task=review" in arguments
        if not (takes_sweep and (Path(value) / SWEEP_RECORD).is_file()):
            return f"{key}={value}: the folder has no plan.json, so no run was started in it; start a new one"
    return None


_USER_IN_URL = re.compile(r"://[^/?#\s'\"]*@")
_PASSWORD_IN_ADDRESS = re.compile(r"[\w.+$-]:[^,\s'\"@\[]*@")
_SECRET = re.compile(r"(?:^|[._-])(?:api_?key|key|token|secret|password|passwd|credentials?|sig)$", re.IGNORECASE)
_ENTRY = re.compile(r"(?:(?<![^\[,\s'\"?&#=])-*([A-Za-z_][\w-]*)=|--([A-Za-z_][\w-]*)[,\s])(?=[^,\]\s])")
_VARIABLE = re.compile(r"[\"']([A-Za-z_]\w*)\\?[\"']\s*:\s*\\?[\"'](?![\"'])")  # in JSON
_WITH_ENTRIES = re.compile(r"image\.env|model\.extra_args|host\.(?:render_)?sbatch|host\.docker|.*urls?")


def secret_among(values: Iterable[tuple[str, str]]) -> str | None:
    """What is wrong with the first of these (field, value) that holds a secret, None when none does; the secret is not
    repeated. The run folder keeps the config and the command line."""
    for field, value in values:
        names_variable = field.endswith(("api_key_env", "password_env", "url_env"))
        holds = (
            _USER_IN_URL.search(value)
            or (_SECRET.search(field) and value not in ("", "null"))
            or (names_variable and not re.fullmatch(r"(?:[A-Za-z_]\w*)?", value) and value != "null")
            or (field in ("host", "host.address", "host.members") and _PASSWORD_IN_ADDRESS.search(value))
            or (
                _WITH_ENTRIES.fullmatch(field)
                and any(_SECRET.search(entry or option) for entry, option in _ENTRY.findall(value))
            )
            or (field == "host.runtime_env" and any(map(_SECRET.search, _VARIABLE.findall(value))))
        )
        if holds:
            return (
                f"{field}: holds a secret, or what looks like one, and would be written down\n  → give the NAME of an environment "
                "variable or a file: engine.api_key_env, engine.api_key_file, host.password_env, notify.url_env; "
                "image.env=[NAME] takes the host's"
            )
    return None


def leaves_of(node: object, path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted field, value as text) of a composed config; a list is one value."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves_of(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, "" if node is None else ", ".join(map(str, node)) if isinstance(node, list) else str(node)


_ALIAS = re.compile(r"(?m)(?:^|[:,\[-])\s*\*\w")  # or a text that looks like one
_MOST_ALIASES = (
    20  # in a file; with two dozen, each naming the one before it twice, a file stands for millions of values
)


def why_not_readable(arguments: list[str], conf: Path) -> str | None:
    """Why the config files cannot be read, None when they can: YAML would not end with some."""
    pairs = itertools.zip_longest(arguments, arguments[1:], fillvalue="")
    own = [b if a in _CONFIG_DIR else a.partition("=")[2] for a, b in pairs if a.partition("=")[0] in _CONFIG_DIR]
    for file in _config_files(conf, *map(Path, own)):
        text = file.read_text(encoding="utf-8", errors="replace")
        if len(_ALIAS.findall(text)) > _MOST_ALIASES and _aliases(text) > _MOST_ALIASES:
            return f"{file}: has more than {_MOST_ALIASES} YAML aliases\n  → write the values out"
    return None


def _config_files(*folders: Path) -> Iterator[Path]:
    """The config files in some folders; a name with a dot before it is that of an editor's lock."""
    found = (file for folder in folders for file in folder.rglob("*.yaml"))
    return (file for file in found if file.name[0] != "." and os.path.isfile(file))


def _aliases(text: str) -> int:
    """How many aliases there are in YAML; none are expanded. 0 for what is no YAML: Hydra says what is wrong with it."""
    try:
        return sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
    except yaml.YAMLError:
        return 0


def own_conf(conf: Path) -> list[Path]:
    """The folder conf/ of the working folder, where it is not the program's own."""
    own = Path("conf")
    return [own] if own.is_dir() and not own.samefile(conf) else []


def with_own_conf(arguments: list[str], conf: Path) -> list[str]:
    """The command line with the config files of the working folder, unless it names others."""
    if any(argument.partition("=")[0] in _CONFIG_DIR for argument in arguments):
        return arguments
    return [*(f"--config-dir={folder}" for folder in own_conf(conf)), *arguments]


_CONFIG_DIR = ("--config-dir", "-cd", "--config-path", "-cp")
_OF_FOLDERS = re.compile(r"hydra\.(?:run|sweep|job|launcher|output_subdir)\b")


def may_set_mode(arguments: list[str], conf: Path) -> bool:
    """Whether a config with these arguments may set hydra.mode: a file of conf/ that names MULTIRUN, and is always there or of a
    group that they choose from. True where that cannot be told."""
    keys = {split_override(argument)[0].partition("@")[0] for argument in arguments}
    if keys & {*_CONFIG_DIR, "--config-name", "-cn"}:
        return True
    if any(key.startswith("hydra") and not _OF_FOLDERS.match(key) for key in keys):
        return True
    files = [(str(file.parent.relative_to(conf)), file.read_bytes()) for file in _config_files(conf)]
    groups = {group for group, text in files if b"MULTIRUN" in text}
    if groups & {*keys, ".", "local"}:
        return True
    for group in groups:  # of which another file may choose an option
        chosen = re.compile(rf"\b{re.escape(group)}(?:/|(?:@\S+)?\s*:\s*(?!null\b)\S)".encode())
        if any(chosen.search(text) for other, text in files if other != group):
            return True
    return False


def _loaded(record: Path) -> Any:
    """A YAML file that Hydra wrote, with its interpolations as they stand. ValueError for one with an alias, of which it writes
    none: a few of them make a giant."""
    text = record.read_text(encoding="utf-8", errors="replace")
    if _ALIAS.search(text) and _aliases(text):
        raise ValueError(f"{record}: has a YAML alias, so Hydra did not write it\n  → start a new run")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


# Fields that name programs, machines, the places of secrets or of files that are written; options of a group are one's own.
_OF_PROGRAMS = re.compile(
    r"(?:worker|host|image|inference|hydra|spec|notify)\.|engine\.(?:base_url|more_urls|api_key)|model\.(?:checkpoint|extra|gguf|mmproj)|"
    r"output\.specs|cache_dir"
)


def _names_programs(override: str) -> bool:
    return bool(_OF_PROGRAMS.match(split_override(override)[0]))


def _foreign_overrides(record: Path, command: list[str]) -> str:
    return (
        f"{record}: was changed, or comes from another user, and names what would be used or run\n"
        f"  → where you trust it, start it by its own overrides:\n    {PROGRAM} {shlex.join(command)}"
    )


def resumed_sweep(arguments: list[str]) -> list[str]:
    """For resume= with the folder of a sweep: the command line that started it, in the same folder; points that ended are
    not run again. Other command lines as they are. ValueError for another user's sweep."""
    given = dict(split_override(argument) for argument in arguments)
    folder = given.get("resume", "")
    record = Path(folder) / SWEEP_RECORD
    if not folder or (Path(folder) / "plan.json").is_file() or not record.is_file():
        return arguments
    try:
        started = _loaded(record)["hydra"]
        saved = [str(o) for kind in ("hydra", "task") for o in started["overrides"][kind]]
        sources = (started.get("runtime") or {}).get("config_sources") or ()
        named = [str(source["path"]) for source in sources if source["provider"] == "command-line"]
    except (KeyError, TypeError):
        raise ValueError(f"{record}: is damaged\n  → start a new sweep") from None
    is_given = any(argument.partition("=")[0] in _CONFIG_DIR for argument in arguments)
    own = [] if is_given else [f"--config-dir={path}" for path in named if os.path.isdir(path)]
    kept = [o for o in saved if split_override(o)[0] not in (*given, "hydra.mode", "hydra.sweep.dir")]
    new = [argument for argument in arguments if split_override(argument)[0] != "resume"]
    command = flags_first(["--multirun", *own, *kept, *new, f"hydra.sweep.dir={hydra_quoted(folder)}"])
    if (own or any(map(_names_programs, kept))) and not seals.holds(record):
        raise ValueError(_foreign_overrides(record, command))
    return command


# Fields that are texts, of which Hydra would make a number: name=2026_01, prompts=1e5.
_TEXTS = ("prompts", "name", "resume", "run", "job", "cache_dir")


def as_texts(arguments: list[str]) -> list[str]:
    """Overrides of texts that look like a number, or a truth value, with quotes."""
    pairs = ((argument, *argument.partition("=")) for argument in arguments)
    return [
        plain_override(key, value)
        if key in _TEXTS and value.lower() not in ("", "null") and is_other_type(value)
        else argument
        for argument, key, _, value in pairs
    ]


def flags_first(arguments: list[str]) -> list[str]:
    """The command line with its flags, and the words that follow some, before the overrides: between two of them, Hydra's parser
    does not know them."""
    flags = [
        argument
        for before, argument in itertools.pairwise(("", *arguments))
        if argument.startswith("-") or (before in FLAGS_WITH_A_WORD and "=" not in argument)
    ]
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
            value = f"[{','.join(hydra_quoted(part.strip()) for part in _parts(value[1:-1]))}]"
        else:
            value = hydra_quoted(value)
        return f"{key}={value}" if is_readable(f"{key}={value}") else argument

    return [with_quotes(argument) for argument in arguments]


def _parts(text: str) -> list[str]:
    """The parts of a list as it is written; a comma within brackets separates none."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if not depth else text.split(",")


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

    What is asked again is asked as before, except for what this command line changes. ValueError for another user's run.
    """
    given = dict(split_override(argument) for argument in arguments)
    if given.get("review.rerun", "").lower() != "true" or not given.get("run"):
        return arguments
    record = Path(given["run"]) / ".hydra" / "overrides.yaml"
    try:
        old = [str(o) for o in _loaded(record)]
    except FileNotFoundError:
        return arguments
    kept = [
        o for o in old if (key := split_override(o)[0]) not in (*given, *_OF_THE_RUN_ITSELF) and key[:7] != "review."
    ]
    command = [*arguments, *kept]
    if any(map(_names_programs, kept)) and not seals.holds(record):
        raise ValueError(_foreign_overrides(record, command))
    return command


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
