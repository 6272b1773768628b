"""The review page, served to browsers of this machine.

Posts from other pages are refused. Of files, only those are served that a run names.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from ..errors import UpsamplerError
from ..worker.records import parsed
from .page_server import PageHandler, PageServer
from .pages import page_template
from .review_queue import SHOWN, ReviewQueue

MOST_BYTES = 64 << 20  # of a posted body: a verdict about each of half a million items


class ReviewServer(PageServer):
    """Serves a review until someone finishes it."""

    def __init__(self, queue: ReviewQueue, reasons: Sequence[str], port: int = 0) -> None:
        super().__init__(_Handler, port)
        self.queue = queue
        template = page_template("review.html.j2")
        labels = [run.label for run in queue.runs]
        self.page = template.render(
            title=labels[0] if len(labels) == 1 else f"{len(labels)} runs",
            facets=queue.facets,
            shown=list(SHOWN),
            reasons=list(reasons)[:9],
            thumbnail_px=360,
        ).encode(errors="replace")


class _Handler(PageHandler):
    server: ReviewServer

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(self.rfile.read(int(length)))

    def _reply(self, words: list[str], query: str, body: bytes | None) -> None:
        given = {key: values[0] for key, values in parse_qs(query).items()}
        try:
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

    def _found(self, what: str, given: dict[str, str]) -> Any:
        queue = self.server.queue
        if what == "items":
            where = dict(parsed(given.get("where", "{}")))
            return queue.select(given.get("show", ""), where, given.get("words", ""), given.get("order", ""))
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
            data = parsed(body)
            self.server.queue.decide(data["verdicts"])
            self._send_json(self.server.queue.since(int(data["since"])))
