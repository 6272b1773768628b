"""Messages and errors for people, on standard error."""

from __future__ import annotations

import io
import logging
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExitCode, HostError, UpsamplerError
from .files import relative
from .text import printable, resume_command, wrapped

if TYPE_CHECKING:
    from rich.console import Console


def accept_any_terminal() -> None:
    """Make text that the terminal has no letters for readable all the same, in place of an error after hours of work; a stream that
    is closed takes what is written."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.raiseExceptions = False  # Hydra prints --info by logging, also into a pipe that is closed


def flush() -> None:
    """Write what is left; the reader may be gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def results_console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for every verdict where there is no terminal."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return _console(soft_wrap=False, width=160 if wide else None)


def messages_console() -> Console:
    """Where progress and messages go."""
    return _console(stderr=True)


def _console(**options: Any) -> Console:
    """A console on which no text is markup, an emoji or an escape code: names, prompts and what hosts say are printed on it."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def _check_buffer(self) -> None:
            """A terminal that is gone, or a full disk under messages, does not end a run."""
            try:
                super()._check_buffer()
            except OSError:
                if not self.stderr:
                    raise
                self.quiet = True

        def render_str(self, text: str, **given: Any) -> Text:
            return super().render_str(printable(text), **given)

        def on_broken_pipe(self) -> None:
            """Whoever reads has seen enough, as `| head` does; the run continues."""
            self.quiet = True
            flush()

    return Plain(markup=False, emoji=False, highlight=False, force_jupyter=False, **options)


def report_error(error: Exception, folder: Path) -> ExitCode:
    """Say what went wrong, in words for people, and how to resume where nothing is lost; the exit code for it."""
    from . import log

    started = (folder / "plan.json").exists() or (folder / "multirun.yaml").exists()
    resume = resume_command(relative(folder))
    if isinstance(error, UpsamplerError):
        log.get().debug("run_failed", exit_code=int(error.exit_code), exc_info=error)
        message(f"error: {error}" if error.exit_code is not ExitCode.INTERRUPTED else str(error))
        if isinstance(error, HostError) and started:
            message(f"  nothing is lost; resume the run:\n    {resume}")
        return error.exit_code
    if isinstance(error, OSError):
        log.get().debug("os_error", exc_info=error)
        then = f", then resume the run; nothing is lost:\n    {resume}" if started else ", then start it again"
        message(
            f"error: {error.filename or folder}: {error.strerror or error}\n"
            f"  → free some space or fix the permissions{then}"
        )
        return ExitCode.HOST
    log.get().debug("bug", exc_info=error)
    message(
        f"error: unexpected {type(error).__name__}: {error}\n  → this is a bug, please report it; the traceback is in "
        f"{folder / 'log.jsonl'} (console.traceback=true shows it here)"
    )
    return ExitCode.BUG


def message(text: str) -> None:
    """Print a message, without characters that move the cursor; on a terminal it is broken between words."""
    width = int(os.environ.get("COLUMNS") or 0) or (shutil.get_terminal_size().columns if sys.stderr.isatty() else 0)
    with suppress(OSError):  # there is nobody to tell
        print(wrapped(printable(text), width) if width else printable(text), file=sys.stderr)
