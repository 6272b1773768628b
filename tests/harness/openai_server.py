"""A fake OpenAI-compatible server: answers after a pause, another text for each request. Not an engine."""

from __future__ import annotations

import base64
import json
import math
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.harness import pixtral


class FakeOpenAI:
    """Listens on the loopback. It has no tokenizer: `count` says how many tokens a request has, by its text in `expected`.

    asked: the requests that it answered, in order; one whose client went away before its turn is not among them.
    delta: what it answers to a request. no_format: with which words it refuses a response_format; "": it takes it.
    limit: it refuses a prompt of more tokens, and one that leaves no room for the answer that is asked for, with `refusal`.
    """

    def __init__(self, pause_s: float = 0.05) -> None:
        self.pause_s = pause_s
        self.asked: list[dict[str, Any]] = []
        self.expected: dict[str, int] = {}
        self.count: Callable[[dict[str, Any]], int] = lambda body: self.expected[text_of(body)]
        self.delta: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: {
            "content": f"A long answer, number {body['seed']}."
        }
        self.limit = math.inf
        self.refusal = "your prompt contains {counted} input tokens; at most {limit} are left"
        # In place of answers to the next requests: status and body, or what is done with the connection.
        self.spoiled: list[tuple[int, bytes] | Callable[[BaseHTTPRequestHandler], None]] = []
        self.busy_until = 0.0  # of time.monotonic; until then it takes no requests
        self.no_format = ""
        self._most = math.inf
        self._changed = threading.Condition()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(b'{"data": []}')

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not fake._let_through(body, self.connection):
                    self.close_connection = True
                    return
                if time.monotonic() < fake.busy_until:
                    self._send(b"busy", 503)
                    return
                if fake.spoiled:
                    spoiled = fake.spoiled.pop()
                    if callable(spoiled):
                        self.close_connection = True
                        with suppress(OSError):
                            spoiled(self)
                    else:
                        self._send(spoiled[1], spoiled[0])
                    return
                if (refused := fake.no_format) and "response_format" in body:
                    self._send(json.dumps({"error": {"message": refused}}).encode(), 400)
                    return
                counted = fake.count(body)
                if counted + body["max_tokens"] > fake.limit:
                    words = fake.refusal.format(counted=counted, limit=fake.limit)
                    self._send(json.dumps({"error": {"message": words}}).encode(), 400)
                    return
                time.sleep(fake.pause_s)
                events: list[dict[str, Any]] = [
                    {"choices": [{"delta": fake.delta(body), "finish_reason": "stop"}]},
                    {"choices": [], "usage": {"prompt_tokens": counted, "completion_tokens": 9}},
                ]
                self._send(b"".join(f"data: {json.dumps(e)}\n\n".encode() for e in events) + b"data: [DONE]\n\n")

            def _send(self, body: bytes, status: int = 200) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # the worker was killed
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        complain = self._server.handle_error
        self._server.handle_error = (  # type: ignore[method-assign] # a client that goes away is no error
            lambda *request: None if isinstance(sys.exception(), OSError) else complain(*request)
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def allow(self, total: float = math.inf) -> None:
        """Answer so many requests over all, and keep those that come after them waiting."""
        with self._changed:
            self._most = total
            self._changed.notify_all()

    def times_asked(self) -> Counter[str]:
        """How often each text was asked."""
        return Counter(text_of(body) for body in list(self.asked))

    def _let_through(self, body: dict[str, Any], client: socket.socket) -> bool:
        """Wait for the turn of a request; False when its client went away meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.asked) < self._most)
            if _has_gone(client):
                return False
            self.asked.append(body)
        return True

    def close(self) -> None:
        self.allow()
        self._server.shutdown()
        self._server.server_close()


def text_of(body: dict[str, Any]) -> str:
    """The text of a request."""
    content = body["messages"][-1]["content"]
    return str(content if isinstance(content, str) else content[-1]["text"])


def counted_by_frames(body: dict[str, Any], text_tokens: int) -> int:
    """Tokens of a request as Pixtral counts them, by the sizes in the heads of its PNG frames."""
    urls = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    heads = [base64.b64decode(url.split(",")[1][:64]) for url in urls]
    sizes = [(int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")) for head in heads]
    return sum(pixtral.image_tokens(*size) for size in sizes) + pixtral.WRAPPER_TOKENS + text_tokens


def _has_gone(client: socket.socket) -> bool:
    try:
        return bool(select.select([client], [], [], 0)[0]) and not client.recv(1, socket.MSG_PEEK)
    except OSError:
        return True
