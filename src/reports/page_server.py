"""Pages that are served to browsers of this machine: a review, and the report of a run.

Only whoever knows the address gets an answer: it has a random token. Requests under another host name are refused, since a
web page could have pointed its own name here (DNS rebinding). The standard library's server is enough: a page has a handful
of readers.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Collection
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ..errors import InputError

OWN_NAMES = ("127.0.0.1", "localhost")
SERVED = (".html", ".js", ".csv", ".json", ".jsonl", ".png", ".mp4")  # what a report and the pages beside it link to


class PageServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1 until `finished` is set. port: 0 for any that is free."""

    daemon_threads = True

    def __init__(self, handler: type[PageHandler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.finished, self.token = threading.Event(), secrets.token_urlsafe(24)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def serve(self) -> None:
        """Answer until `finished` is set, or an interrupt is raised here."""
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            self.finished.wait()
        finally:
            self.shutdown()
            self.server_close()


class PageHandler(BaseHTTPRequestHandler):
    """Answers a request, once it has the token."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        url = urlsplit(self.path)
        _, token, *words = url.path.split("/")
        if not self._is_own("Host") or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN)
            return
        try:
            self._reply(words, url.query, body)
        except ConnectionError:
            self.close_connection = True
        except OSError as e:  # the disk is full, for example
            self._send_json({"error": e.strerror or str(e)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            self._send(HTTPStatus.BAD_REQUEST)  # numbers, names and bodies that no page sends

    def _reply(self, words: list[str], query: str, body: bytes | None) -> None:
        """Send what stands at an address; `words` follow the token. body: of a post."""
        raise NotImplementedError

    def _is_own(self, header: str) -> bool:
        """Whether a header names this machine; a browser leaves Origin out where it has nothing to say."""
        value = self.headers.get(header, "" if header == "Host" else f"http://{OWN_NAMES[0]}")
        with suppress(ValueError):
            return urlsplit(value if "//" in value else f"//{value}").hostname in OWN_NAMES
        return False

    # ---- replies

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes = b"", kind: str = "text/plain") -> None:
        self._head(status, len(body), kind)
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, size: int, kind: str, **more: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(size),
            "Cache-Control": "no-store" if kind.startswith(("text", "application")) else "private, max-age=3600",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            **{key.replace("_", "-"): text for key, text in more.items()},
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: Path | None) -> None:
        """A file, or the part of it that the request names (RFC 9110, section 14): browsers seek in clips so."""
        if path is None:
            self._send(HTTPStatus.NOT_FOUND)
            return
        size, kind = path.stat().st_size, mimetypes.guess_type(path.name)[0] or "video/mp4"
        first, last, wanted = 0, size - 1, re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        if wanted and wanted[0] != "bytes=-":
            first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
            if first > last:
                self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, kind, Content_Range=f"bytes */{size}")
                return
            self._head(HTTPStatus.PARTIAL_CONTENT, last - first + 1, kind, Content_Range=f"bytes {first}-{last}/{size}")
        else:
            self._head(HTTPStatus.OK, size, kind, Accept_Ranges="bytes")
        with open(path, "rb") as f:
            f.seek(first)
            _copy(f, self.wfile, last - first + 1)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address is a secret."""


def _copy(source: Any, target: Any, left: int) -> None:
    while left > 0 and (block := source.read(min(left, 1 << 18))):
        target.write(block)
        left -= len(block)


class ReportServer(PageServer):
    """Serves the report in a run folder. Below the token an address is the path of a file, so that the page's links lead where
    they lead on disk: to pages and pictures of the folder, and to these clips."""

    def __init__(self, page: Path, clips: Collection[str], port: int = 0) -> None:
        super().__init__(_ReportHandler, port)
        self.report, self.clips = page.absolute(), clips

    @property
    def address(self) -> str:
        return super().address.rstrip("/") + quote(str(self.report))

    def file(self, path: str) -> Path | None:
        """What may be read at an absolute path."""
        clean = os.path.normpath(path)
        is_part = Path(clean).is_relative_to(self.report.parent) and clean.endswith(SERVED)
        return Path(clean) if (is_part or clean in self.clips) and os.path.isfile(clean) else None


class _ReportHandler(PageHandler):
    server: ReportServer

    def _reply(self, words: list[str], query: str, body: bytes | None) -> None:
        self._send_file(self.server.file("/" + unquote("/".join(words))))


def serve_page(
    server_at: Callable[[int], PageServer], port: int, opens: bool, words: tuple[str, str], say: Callable[[str], None]
) -> None:
    """Say where a page is, and serve it until someone finishes it or Ctrl-C. words: what it is, and how it ends."""
    try:
        server = server_at(port)
    except (OSError, OverflowError) as e:
        raise InputError(f"review.port={port}: {e}", hint="choose another port, or 0 for any") from None
    port = server.server_port
    say(f"{words[0]} page   {server.address}")
    say(f"from afar     ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}   (there, then open the same address)")
    say(f"end           {words[1] or 'Ctrl-C'}")
    if opens:
        webbrowser.open(server.address)
    with suppress(KeyboardInterrupt):
        server.serve()
