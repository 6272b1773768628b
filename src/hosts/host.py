"""Machines that run commands. A command is a tuple of arguments; only a remote shell sees it as text, quoted once.

`LocalHost` is this machine; `ssh.SshHost` another one.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from ..errors import HostError, LinkLost

MOST_OUTPUT = 32 << 20  # bytes that a command may print on each stream
MOST_ERRORS = 1 << 16  # bytes of the end of a stream's error output that are kept
PIECE = 1 << 18
QUIET_HINT = "commands there must print nothing of their own: does .bashrc print something without a terminal?"


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a command may neither print nor take anything, and the key of the config that says so."""

    seconds: float
    key: str = "host.command_timeout_s"

    def exceeded(self, host: str, argv: Sequence[str]) -> LinkLost:
        return LinkLost(f"{host}: {argv[0]} printed nothing for {self.seconds:g} s ({self.key})")


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

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, limit: Limit | None = None) -> CommandResult:
        """Run a command to its end; `feed` goes to its standard input. limit: in place of host.command_timeout_s.

        Raises HostError when it prints more than MOST_OUTPUT bytes.
        """
        ...

    def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
        """The output of a command as it comes; raises HostError when it ends with a code other than 0."""
        ...

    def close(self) -> None: ...


class LocalHost:
    """This machine, by the same commands as any other."""

    def __init__(self, name: str = "local", timeout_s: float = 120.0) -> None:
        self.name, self.until, self._limit = name, math.inf, Limit(timeout_s)

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, limit: Limit | None = None) -> CommandResult:
        printed: tuple[list[bytes], list[bytes]] = ([], [])
        size, process = [0, 0], _popen(argv)
        with closing(self._pieces(process, argv, feed, limit or self._limit)) as pieces:
            for is_error, piece in pieces:
                printed[is_error].append(piece)
                size[is_error] += len(piece)
                if size[is_error] > MOST_OUTPUT:
                    raise printed_too_much(self.name, argv)
        return CommandResult(process.returncode, b"".join(printed[0]), b"".join(printed[1]))

    def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
        process, errors = _popen(argv), b""
        for is_error, piece in self._pieces(process, argv, (), self._limit):
            if is_error:
                errors = (errors + piece)[-MOST_ERRORS:]
            else:
                yield piece
        if code := process.returncode:
            raise HostError(f"{self.name}: {argv[0]} ended with {code}: {CommandResult(code, b'', errors).message}")

    def _pieces(
        self, process: subprocess.Popen[bytes], argv: Sequence[str], feed: Iterable[bytes], limit: Limit
    ) -> Generator[tuple[bool, bytes]]:
        """What a process prints until it ended, each piece with whether it is from its error output; it is fed meanwhile.

        The process and those that it started are killed when nothing comes or goes for so long, and when no more is wanted.
        """
        assert process.stdin and process.stdout and process.stderr
        left, rest = iter(feed), memoryview(b"")
        try:
            with selectors.DefaultSelector() as pipes:
                for pipe in (process.stdin, process.stdout, process.stderr):
                    os.set_blocking(pipe.fileno(), False)
                    pipes.register(pipe, selectors.EVENT_WRITE if pipe is process.stdin else selectors.EVENT_READ, pipe)
                while pipes.get_map():
                    if not (ready := pipes.select(limit.seconds)):
                        raise limit.exceeded(self.name, argv)
                    for pipe in (key.data for key, _ in ready):
                        if pipe is process.stdin:
                            try:
                                rest = rest or memoryview(next(left))
                                rest = rest[os.write(pipe.fileno(), rest) :]
                                continue
                            except (StopIteration, BrokenPipeError):
                                pass  # all is fed, or it ended before it had read all; its exit code tells
                        elif piece := os.read(pipe.fileno(), PIECE):
                            yield pipe is process.stderr, piece
                            continue
                        pipes.unregister(pipe)
                        pipe.close()
            process.wait(limit.seconds)
        except subprocess.TimeoutExpired:
            raise limit.exceeded(self.name, argv) from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with suppress(BrokenPipeError):
                    pipe.close()

    def close(self) -> None:
        pass


def _popen(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:  # a session of its own: Ctrl-C in this terminal is not meant for it
        return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, bufsize=0)
    except OSError as e:
        raise HostError(f"{argv[0]} cannot be run here: {e.strerror}") from e


def printed_too_much(host: str, argv: Sequence[str]) -> HostError:
    return HostError(f"{host}: {argv[0]} printed more than {MOST_OUTPUT >> 20} MiB", hint=QUIET_HINT)


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


@contextmanager
def reading(host: Host, output: bytes) -> Iterator[str]:
    """What a command printed, as a text; HostError for one that its reader cannot make sense of."""
    text = output.decode("utf-8", "replace")
    try:
        yield text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise unexpected_output(host, text) from None


def unexpected_output(host: Host, output: str) -> HostError:
    """The error for a script that printed something else than it should."""
    return HostError(f"{host.name}: unexpected output of a command: {output[:200]!r}", hint=QUIET_HINT)
