"""Several servers of one model: each request goes to the one with the fewest open; one that fails is left out for a while."""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Callable, Sequence

from .chat import ChatClient, NotConnected
from .engines.engine import Answer, Request, Unavailable
from .signals import NoMetrics

FAILURES = 3  # in a row, of requests that a server took, until it is left out
BUSY_S, DOWN_S, MAX_DOWN_S = 1.0, 5.0, 120.0  # that a server is left out: without a place, gone, and gone for long


class _Server:
    """One server. failures: in a row; not_before: when it is asked again; down_s: how long it was left out last."""

    def __init__(self, client: ChatClient) -> None:
        self.client, self.open = client, 0
        self.failures, self.not_before, self.down_s = 0, 0.0, 0.0
        self.page: str | None = None


class Endpoints:
    """The servers, asked from many threads. With one of them, all is as with its client alone."""

    def __init__(self, clients: Sequence[ChatClient], clock: Callable[[], float] = time.monotonic) -> None:
        self._servers, self._clock = [_Server(client) for client in clients], clock
        self._mutex = threading.Lock()

    def ask(self, request: Request) -> Answer:
        """As `ChatClient.ask`; Unavailable where a server broke off. What a server did not take, another one is sent."""
        tried: set[_Server] = set()
        while True:
            server = self._next(tried)
            tried.add(server)
            try:
                answer = server.client.ask(request)
            except (OSError, http.client.HTTPException, Unavailable) as e:
                is_gone = isinstance(e, NotConnected)
                error = e if isinstance(e, Unavailable) else Unavailable(str(e), refused=is_gone, broke=not is_gone)
                self._failed(server, error, is_gone=is_gone)
                if not error.refused or not self._has_other(tried):
                    raise error from e
            else:
                server.failures, server.down_s = 0, 0.0
                return answer
            finally:
                with self._mutex:
                    server.open -= 1

    def _next(self, tried: set[_Server]) -> _Server:
        """The server with the fewest open requests; where all are left out, the one that returns first."""
        with self._mutex:
            now = self._clock()
            fresh = [server for server in self._servers if server not in tried] or self._servers
            server = min(fresh, key=lambda s: (max(0.0, s.not_before - now), s.open))
            server.open += 1
            return server

    def _has_other(self, tried: set[_Server]) -> bool:
        now = self._clock()
        return any(server not in tried and server.not_before <= now for server in self._servers)

    def _failed(self, server: _Server, error: Unavailable, *, is_gone: bool) -> None:
        if len(self._servers) == 1:
            return
        with self._mutex:
            server.failures += 1
            if error.refused and not is_gone:
                server.not_before = self._clock() + (error.retry_after_s or BUSY_S)
            elif (is_gone or server.failures >= FAILURES) and server.not_before <= self._clock():
                server.down_s = min(max(DOWN_S, 2 * server.down_s), MAX_DOWN_S)
                server.not_before = self._clock() + server.down_s
                url = server.client.base.geturl()
                print(f"{url} is left out for {server.down_s:.0f} s: {error}", file=sys.stderr, flush=True)

    def metrics_page(self) -> str | None:
        """The /metrics of all, as one page; of one that does not answer, its last. Raises OSError when none answers."""
        errors: list[OSError] = []
        for server in self._servers:
            try:
                server.page = server.client.metrics_page() if server.not_before <= self._clock() else server.page
            except OSError as e:
                errors.append(e)
                if server.page is None and isinstance(e, NoMetrics):  # it will have one
                    raise
        if len(errors) == len(self._servers):
            raise errors[0]
        pages = [server.page for server in self._servers if server.page is not None]
        return "\n".join(pages) if len(pages) == len(self._servers) else None
