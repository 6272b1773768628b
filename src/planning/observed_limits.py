"""The longest requests that engines were observed to accept, kept over runs in limits.json of the cache folder; later plans
use them.

An entry stands for one engine with one model on one host in one image, at one max_model_len. Lengths are tokens of a
whole request: prompt and reserved answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..files import write_atomic
from ..worker.records import InvalidRecord, from_file
from .settings import Settings


@dataclass(frozen=True, slots=True)
class ObservedLimit:
    """The longest request that was accepted and the shortest that was refused, None where there was none."""

    host: str
    image: str
    engine: str
    model: str
    version: str
    max_model_len: int
    accepted: int | None
    refused: int | None
    measured_at: str

    @property
    def effective_len(self) -> int | None:
        """The longest request worth sending, where that is less than max_model_len; else None."""
        return self.refused - 1 if self.refused is not None and self.refused <= self.max_model_len else None


def limits_file(cache_dir: Path) -> Path:
    return cache_dir / "limits.json"


def key_of(settings: Settings) -> str:
    """The key of an engine's limits. An endpoint is identified by its address."""
    s = settings
    where = s.engine.base_url or f"{s.host.name} · {s.image.reference or 'no container'}"
    model = s.model.checkpoint or s.model.name
    return f"{s.engine.name} · {where} · {model} · max_model_len {s.max_model_len}"


def read(file: Path) -> dict[str, ObservedLimit]:
    """All entries. Raises InputError when the file holds something else."""
    try:
        return from_file(dict[str, ObservedLimit], file)
    except FileNotFoundError:
        return {}
    except InvalidRecord as e:
        raise InputError(f"{e}: not a valid file of observed limits", hint="remove it, then measure again") from e


def remember(file: Path, key: str, new: ObservedLimit) -> ObservedLimit:
    """Add an observation: merged with those of the same version, in place of those of another or that it contradicts."""
    known = read(file)
    merged = _merged(known.get(key), new)
    write_atomic(file, json.dumps({k: asdict(v) for k, v in (known | {key: merged}).items()}, indent=1) + "\n")
    return merged


def _merged(before: ObservedLimit | None, new: ObservedLimit) -> ObservedLimit:
    if before is None or before.version != new.version:
        return new
    accepted = max((n for n in (before.accepted, new.accepted) if n is not None), default=None)
    refused = min((n for n in (before.refused, new.refused) if n is not None), default=None)
    if accepted is not None and refused is not None and accepted >= refused:
        return new
    return ObservedLimit(**asdict(new) | {"accepted": accepted, "refused": refused})
