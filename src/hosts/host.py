"""Machines that run commands. A command is a tuple of arguments; only a remote shell sees it as text, quoted once.

`LocalHost` is this machine; `ssh.SshHost` another one.
"""

from __future__ import annotations

import math
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import HostError, LinkLost

MOST_OUTPUT = 32 << 20  # bytes that a command may print on each stream


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended, and its output."""

    code: int
    out: bytes
    err: bytes

    @property
    def message(self) -> str:
        """The end of its error output, for messages: at most 600 characters."""
        return " ".join((self.err or self.out).decode("utf-8", "replace").split())[-600:]


class Host(Protocol):
    """A machine. Raises LinkLost when it can no longer be reached, and never guesses what runs there.

    until: when whoever waits for it gives up, as `time.monotonic` counts; nothing is waited for much longer.
    """

    name: str
    until: float

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, timeout_s: float = 120.0) -> CommandResult:
        """Run a command to its end; `feed` goes to its standard input. timeout_s: how long it may print nothing.

        Raises HostError when it prints more than MOST_OUTPUT bytes.
        """
        ...

    def stream(self, argv: Sequence[str], *, timeout_s: float = 120.0) -> Iterator[bytes]:
        """The output of a command as it comes; raises HostError when it ends with a code other than 0."""
        ...

    def close(self) -> None: ...


class LocalHost:
    """This machine, by the same commands as any other."""

    def __init__(self, name: str = "local") -> None:
        self.name, self.until = name, math.inf

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, timeout_s: float = 120.0) -> CommandResult:
        process = _popen(argv)
        late = threading.Event()
        timer = threading.Timer(timeout_s, _end, (process, late))
        timer.daemon = True  # the end of this process does not wait for it
        timer.start()
        feeder = threading.Thread(target=_feed, args=(process, feed), daemon=True)
        feeder.start()
        errors: list[bytes] = []
        reader = threading.Thread(target=lambda: errors.append(_read(process.stderr)), daemon=True)
        reader.start()
        try:
            out = _read(process.stdout)
            if len(out) > MOST_OUTPUT:
                process.kill()
                raise printed_too_much(self.name, argv)
            feeder.join()
            reader.join()
            code = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            raise LinkLost(f"{self.name}: {argv[0]} did not answer within {timeout_s:.0f} s")
        return CommandResult(code, out, b"".join(errors))

    def stream(self, argv: Sequence[str], *, timeout_s: float = 120.0) -> Iterator[bytes]:
        process = _popen(argv)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.close()
        while piece := process.stdout.read(1 << 18):
            yield piece
        errors = process.stderr.read()
        if code := process.wait():
            raise HostError(f"{self.name}: {argv[0]} ended with {code}: {CommandResult(code, b'', errors).message}")

    def close(self) -> None:
        pass


def _popen(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:  # a session of its own: Ctrl-C in this terminal is not meant for it
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    except OSError as e:
        raise HostError(f"{argv[0]} cannot be run here: {e.strerror}") from e


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _feed(process: subprocess.Popen[bytes], feed: Iterable[bytes]) -> None:
    assert process.stdin is not None
    try:
        for piece in feed:
            process.stdin.write(piece)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before it had read all; its exit code tells


def _read(stream: object) -> bytes:
    """One byte more than there may be, where there are as many; who writes more is ended by its deadline at the latest."""
    return stream.read(MOST_OUTPUT + 1)  # type: ignore[attr-defined, no-any-return]


def printed_too_much(host: str, argv: Sequence[str]) -> HostError:
    return HostError(
        f"{host}: {argv[0]} printed more than {MOST_OUTPUT >> 20} MiB",
        hint="commands there must print nothing of their own: does .bashrc print something without a terminal?",
    )


def expanded(path: str, home: str) -> str:
    """An absolute path on a host: ~ is the home there, and relative paths are relative to it."""
    return os.path.normpath(home + path[1:] if path == "~" or path.startswith("~/") else os.path.join(home, path))


WRONG = 65  # exit code: what arrived is not what was sent


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """A shell script with its arguments as one command."""
    return ("sh", "-c", text, "sh", *arguments)


def checked(done: CommandResult, host: Host, what: str) -> bytes:
    """The output of a command that ended well; HostError with its error output when it did not.

    LinkLost for what arrived damaged: it may be sent again.
    """
    if done.code == WRONG:
        raise LinkLost(f"{host.name}: {what}: {done.message}")
    if done.code:
        full = "No space left" in done.message
        raise HostError(
            f"{host.name}: {what}: {done.message or f'ended with {done.code}'}",
            hint="the disk there is full: free some space (task=clean lists old jobs), then resume" if full else "",
        )
    return done.out


def unexpected_output(host: Host, output: str) -> HostError:
    """The error for a script that printed something else than it should."""
    return HostError(
        f"{host.name}: unexpected output of a command: {output[:200]!r}",
        hint="commands there must print nothing of their own: does .bashrc print something without a terminal?",
    )
