"""Child processes: ports, process groups that end with their parent, the end of a log."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

LEADERLESS_S = 1.0  # for the others of a group to end after their leader


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def idle_cores() -> int:
    """Cores that this process may use, less their share of what runs already; at least one. Threads that wait for each other at
    each step, as llama.cpp's do, stand still on cores that others keep busy."""
    mine, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return max(1, mine - int(os.getloadavg()[0] * mine / all_cores))


def read_since(path: Path, start: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(start)
        return f.read()


# vLLM writes "(EngineCore pid=7) WARNING 11-26 ...", llama.cpp "0.01.750.706 W srv ...", Cosmos-Transfer1 "[patch] ...".
_HARMLESS = re.compile(r"(\(.{1,80}?\)\s*)?(DEBUG|INFO|WARNING)\b|[\d.]+ [DIW] |.*\[patch\] ")
_RAISED = re.compile(
    r"(\[rank\d+\]:\s*)?(?!.*ChildFailedError)([A-Za-z_]\w*\.)*[A-Z]\w*(Error|Exception|Interrupt)\b:?"
)


_LLAMACPP_ERROR = re.compile(r"[\d.]+ E (?:(?:srv|cmn|slot) +)?(?:\w+: )?(?:error: )?")


def failure_reason(path: Path, start: int, lines: int = 12) -> str:
    """The last error lines of a log after `start`; its last lines of any kind when there is no error among them. The line that
    ends a traceback comes first, for it is the cause.

    What a logger marks as information or a warning is no error, whatever words are in it.
    """
    text = read_since(path, start).decode("utf-8", "replace")
    lines_of_it = (_LLAMACPP_ERROR.sub("error: ", line.strip(), count=1) for line in text.splitlines() if line.strip())
    written = list(dict.fromkeys(lines_of_it))
    errors = [line for line in written if re.search(r"Error|error:|memory", line) and not _HARMLESS.match(line)]
    chosen = (errors or written)[-lines:]
    cause = [line for line in errors if _RAISED.match(line)][-1:]
    return " | ".join([*cause, *(line for line in chosen if line not in cause)])[:3000]


def guard_group(group: int, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """A process that kills a process group when this one dies, however it dies: its end of the pipe closes then. folder: that is
    removed after it.

    vLLM's engine processes outlive the server when that is killed, and would hold the GPU's memory.
    """
    return _guard('cat >/dev/null; kill -s KILL -- "-$0"; [ -z "$1" ] || rm -rf -- "$1"', group, str(folder or ""))


def _guard(script: str, group: int, *words: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    argv = ["/bin/sh", "-c", script, str(group), *words]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)


def kill_stale_server(folder: Path) -> None:
    """End the server of an earlier worker of this folder that was killed."""
    try:
        pid = int((folder / "server.pid").read_text())
    except (FileNotFoundError, ValueError):
        return
    for process in _group_members(pid):
        if str(folder).encode() in process or re.search(b"vllm|llamacpp", process, re.IGNORECASE):
            end_group(pid, None)
            return


def _group_members(group: int) -> list[bytes]:
    """Command lines of all processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_bytes().rsplit(b")", 1)[1].split()
            if int(fields[2]) == group and fields[0] != b"Z":
                found.append((entry / "cmdline").read_bytes())
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[0] != b"Z"
    except (OSError, IndexError):
        return False


def end_group(group: int, child: subprocess.Popen[bytes] | None, patience_s: float = 10.0) -> None:
    """SIGTERM to the leader of a process group, which ends the others in good order; to all that are left after half of
    `patience_s`; SIGKILL to what is left at its end."""
    now = time.monotonic()
    steps = (os.kill, signal.SIGTERM, now + patience_s / 2), (os.killpg, signal.SIGTERM, now + patience_s)
    for send, sign, until in (*steps, (os.killpg, signal.SIGKILL, math.inf)):
        with contextlib.suppress(ProcessLookupError):
            send(group, sign)
        while time.monotonic() < until:
            if child is not None:
                child.poll()
            if not _group_members(group):
                return
            if send is os.kill and not _lives(group):  # without their leader they may never end
                until = min(until, time.monotonic() + LEADERLESS_S)
                send = os.killpg
            time.sleep(0.05)


# Ends a process group when its standard input closes, that is, when its parent dies; torchrun gets time to end its own, which
# have sessions of their own: those that it leaves are found by a word of their environment.
_GENTLE_GUARD = """
cat >/dev/null
kill -s TERM -- "-$0" 2>/dev/null
n=0
while [ $n -lt 100 ] && kill -s 0 -- "-$0" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -s KILL -- "-$0" 2>/dev/null
for process in /proc/[0-9]*; do
  tr '\\0' '\\n' 2>/dev/null <"$process/environ" | grep -qxF -- "$1" && kill -s KILL "${process#/proc/}"
done 2>/dev/null
"""


def guard_group_gently(group: int, mark: str) -> subprocess.Popen[bytes]:
    """As `guard_group`, with SIGTERM first and 10 s of patience; then processes with `mark` (NAME=value) in their environment."""
    return _guard(_GENTLE_GUARD, group, mark)


def end_child(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM to a command's process group, SIGKILL when the command itself lives on after `patience_s`."""
    for sign, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
            return


def kill_marked(variable: str, folder: Path) -> None:
    """Kill every process with `variable=folder` in its environment; torchrun's have sessions of their own and outlive it."""
    mark = f"{variable}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)


def last_line(path: Path) -> str:
    """The last line of a log that is not blank; a progress bar writes many over each other."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 4096))
            text = f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1][-300:] if lines else ""
