"""Streamed responses of many requests, read by one thread: a thread for each would wake up for every token.

The thread looks at all connections now and then and takes what has come since, several tokens at a time; whoever sent a
request sleeps until its response is whole. Only then is it parsed.
"""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable

from .records import InvalidRecord
from .replies import MOST_REPLY

LATE = 0.02  # of the time that a response takes: as much later it may be noticed that it is whole
LEAST_S, MOST_S = 0.002, 0.2  # between two looks
MOST_RELAXED_S = (
    0.4  # where a server counts its tokens itself, so that the window does not depend on when they are seen
)
READING = 0.1  # share of a core that reading may take before it looks less often
PIECE = 1 << 16
Came = Callable[[int, "float | None"], None]


class Response:
    """A response as it comes in. came: called with the number of events in a piece, and the seconds until the first of all
    with the first piece.

    Afterwards: `status`, `headers` by lower-case name, `body`, `events`, `first_s`, `error` or None.
    """

    def __init__(self, sock: socket.socket, came: Came) -> None:
        self.sock, self._came = sock, came
        self.started = self.last_at = time.monotonic()
        self.status, self.headers = 0, dict[str, str]()
        self.first_s: float | None = None
        self.body, self.events = b"", 0
        self.error: Exception | None = None
        self._data = bytearray()
        self._is_chunked = False
        self._whole = threading.Lock()
        self._whole.acquire()

    def wait(self, timeout_s: float) -> bool:
        """Until it is whole; False when it is not after `timeout_s`, however much came."""
        return self._whole.acquire(timeout=max(0.0, self.started + timeout_s - time.monotonic()))

    def end(self, error: Exception | None) -> None:
        self.error = error
        self._whole.release()

    def read(self) -> bool:
        """Take what has come; whether that was all of it."""
        try:
            piece = self.sock.recv(PIECE)
            while isinstance(self.sock, ssl.SSLSocket) and (more := self.sock.pending()):
                piece += self.sock.recv(more)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        self.last_at = time.monotonic()
        self._data += piece
        if len(self._data) > MOST_REPLY:
            raise InvalidRecord(f"more than {MOST_REPLY} bytes in one reply")
        if not self.status:
            self._read_head()
        if self.status == 200 and (events := piece.count(b"data:")):
            self.events += events
            is_first, self.first_s = self.first_s is None, self.first_s or round(self.last_at - self.started, 4)
            self._came(events, self.first_s if is_first else None)
        return self._is_whole(closed=not piece)

    def _read_head(self) -> None:
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        if 100 <= self.status < 200:  # an interim response: the final one follows (RFC 9110, 15.2)
            self.status, self._data = 0, rest
            self._read_head()
            return
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self._data = rest

    def _is_whole(self, *, closed: bool) -> bool:
        length = None if self._is_chunked else self.headers.get("content-length")
        if self._is_chunked:
            if self._data.endswith(b"\r\n\r\n") and (body := _joined(bytes(self._data))) is not None:
                self.body = body
                return True
        elif length is not None and len(self._data) >= int(length):
            self.body = bytes(self._data)
            return True
        if closed:
            if not self.status or self._is_chunked or length is not None:
                raise http.client.RemoteDisconnected("the connection closed before the answer was complete")
            self.body = bytes(self._data)
        return closed


def _joined(data: bytes) -> bytes | None:
    """The content of chunks; None while the last one is missing."""
    parts: list[bytes] = []
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        if size < 0:
            raise ValueError("a chunk of negative size")
        at = end + 4 + size
        parts.append(data[end + 2 : at - 2])
    return None


def send(sock: socket.socket, data: bytes, timeout_s: float) -> None:
    """Send all of it: at once what the system takes, as it does of most requests, and the rest within `timeout_s`."""
    try:
        sent = sock.send(data)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        sent = 0
    if sent < len(data):
        sock.settimeout(timeout_s)
        sock.sendall(memoryview(data)[sent:])


class Reader:
    """The thread that reads; it starts with the first response and ends with the process. A connection that is kept for another
    request stays with the selector in between. is_counted: whether the server counts its tokens itself."""

    def __init__(self, is_counted: Callable[[], bool] = lambda: False) -> None:
        self._is_counted = is_counted
        self._selector = selectors.DefaultSelector()
        # Of each connection of the selector, by its number; None: an idle one.
        self._open: dict[int, Response | None] = {}
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        self._every_s = LEAST_S

    def add(self, response: Response) -> None:
        if response.sock.gettimeout() != 0:
            response.sock.settimeout(0)
        with self._mutex:
            number = response.sock.fileno()
            if number not in self._open:
                self._selector.register(response.sock, selectors.EVENT_READ)
            self._open[number] = response
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, daemon=True)
                self._thread.start()

    def drop(self, number: int) -> None:
        """Read no more from the connection of this number; it is about to be closed, or was."""
        with self._mutex:
            self._forget(number)

    def _forget(self, number: int) -> None:
        with contextlib.suppress(KeyError, ValueError):
            del self._open[number]
            self._selector.unregister(number)

    def _read(self) -> None:
        while True:
            ready = self._selector.select(1.0)
            started = time.thread_time()  # not the wall: it holds the waits for other threads
            for key, _ in ready:
                with self._mutex:  # lanes add and drop meanwhile, and a number may be another connection's by now
                    response, error = self._open.get(key.fd), None
                    if response is None:  # nothing was asked: the server closes an idle connection
                        self._forget(key.fd)
                        continue
                try:
                    is_whole = response.read()
                except (OSError, http.client.HTTPException, InvalidRecord) as e:
                    is_whole, error = True, e
                except (ValueError, IndexError) as e:
                    is_whole, error = True, http.client.HTTPException(f"not an HTTP response: {e}")
                if is_whole:
                    took_s = response.last_at - response.started
                    self._every_s += 0.1 * (LATE * took_s - self._every_s)
                    with self._mutex:
                        if self._open.get(key.fd) is response:
                            self._open[key.fd] = None
                    response.end(error)
            spent_s = time.thread_time() - started
            most_s = MOST_RELAXED_S if self._is_counted() else MOST_S
            time.sleep(min(most_s, max(LEAST_S, self._every_s, spent_s / READING)))
