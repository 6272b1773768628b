"""Messages and errors for people, on standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ExitCode, HostError, UpsamplerError

if TYPE_CHECKING:
    from rich.console import Console


def console_for_results() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for every verdict where nobody's terminal is written to."""
    from rich.console import Console

    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(soft_wrap=False, width=160 if wide else None)


def told(error: Exception, folder: Path, go_on: str) -> ExitCode:
    """Say what went wrong, in words for people, and how to go on where nothing is lost; the exit code for it."""
    from . import log

    begun = (folder / "plan.json").exists()
    if isinstance(error, UpsamplerError):
        log.get().debug("run_failed", exit_code=int(error.exit_code), exc_info=error)
        say(f"error: {error}" if error.exit_code is not ExitCode.INTERRUPTED else str(error))
        if isinstance(error, HostError) and begun:
            say(f"  nothing is lost; take the run up again:\n    {go_on}")
        return error.exit_code
    if isinstance(error, OSError):
        log.get().debug("os_error", exc_info=error)
        again = f"; then nothing is lost with\n    {go_on}" if begun else ", then start it anew"
        say(
            f"error: {error.filename or folder}: {error.strerror or error}\n  → make room or mend the permissions{again}"
        )
        return ExitCode.HOST
    log.get().debug("bug", exc_info=error)
    say(
        f"error: unexpected {type(error).__name__}: {error}\n  → this is a bug of ours; the traceback is in "
        f"{folder / 'log.jsonl'} (console.traceback=true shows it here)"
    )
    return ExitCode.BUG


def say(text: str) -> None:
    """A message for people, which cannot move their cursor."""
    from .text import printable

    print(printable(text), file=sys.stderr)


def shown(path: Path) -> Path:
    """Below the working directory as a relative path, which people can read and paste."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
