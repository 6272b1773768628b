"""Questions to the person at the terminal."""

from __future__ import annotations

import sys

from ..errors import InputError
from . import Invocation


def agrees(invocation: Invocation, question: str) -> bool:
    """Whether the answer is yes; yes=true confirms without a question. Raises InputError without a terminal."""
    if invocation.config.yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(f"{question}: there is no terminal to ask for confirmation", hint="pass yes=true to confirm")
    invocation.err.print(f"{question} [y/N] ", end="", markup=False)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False
