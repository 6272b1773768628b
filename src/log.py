"""Logging: events as a fixed word plus keys, for machines in log.jsonl; on the console as sentences."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from .sentences import sentence

if TYPE_CHECKING:
    from rich.console import Console

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Tee:
    """Last processor: one JSON line to the run's log, one readable line to the console."""

    def __init__(self, console: Console, file: TextIO | None, least: int) -> None:
        self.console, self.file, self.least = console, file, least

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        trace = None
        if error := event.pop("exc_info", None):
            error = error if isinstance(error, BaseException) else sys.exc_info()[1]
            trace = "".join(traceback.format_exception(error)) if error else None
        level = event.pop("level")
        if self.file:
            line = {"time": event["timestamp"], "level": level, **{k: v for k, v in event.items() if k != "timestamp"}}
            with suppress(OSError):  # a full disk is said on the console, by whoever needs the space
                self.file.write(json.dumps(line | ({"traceback": trace} if trace else {}), default=str) + "\n")
                self.file.flush()
        if LEVELS.get(level, 20) >= self.least:
            in_file = not self.console.is_terminal
            self.console.print(
                _line(level, event), markup=False, highlight=False, soft_wrap=in_file, style=_STYLE[level]
            )
        raise structlog.DropEvent


_STYLE = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "red"}


def _line(level: str, event: MutableMapping[str, Any]) -> str:
    time, word = event.pop("timestamp")[11:19], event.pop("event")
    mark = f"{level}: " if level in ("warning", "error") else ""
    return f"{time} {mark}{sentence(word, event)}"


def configure(console: Console, log_file: Path | None, level: str) -> None:
    """Send all events to this console (from `level` up) and, all of them, to `log_file`."""
    file = None
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = open(log_file, "a", encoding="utf-8")  # open as long as the process lives
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            _Tee(console, file, LEVELS[level]),
        ],
        wrapper_class=structlog.BoundLogger,
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )


def left_out(what: str) -> None:
    """Say that a damaged line, named by its file, is left out."""
    get().warning("line_left_out", line=what)


def get() -> Any:
    """The logger; configured by `configure`, usable before it."""
    return structlog.get_logger()
