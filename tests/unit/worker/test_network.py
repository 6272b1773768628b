"""Connections through proxies, as the environment names them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from src.worker.network import Connection, proxy_for

HERE = "http://127.0.0.1:8000/v1"
THERE = "http://llm.lab.invalid:8000/v1"


class Proxy(BaseHTTPRequestHandler):
    """Answers each request itself, with what it was asked; refuses tunnels."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answer = f"{self.path} {self.headers['Host']} {self.headers.get('Proxy-Authorization')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_CONNECT(self) -> None:
        self.send_error(403, "not to there")

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a proxy, which http_proxy and https_proxy name, with a user."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("http_proxy", f"http://me:secret@{address}")
    monkeypatch.setenv("https_proxy", address)
    yield address
    server.shutdown()


@pytest.mark.usefixtures("proxy")
def test_request_goes_through_the_proxy() -> None:
    connection = Connection(urlsplit(THERE), 5.0)
    for _ in range(2):  # over the same connection
        connection.request("GET", "/v1/models")
        answer = connection.getresponse().read().decode()
        assert answer == "http://llm.lab.invalid:8000/v1/models llm.lab.invalid:8000 Basic bWU6c2VjcmV0"


def test_refused_tunnel_is_an_error(proxy: str) -> None:
    with pytest.raises(OSError, match="the proxy refused the connection"):
        Connection(urlsplit(THERE.replace("http", "https")), 5.0).request("GET", "/v1/models")


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("address", [HERE, "http://localhost:1/v1", "https://[::1]:1/v1", "http://box.example:1/v1"])
def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("no_proxy", "example")
    assert proxy_for(urlsplit(address)) is None


def test_slow_answer_has_a_limit_in_all() -> None:
    """Each byte comes in time, the whole answer never does."""
    server = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        client = server.accept()[0]
        with suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n")
            while True:
                client.sendall(b"x")
                time.sleep(0.02)

    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(TimeoutError, match="no whole answer within"):
        Connection(urlsplit(f"http://127.0.0.1:{server.getsockname()[1]}"), 0.2).exchange("GET", "/health")
    server.close()
