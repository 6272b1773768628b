"""A client of OpenAI's chat completions: one request after another, streamed."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .engines.engine import Answer, ItemFailed, Refused, Request, Unavailable
from .lifecycle import LoadFailed
from .records import InvalidRecord
from .refusals import classify, counted_tokens, message_of, named_limit
from .replies import MOST_REPLY, Usage, events_of, pause_of
from .values import Secret

# ----------------------------------------------------------------------------------------------------------- engines


def chat_body(system: str, text: str, pngs: Sequence[bytes]) -> dict[str, Any]:
    """The messages of a request, in the form of OpenAI's chat completions."""
    images = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png).decode()}}
        for png in pngs
    ]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


class ChatClient:
    """Requests to an OpenAI-compatible server; a kept-alive connection for each calling thread."""

    def __init__(self, base_url: str, model: str, key: Secret | None, timeout_s: float, temperature: float) -> None:
        self.base, self.model, self.timeout_s, self.temperature = urlsplit(base_url), model, timeout_s, temperature
        self.key = key
        self._local = threading.local()

    def ask(self, request: Request) -> Answer:
        """Send one request and wait for its whole answer.

        Raises Refused when the prompt is too long, ItemFailed when the server rejects it for good, Unavailable when it
        may work later, and OSError or HTTPException when the connection breaks.
        """
        started = time.monotonic()
        body = json.dumps(self._body(request)).encode()
        connection = self._connection()
        try:
            connection.request("POST", f"{self.base.path}/chat/completions", body, self._headers())
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.headers.get("Retry-After"), response.read(MOST_REPLY))
            return _read_stream(response, started)
        except (OSError, http.client.HTTPException, Unavailable, ItemFailed):  # the rest of a stream may be unread
            self._drop()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self._headers())
            response = connection.getresponse()
            return response.status, response.read(MOST_REPLY)
        except (OSError, http.client.HTTPException):
            self._drop()
            raise

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        return headers | {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else headers

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            **chat_body(request.item.system, request.item.text, [picture.data for picture in request.pictures]),
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "stream": True,  # the only way to learn when the first token came
            "stream_options": {"include_usage": True},
        }

    def _refusal(self, status: int, retry_after: str | None, body: bytes) -> Exception:
        text = self.masked(body.decode("utf-8", "replace"))
        kind = classify(text)
        if kind == "too_long":
            return Refused(message_of(text), "too_long", counted_tokens(text), named_limit(text))
        if kind == "tokenizer":
            return ItemFailed(f"{message_of(text)}: tokenizer and checkpoint do not match; check model.tokenizer")
        if status in (408, 409, 425, 429) or status >= 500:
            return Unavailable(f"HTTP {status}: {message_of(text)}", pause_of(retry_after))
        if status in (401, 403):
            return LoadFailed(f"the server refused the key (HTTP {status}): {message_of(text)}")
        return ItemFailed(f"the server refused the request (HTTP {status}): {message_of(text)}")

    def masked(self, text: str) -> str:
        """What a server says, without the key that it may repeat."""
        return self.key.masked(text) if self.key else text

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self.base.scheme == "https" else http.client.HTTPConnection
            connection = self._local.connection = kind(self.base.hostname or "", self.base.port, timeout=self.timeout_s)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None


def _read_stream(response: http.client.HTTPResponse, started: float) -> Answer:
    """The answer from server-sent events, up to [DONE]; raises HTTPException when the stream breaks off before it, ItemFailed
    for a reply of another form."""
    parts: list[str] = []
    finish, first_token_s, queue_s = "", None, None
    usage = Usage()
    try:
        for event in events_of(response):
            if event.error is not None:
                raise Unavailable(message_of(json.dumps({"error": event.error})), None)
            usage = event.usage or usage
            if event.metrics and event.metrics.queue_time_ms is not None:
                queue_s = round(event.metrics.queue_time_ms / 1000, 4)
            if event.pieces and first_token_s is None:
                first_token_s = round(time.monotonic() - started, 4)
            parts += event.pieces
            finish = event.finish_reason or finish
        response.read(MOST_REPLY)
    except InvalidRecord as e:
        raise ItemFailed(f"the server sent something else than an answer: {e}") from e
    except EOFError as e:
        raise http.client.HTTPException(str(e)) from e
    if finish == "abort":  # from a server that is being stopped, for an answer it did not finish
        raise Unavailable("the server aborted the request", None)
    if usage.prompt_tokens is None:
        raise ItemFailed("the server reports no usage.prompt_tokens, so the plan cannot be checked")
    text = "".join(parts).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    return Answer(text, finish, usage.prompt_tokens, usage.completion_tokens, first_token_s, queue_s)
