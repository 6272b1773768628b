"""What all items of a run share, as frozen values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.families import family_of
from ..models.family import Family
from ..targets.target import Target
from ..worker.job_settings import EngineSettings, ModelSettings
from ..worker.values import Command, Environment, HostName, ImageName, UserName, Variable, Word


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where the worker runs and how to get there; field by field as in the config group `host`. Holds no secret."""

    name: str
    kind: str
    address: HostName
    user: UserName
    port: int
    key_file: str
    password_env: Variable
    known_hosts: str
    root: Word
    docker: Command
    gpus: str
    patience_s: float
    keep_job: bool
    workers: int = 1
    price_per_gpu_hour: float = 0.0
    silent_s: float = 120.0
    sbatch: tuple[str, ...] = ()
    link_timeout_s: float = 10.0
    command_timeout_s: float = 120.0
    render_tasks: int = 0
    render_sbatch: tuple[str, ...] = ()
    workers_min: int = 1
    runtime_env: str = ""

    @property
    def runtime_environment(self) -> dict[str, Any]:
        """Ray's runtime_env. Raises ValueError where it is no JSON object."""
        return dict(json.loads(self.runtime_env or "{}"))


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """The container around the worker; field by field as in the config group `image`. reference "": none."""

    name: str
    reference: ImageName
    python: Word
    pull: bool
    network: Word
    shm_size: Word
    user: Word
    mounts: tuple[Word, ...]
    env: tuple[Environment, ...]
    repository: Word = ""
    pull_timeout_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What all items of a run share.

    shrink: a prompt that the engine refuses is sent again with smaller frames. effective_len: tokens of prompt and answer
    that this engine accepts, where that was observed to be less than max_model_len (`planning.observed_limits`); 0: unknown.
    members: the machines of a fleet, whose name is that of `host`.
    """

    recipe: str
    engine: EngineSettings
    model: ModelSettings
    template: str
    max_model_len: int
    max_output_tokens: int
    text_margin: int
    temperature: float
    seed: int
    check_cut_off: bool
    check_script: str
    python: Word
    host: HostSettings
    image: ImageSettings
    reuse: bool
    cache_dir: str
    hint_video: bool
    render_workers: int
    on_bad_video: str
    spec_output: str
    report: bool
    shrink: bool = True
    effective_len: int = 0
    exports: tuple[str, ...] = ()
    min_side_px: int = 0
    max_render_s: float = 600.0
    max_pixels: int = 8192 * 8192
    target: Target = field(default_factory=Target)
    paths: str = "absolute"
    members: tuple[HostSettings, ...] = ()
    embed_mb: float = 10.0

    @property
    def family(self) -> Family:
        """What counts the tokens of this run's requests."""
        return family_of(self.model, self.engine, self.cache_dir, self.python)


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(parts).encode()).hexdigest()[:16]


def long_digest(values: Sequence[str], *parts: Any) -> str:
    """`digest` of a long list and more, without the JSON of all of it in memory."""
    hashed = hashlib.sha256(b"[[")
    for at in range(0, len(values), 4096):
        hashed.update(("," if at else "").encode() + _CANONICAL.encode(values[at : at + 4096])[1:-1].encode())
    hashed.update("".join(["]", *(f",{_CANONICAL.encode(part)}" for part in parts), "]"]).encode())
    return hashed.hexdigest()[:16]


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a plan value, not copied: `dataclasses.asdict` takes most of the time of a large plan."""
    return {name: getattr(value, name) for name in value.__slots__}


def _as_object(value: Any) -> dict[str, Any]:
    """As in plan.json, where what came later is left out by default: a plan is the same as before there was more of it."""
    data = fields_of(value)
    if isinstance(value, Settings):
        later = {"target": Target(), "paths": "absolute", "members": (), "embed_mb": 10.0}
        data = {name: field for name, field in data.items() if name not in later or field != later[name]}
    return data


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_object)  # made once, not at each call


def dumps(value: Any) -> str:
    """A plan value as JSON, in the form that the identity of a plan is made of."""
    return _ENCODER.encode(value)


def json_pieces(value: Any) -> Iterator[str]:
    """`dumps` of a long value, piece by piece."""
    return _ENCODER.iterencode(value)
