"""A server on this machine that counts tokens, started for the plan; it ends with this process, however that ends."""

from __future__ import annotations

import atexit
import http.client
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputError
from ..worker.network import Connection
from ..worker.processes import failure_reason, guard_group


def started(
    argv: Sequence[str],
    port: int,
    patience_s: float,
    what: str,
    env: Mapping[str, str] | None = None,
    hint: str = "model.family=unverified does without counts",
) -> str:
    """Start a server and wait until it is healthy; its address. what: names it in messages, which end with the hint.

    Raises InputError, with the reason that it printed, where it ends or takes longer than patience_s seconds.
    """
    with tempfile.NamedTemporaryFile(prefix="counting-", suffix=".log") as log:
        try:
            server = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True
            )
        except OSError as e:
            raise InputError(f"{what} cannot be started: {argv[0]}: {e.strerror}") from e
        guard = guard_group(server.pid)
        atexit.register(_end, server, guard)
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + patience_s
        while time.monotonic() < deadline and server.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                if asked(address, "GET", "/health", None, patience_s)[0] == 200:
                    return address
            time.sleep(0.05)
        why = f"no answer in {patience_s:.0f} s" if server.poll() is None else failure_reason(Path(log.name), 0)
        _end(server, guard)
        raise InputError(f"{what} did not start, so tokens cannot be counted: {why}", hint=hint)


def asked(address: str, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of one request."""
    return Connection(urlsplit(address), timeout_s).exchange(method, path, body)


def _end(server: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()
    guard.communicate()
