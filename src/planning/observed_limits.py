"""What engines were seen to take: kept over runs in limits.json of the cache folder, and believed by the plans after it.

An entry stands for one engine with one model on one host in one image, at one max_model_len. Lengths are tokens of a
whole request: prompt and reserved answer.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..files import write_atomic
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Envelope:
    """The longest request that was taken and the shortest that was refused, None where there was none."""

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
    def believed_len(self) -> int | None:
        """The longest request worth sending, when the engine refuses more than its max_model_len says; else None."""
        return self.refused - 1 if self.refused is not None and self.refused <= self.max_model_len else None


def limits_file(cache_dir: Path) -> Path:
    return cache_dir / "limits.json"


def key_of(settings: Settings) -> str:
    """Whose limits they are. An endpoint is known by its address."""
    s = settings
    where = s.engine.base_url or f"{s.host.name} · {s.image.reference or 'no container'}"
    model = s.model.checkpoint or s.model.name
    return f"{s.engine.name} · {where} · {model} · max_model_len {s.max_model_len}"


def read(file: Path) -> dict[str, Envelope]:
    """All entries. Raises InputError when the file holds something else."""
    try:
        entries = json.loads(file.read_text())
        return {key: Envelope(**entry) for key, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as e:
        raise InputError(f"{file}: is no file of measured limits ({e})", hint="remove it, or measure anew") from e


def remember(file: Path, key: str, seen: Envelope) -> Envelope:
    """Add what was seen: to what the same version was seen to do before, or in place of what another did, or of what it
    contradicts."""
    known = read(file)
    merged = _merged(known.get(key), seen)
    write_atomic(file, json.dumps({k: asdict(v) for k, v in (known | {key: merged}).items()}, indent=1) + "\n")
    return merged


def _merged(before: Envelope | None, seen: Envelope) -> Envelope:
    if before is None or before.version != seen.version:
        return seen
    accepted = max((n for n in (before.accepted, seen.accepted) if n is not None), default=None)
    refused = min((n for n in (before.refused, seen.refused) if n is not None), default=None)
    if accepted is not None and refused is not None and accepted >= refused:
        return seen
    return Envelope(**asdict(seen) | {"accepted": accepted, "refused": refused})
