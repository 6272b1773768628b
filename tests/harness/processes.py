"""What processes there are on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Process id and command line of every process."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(entry.parent.name), entry.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie without a thread left: only then are its sockets closed."""
    fields = _stat(pid)
    return not fields or (fields[0] in "ZX" and int(fields[17]) <= 1)


def children_of(pid: int) -> list[int]:
    """The children of a process, by who their parent is: /proc/PID/task/*/children leaves some out while others end."""
    return [n for n, _ in command_lines() if _stat(n)[1:2] == [str(pid)]]


def wait_for_build(variable: str) -> None:
    """Wait for the process that an environment variable names, which `.ci/run` has started; without it for nothing."""
    if pid := os.environ.get(variable):
        while not has_ended(int(pid)) and _started(pid) < _started("self"):  # else another process has that number now
            time.sleep(0.5)


def _started(pid: str) -> int:
    """When a process started, in clock ticks since the boot; 0 for one that is gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int | str) -> list[str]:
    """What /proc/PID/stat has after the name, from the state on; [] for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
