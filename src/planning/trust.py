"""Whether a run folder may say what is started: its own user's may, another user's only what the command line says too."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import InputError
from .configure import members_of

_HOST = (
    "kind", "address", "user", "port", "key_file", "password_env", "known_hosts", "root", "docker", "sbatch", "render_sbatch",
)  # fmt: skip
_IMAGE = ("network", "user", "repository", "mounts", "env")
_ENGINE = ("base_url", "more_urls", "api_key_env", "api_key_file")
_SHARED = tuple(f"{group}.{name}" for group, names in (("host", _HOST), ("image", _IMAGE)) for name in names)
# Config field -> field of the saved settings: what names a program, a machine, where a secret is, or where is written.
OF_A_PLAN = {
    name: name
    for name in (
        *_SHARED,
        *("host.runtime_env", "image.reference", "image.python", "model.checkpoint", "model.extra_args"),
        *("model.gguf", "model.mmproj"),
    )
} | {
    **{f"engine.{name}": f"engine.{name}" for name in _ENGINE},
    "worker.python": "python",
    "output.specs": "spec_output",
    "cache_dir": "cache_dir",
}
_INFERENCE = (
    *("torchrun", "script", "repository", "checkpoint_dir", "checkpoint", "hf_home", "engine", "extra_args", "python"),
)
OF_INFERENCE = {name: name for name in _SHARED} | {
    **{f"inference.{name}": name for name in _INFERENCE},
    "inference.image": "image.reference",
}
INSIDE = ("none", "beside", "files")  # values of output.specs by which nothing is written outside of the run folder
# What the inference settings have where their own field is empty; see `inference.configure`.
_INSTEAD = {"inference.image": ("image.reference",), "inference.python": ("image.python", "worker.python")}


def refuse_foreign(file: Path, saved: Any, config: Config, names: Mapping[str, str]) -> None:
    """Raises InputError where a file whose seal does not hold names something else than this command line does."""
    differing = list(_differing(saved, config, names))
    if (members := getattr(saved, "members", ())) and members != members_of(config):
        differing.append(("host.members", ",".join(member.name for member in members)))
    if differing:
        raise InputError(
            f"{file}: was changed, or comes from another user, and names what would be used or run:\n"
            + "\n".join(f"  - {name}={value}" for name, value in differing),
            hint="if you trust these, repeat them on this command line",
        )


def _differing(saved: Any, config: Config, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, path in names.items():
        there = _at(saved, path)
        here = {_at(config, other) for other in (name, *_INSTEAD.get(name, ()))}
        if name == "output.specs" and there in INSIDE:
            continue
        if there not in here | {"", (), sys.executable}:
            yield name, f"[{','.join(there)}]" if isinstance(there, tuple) else str(there)


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = getattr(value, part)
    return tuple(value) if isinstance(value, list) else value
