"""The review page, served to browsers of this machine.

Only whoever knows the address gets an answer: it has a random token. Requests under another host name are refused, since a
web page could have pointed its own name here (DNS rebinding), and so are posts from other pages. Of files, only those are
served that a run names. The standard library's server is enough: a review has a handful of readers.
"""

from __future__ import annotations

import json
import mimetypes
import re
import secrets
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import UpsamplerError
from .pages import page_template
from .review_queue import SHOWN, ReviewQueue

MOST_BYTES = 64 << 20  # of a posted body: a verdict about each of half a million items
OWN_NAMES = ("127.0.0.1", "localhost")


class ReviewServer(ThreadingHTTPServer):
    """Serves a review on 127.0.0.1 until `finished` is set. port: 0 for any that is free."""

    daemon_threads = True

    def __init__(self, queue: ReviewQueue, reasons: Sequence[str], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.queue, self.finished, self.token = queue, threading.Event(), secrets.token_urlsafe(24)
        template = page_template("review.html.j2")
        labels = [run.label for run in queue.runs]
        self.page = template.render(
            title=labels[0] if len(labels) == 1 else f"{len(labels)} runs",
            runs=labels,
            shown=list(SHOWN),
            reasons=list(reasons)[:9],
            thumbnail_px=360,
        ).encode(errors="replace")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def serve(self) -> None:
        """Answer until someone finishes the review, or an interrupt is raised here."""
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            self.finished.wait()
        finally:
            self.shutdown()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes | None) -> None:
        url = urlsplit(self.path)
        _, token, *words = url.path.split("/")
        if not self._is_own("Host") or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._send(HTTPStatus.FORBIDDEN)
            return
        try:
            given = {key: values[0] for key, values in parse_qs(url.query).items()}
            if body is not None:
                self._post(words, body)
            elif words == [""]:
                self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
            elif words[0] in ("clip", "hint", "frame"):
                self._send_file(self.server.queue.media(int(words[1]), words[0], int(given.get("n", 0))))
            else:
                self._send_json(self._found(words[0], given))
        except UpsamplerError as e:
            self._send_json({"error": e.message}, HTTPStatus.BAD_REQUEST)
        except ConnectionError:
            self.close_connection = True
        except OSError as e:  # the disk is full, for example
            self._send_json({"error": e.strerror or str(e)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        except (ValueError, LookupError, TypeError, AttributeError):  # numbers, names and bodies that no page sends
            self._send(HTTPStatus.BAD_REQUEST)

    def _found(self, what: str, given: dict[str, str]) -> Any:
        queue = self.server.queue
        if what == "items":
            return queue.select(*(given.get(key, "") for key in ("show", "run", "words", "order")))
        if what == "rows":
            return queue.rows([int(n) for n in given["n"].split(",")])
        if what == "changes":
            return queue.since(int(given["since"]))
        raise LookupError(what)

    def _post(self, words: list[str], body: bytes) -> None:
        if not self._is_own("Origin") or self.headers.get_content_type() != "application/json":
            self._send(HTTPStatus.FORBIDDEN)
        elif words == ["finish"]:
            self._send_json({})
            self.wfile.flush()
            self.server.finished.set()
        else:
            data = json.loads(body)
            self.server.queue.decide(data["verdicts"])
            self._send_json(self.server.queue.since(int(data["since"])))

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
