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
    if not re.fullmatch(r"[A-Za-z0-9_./-]+", shown):
        escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
        last = shlex.quote(f'{key}="{escaped}"')
    else:
        last = f"{key}={shown}"
    return " ".join(("python -m src.run", *others, last))
