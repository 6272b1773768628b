"""Command lines that people are told to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def command_line(words: str, folder: Path) -> str:
    """The command with a run's folder, quoted for Hydra and for the shell where the path needs it.

    words: overrides, the last of them less its value, as in "task=attach run".
    """
    *others, key = words.split()
    shown = str(folder)
    plain = re.fullmatch(r"[A-Za-z0-9_./-]+", shown)
    last = f"{key}={shown}" if plain else shlex.quote(f"{key}={in_quotes(shown)}")
    return " ".join(("python -m src.run", *others, last))


def in_quotes(value: str) -> str:
    """A value as Hydra's command line reads it back, whatever letters it has: a backslash escapes a quotation mark, and
    itself only before one."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'
