"""A TCP proxy on the loopback that makes a link long, dead or broken, as a test asks for."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from queue import SimpleQueue

PIECE = 1 << 18
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset

Pieces = SimpleQueue[tuple[float, bytes]]


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port`; what it takes comes out `delay_s` later, in each direction.

    The delay is that of a long link, not of a slow one: any number of bytes travel at the same time.
    """

    def __init__(self, target_port: int, delay_s: float = 0.0) -> None:
        self.target_port, self.delay_s = target_port, delay_s
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._forwards = threading.Event()
        self._forwards.set()
        self._mutex = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._last_at = time.monotonic()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def idle_s(self) -> float:
        """Seconds since something came in, from either side."""
        return time.monotonic() - self._last_at

    def freeze(self) -> None:
        """Forward nothing from now on, and close nothing: the link is dead without a sign."""
        self._forwards.clear()

    def thaw(self) -> None:
        """Forward again, what was held first."""
        self._forwards.set()

    def cut(self) -> None:
        """Reset every connection that there is; new ones are taken."""
        with self._mutex:
            gone, self._sockets = self._sockets, []
        for end in gone:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Take no more connections, and reset those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        self.cut()
        self._forwards.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            with self._mutex:
                self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pieces: Pieces = SimpleQueue()
                threading.Thread(target=self._take, args=(source, pieces), daemon=True).start()
                threading.Thread(target=self._give, args=(pieces, sink, source), daemon=True).start()

    def _take(self, source: socket.socket, pieces: Pieces) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(PIECE)
            except OSError:
                data = b""
            self._last_at = time.monotonic()
            pieces.put((self._last_at + self.delay_s, data))

    def _give(self, pieces: Pieces, sink: socket.socket, source: socket.socket) -> None:
        """Send each piece when it is due; the end of one side is the end of the other."""
        data = b"-"
        while data:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            self._forwards.wait()
            try:
                if data:
                    sink.sendall(data)
                else:
                    sink.shutdown(socket.SHUT_WR)
            except OSError:
                with contextlib.suppress(OSError):
                    source.shutdown(socket.SHUT_RDWR)
                return
