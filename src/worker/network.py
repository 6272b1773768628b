"""Connections to a server: directly, or through the proxy that the environment names, with its CA bundle.

http_proxy, https_proxy, all_proxy and no_proxy, in either case; SSL_CERT_FILE, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE, as for
curl and requests. This machine itself is never reached through a proxy.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from .replies import MOST_REPLY


def server_at(url: str) -> SplitResult:
    """The address of a server, its path without a slash at the end."""
    base = urlsplit(url)
    return base._replace(path=base.path.rstrip("/"))


def above_v1(base: SplitResult) -> str:
    """The path under which a server has what is not of OpenAI's API, as /metrics and /tokenize."""
    return base.path.removesuffix("/v1")


def proxy_for(base: SplitResult) -> SplitResult | None:
    """The proxy for an address; None for a direct connection."""
    host = base.hostname or ""
    if _is_here(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(base.scheme) or proxies.get("all")
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def target(base: SplitResult, path: str) -> str:
    """What stands in a request's first line: the path and the query of the address, as Azure's api-version; a proxy for http wants
    the whole address."""
    path += f"?{base.query}" if base.query else ""
    return f"{base.scheme}://{base.netloc}{path}" if base.scheme == "http" and proxy_for(base) else path


def proxy_headers(base: SplitResult) -> Mapping[str, str]:
    """What the proxy wants of each request that it passes on."""
    proxy = proxy_for(base)
    if proxy is None or not proxy.username:
        return {}
    who = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(who.encode()).decode()}


def open_socket(base: SplitResult, timeout_s: float) -> socket.socket:
    """A connection to the server, through its proxy and with TLS where the address says so. Raises OSError."""
    host, is_tls = base.hostname or "", base.scheme == "https"
    port = base.port or (443 if is_tls else 80)
    proxy = proxy_for(base)
    if proxy and proxy.scheme != "http":
        raise OSError(f"a proxy by {proxy.scheme} ({proxy.hostname}) is not supported: set an http:// one, or no_proxy")
    try:
        at = (proxy.hostname or "", proxy.port or 80) if proxy else (host, port)
        connection = socket.create_connection(at, timeout_s)
    except OSError as e:
        raise OSError(f"the proxy {proxy.hostname}:{proxy.port or 80}: {e}" if proxy else str(e)) from e
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not is_tls:
            return connection
        if proxy:
            _tunnel(
                connection, base, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", time.monotonic() + timeout_s
            )
        return _tls().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _tunnel(connection: socket.socket, base: SplitResult, name: str, until: float) -> None:
    headers = "".join(f"{key}: {value}\r\n" for key, value in proxy_headers(base).items())
    connection.sendall(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{headers}\r\n".encode())
    reply = b""
    while b"\r\n\r\n" not in reply:  # byte by byte: what follows is TLS
        piece = connection.recv(1)
        if not piece or len(reply) > 65_536 or time.monotonic() > until:
            raise OSError("the proxy closed the connection, or took too long")
        reply += piece
    status = reply.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy refused the connection: {status}")


@cache
def _tls() -> ssl.SSLContext:
    named = next(
        (os.environ[n] for n in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(n)), ""
    )
    if os.path.isdir(named):
        return ssl.create_default_context(capath=named)
    return ssl.create_default_context(cafile=named or None)


class Connection(http.client.HTTPConnection):
    """An HTTP connection to a server, opened as above, for one question."""

    def __init__(self, base: SplitResult, timeout_s: float) -> None:
        super().__init__(base.hostname or "", base.port or (443 if base.scheme == "https" else 80), timeout=timeout_s)
        self._base, self._timeout_s = base, timeout_s
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self.sock = self._socket = open_socket(self._base, self._timeout_s)

    def exchange(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes]:
        """Status and content of the answer, at most MOST_REPLY bytes. Raises OSError and HTTPException; TimeoutError when it is
        not whole in time: a server that now and then sends a byte never runs into a timeout of the socket."""
        late = threading.Event()
        timer = threading.Timer(self._timeout_s, self._give_up, (late,))
        timer.daemon = True
        timer.start()
        try:
            self.request(method, path, body, {"Content-Type": "application/json", **headers})
            response = self.getresponse()
            answer = response.status, response.read(MOST_REPLY)
        except (OSError, http.client.HTTPException):
            if not late.is_set():
                raise
        finally:
            timer.cancel()
            self.close()
        if late.is_set():
            raise TimeoutError(f"no whole answer within {self._timeout_s:g} s")
        return answer

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, target(self._base, url), *args, **kwargs)
        if self._base.scheme == "http":
            for name, value in proxy_headers(self._base).items():
                self.putheader(name, value)
