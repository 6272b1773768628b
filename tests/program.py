"""A call of the program, as end-to-end tests make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How one call of the program ended."""

    code: int
    out: str
    err: str


def quoted(value: Path | str) -> str:
    """A value as Hydra's command line wants it, whatever letters it holds."""
    return '"' + str(value).replace('"', '\\"') + '"'
