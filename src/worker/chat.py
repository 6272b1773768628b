"""A client of OpenAI's chat completions: one request after another, streamed."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from .engines.engine import Answer, ItemFailed, Refused, Request, Unavailable, is_clip
from .lifecycle import LoadFailed
from .refusals import classify, counted_tokens, message_of, named_limit

# ----------------------------------------------------------------------------------------------------------- engines


def chat_body(system: str, text: str, pngs: Sequence[bytes]) -> dict[str, Any]:
    """The messages of a request, in the form of OpenAI's chat completions."""
    images = [_part(data) for data in pngs]
    messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


def _part(data: bytes) -> dict[str, Any]:
    """A PNG, or a clip as MP4, as part of a message."""
    kind, mime = ("video_url", "video/mp4") if is_clip(data) else ("image_url", "image/png")
    return {"type": kind, kind: {"url": f"data:{mime};base64,{base64.b64encode(data).decode()}"}}


class ChatClient:
    """Requests to an OpenAI-compatible server; a kept-alive connection for each calling thread."""

    def __init__(
        self,
        base_url: str,
        model: str,
        key: str | None,
        timeout_s: float,
        temperature: float,
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.fields = fields  # further ones, the same in every request
        self.base, self.model, self.timeout_s, self.temperature = urlsplit(base_url), model, timeout_s, temperature
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
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
            connection.request("POST", f"{self.base.path}/chat/completions", body, self.headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response.status, response.headers.get("Retry-After"), response.read())
            return _read_stream(response, started)
        except (OSError, http.client.HTTPException, Unavailable):  # Unavailable: the rest of a stream may be unread
            self._drop()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._drop()
            raise

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            **chat_body(request.item.system, request.item.text, [picture.data for picture in request.pictures]),
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            **self.fields,
            "stream": True,  # the only way to learn when the first token came
            "stream_options": {"include_usage": True},
        }

    @staticmethod
    def _refusal(status: int, retry_after: str | None, body: bytes) -> Exception:
        text = body.decode("utf-8", "replace")
        kind = classify(text)
        if kind == "too_long":
            return Refused(message_of(text), "too_long", counted_tokens(text), named_limit(text))
        if kind == "tokenizer":
            return ItemFailed(f"{message_of(text)}: tokenizer and checkpoint do not match; check model.tokenizer")
        if status in (408, 409, 425, 429) or status >= 500:
            return Unavailable(f"HTTP {status}: {message_of(text)}", _seconds(retry_after))
        if status in (401, 403):
            return LoadFailed(f"the server refused the key (HTTP {status}): {message_of(text)}")
        return ItemFailed(f"the server refused the request (HTTP {status}): {message_of(text)}")

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
    """The answer from server-sent events, up to [DONE]; raises HTTPException when the stream breaks off before it."""
    parts: list[str] = []
    finish, first_token_s, queue_s = "", None, None
    usage: dict[str, Any] = {}
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            response.read()
            if finish == "abort":  # from a server that is being stopped, for an answer it did not finish
                raise Unavailable("the server aborted the request", None)
            if "prompt_tokens" not in usage:
                raise ItemFailed("the server reports no usage.prompt_tokens, so the plan cannot be checked")
            text = "".join(parts).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
            return Answer(text, finish, usage["prompt_tokens"], usage.get("completion_tokens"), first_token_s, queue_s)
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(message_of(data.decode("utf-8", "replace")), None)
        usage = event.get("usage") or usage
        if (queued_ms := (event.get("metrics") or {}).get("queue_time_ms")) is not None:
            queue_s = round(queued_ms / 1000, 4)
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content")
            if piece:
                if first_token_s is None:
                    first_token_s = round(time.monotonic() - started, 4)
                parts.append(piece)
            finish = choice.get("finish_reason") or finish
    raise http.client.HTTPException("the stream broke off")


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None  # an HTTP date: the usual back-off is used
