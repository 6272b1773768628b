"""Commands that any login shell carries out, and replies in which what it prints by itself is told apart.

A login shell, a ForceCommand or a start-up file may be csh or fish, and may print. So it only ever sees one fixed line
without characters that shells treat differently; the command itself travels by standard input and is run by /bin/sh.
Its output and errors start after a marker that no one else knows, and its output ends with one and the exit code.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Iterator, Sequence

# `read` takes no byte more than its line, so that the rest of the input is the command's own.
LOGIN_COMMAND = 'exec /bin/sh -c \'IFS= read -r line; eval "$(printf %b "$line")"\''

MOST_BEFORE = 1 << 20  # bytes that a login shell may print before a stream


class Unframed(Exception):
    """What was printed in place of a reply."""


class Frame:
    """One command and its reply."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.mark = secrets.token_hex(8)
        text = (
            f"echo {self.mark}; echo {self.mark} >&2; {shlex.join(argv)}\n"
            f"code=$?; printf '\\n{self.mark} %s\\n' $code; exit $code"
        )
        escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
        self.line = escaped.encode("utf-8", "surrogateescape") + b"\n"
        self._start = f"{self.mark}\n".encode()

    def feed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """What is sent to standard input: the command, then what it reads itself."""
        yield self.line
        yield from pieces

    def reply(self, out: bytes, err: bytes, code: int) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors of the command alone. Raises Unframed where it was not run."""
        _, started, own = out.partition(self._start)
        if not started:
            raise Unframed((out + err).decode("utf-8", "replace").strip())
        if end := re.search(rf"\n{self.mark} (\d+)\n".encode(), own):
            own, code = own[: end.start()], int(end[1])
        _, marked, own_err = err.partition(self._start)
        return code, own, own_err if marked else err

    def stream(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The output of the command as it comes. After it stands the mark of its end, which an archive's reader passes over.
        Raises Unframed."""
        head = b""
        for piece in pieces:
            head += piece
            if self._start in head:
                yield head.partition(self._start)[2]
                yield from pieces
                return
            if len(head) > MOST_BEFORE:
                break
        raise Unframed(head.decode("utf-8", "replace").strip())
