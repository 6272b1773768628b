"""A client of OpenAI's chat completions: requests from many threads, streamed."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from .engines.engine import Answer, ItemFailed, Refused, Request, Unavailable, data_url, is_clip
from .job_settings import Example
from .lifecycle import LoadFailed, NoAccess
from .network import Connection, above_v1, open_socket, proxy_headers, server_at, target
from .protocol import UpsampleJob
from .records import InvalidRecord
from .refusals import classify, counted_tokens, message_of, named_limit
from .replies import MOST_TEXT, Usage, completion_of, pause_of
from .signals import NoMetrics, Signals
from .streams import Reader, Response, send
from .values import Secret

METRICS_TIMEOUT_S = 2.0
# In a JSON text only an empty URL, for quotes inside of strings are escaped.
_URL, _NO_URL = b'{"url": "%s"}', b'{"url": ""}'
_JSON = {"Content-Type": "application/json"}
_NO_FORMAT = re.compile(rb"response_format|json_schema|structured.?output|guided|grammar", re.IGNORECASE)
NOT_TAKEN = (402, 429, 502, 503, 504)  # of a server that is full or away, wants to be paid, or of a proxy before it

# ----------------------------------------------------------------------------------------------------------- engines


class NotConnected(OSError):
    """No connection to the server: the request was not sent."""


def chat_body(system: str, text: str, pictures: Sequence[bytes], examples: Sequence[Example] = ()) -> dict[str, Any]:
    """The messages of a request, in the form of OpenAI's chat completions."""
    return _messages(system, text, [_part(is_clip(data), data_url(data).decode()) for data in pictures], examples)


def _messages(
    system: str,
    text: str,
    images: Sequence[Mapping[str, Any]],
    examples: Sequence[Example],
    turns: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for example in examples:
        messages += [{"role": "user", "content": example.user}, {"role": "assistant", "content": example.answer}]
    messages.append({"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text})
    messages += [{"role": role, "content": said} for role, said in turns]
    return {"messages": messages}


def _part(clip: bool, url: str) -> dict[str, Any]:
    kind = "video_url" if clip else "image_url"
    return {"type": kind, kind: {"url": url}}


class ChatClient:
    """Requests to an OpenAI-compatible server over kept-alive connections; `signals` is told what becomes of them."""

    def __init__(
        self,
        base_url: str,
        model: str,
        key: Secret | None,
        timeout_s: float,
        temperature: float,
        fields: Mapping[str, Any] = MappingProxyType({}),
        signals: Signals | None = None,
        response_format: Mapping[str, Any] = MappingProxyType({}),
        examples: Sequence[Example] = (),
    ) -> None:
        self.fields, self.examples = fields, examples  # the same in every request
        self.response_format, self._note = response_format, ""  # until the server refuses it
        self.base, self.model, self.timeout_s, self.temperature = server_at(base_url), model, timeout_s, temperature
        self.key = key
        via_proxy = proxy_headers(self.base) if self.base.scheme == "http" else {}
        lines = (f"{name}: {value}\r\n" for name, value in {**_JSON, **via_proxy}.items())
        path = target(self.base, f"{self.base.path}/chat/completions")
        self._head = f"POST {path} HTTP/1.1\r\nHost: {self.base.netloc}\r\n{''.join(lines)}"
        self.signals = signals or Signals(self.metrics_page)
        self._reader = Reader(lambda: self.signals.is_counted)
        self._idle: list[socket.socket] = []  # connections; appending and popping are atomic

    @classmethod
    def of(cls, job: UpsampleJob, url: str, key: Secret | None, signals: Signals) -> ChatClient:
        """The client for a job, of the server at this address."""
        wanted = job.temperature, job.request_fields, signals, job.response_format, job.model.examples
        return cls(url, job.model.name, key, job.engine.request_timeout_s, *wanted)

    def ask(self, request: Request) -> Answer:
        """Send one request and wait for its whole answer.

        Raises Refused when the prompt is too long, ItemFailed when the server rejects it for good, Unavailable when it
        may work later, and OSError or HTTPException when the connection breaks.
        """
        try:
            wanted = self.response_format  # another thread may learn meanwhile that the server takes none
            response = self._post(self._body(request, wanted))
            if response.status == 400 and wanted and _NO_FORMAT.search(response.body):
                self._note = "the server takes no response_format: asked without it"
                self.response_format = {}
                return self.ask(request)
            if response.status != 200:
                raise self._refusal(response.status, response.headers.get("retry-after"), response.body)
            answer = _read_stream(response, self.masked)
        except InvalidRecord as e:
            raise ItemFailed(f"the server did not send an answer: {self.masked(str(e))}") from e
        seconds = response.last_at - response.started
        self.signals.answered(answer.prompt_tokens or 0, answer.output_tokens or 0, response.events, seconds)
        return replace(answer, note=self._note) if self._note else answer

    def get(self, path: str, timeout_s: float | None = None) -> tuple[int, bytes]:
        """A response to GET, over a connection of its own."""
        return Connection(self.base, timeout_s or self.timeout_s).exchange("GET", path, headers=self._authorization())

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else {}

    def masked(self, text: str) -> str:
        """What a server says, without the key that it may repeat."""
        return self.key.masked(text) if self.key else text

    def metrics_page(self) -> str | None:
        """/metrics of the server; None where it has none. Raises OSError when it does not answer."""
        try:
            status, body = self.get(f"{above_v1(self.base)}/metrics", METRICS_TIMEOUT_S)
        except http.client.HTTPException as e:
            raise OSError(f"{e}") from e
        if status >= 500:  # it starts, or is busy
            raise NoMetrics(f"/metrics: HTTP {status}")
        return body.decode("utf-8", "replace") if status == 200 else None

    def _body(self, request: Request, response_format: Mapping[str, Any]) -> bytes:
        item, pictures = request.item, request.pictures
        images = [_part(p.is_clip, "") for p in pictures]
        body = {
            **_messages(item.system, item.text, images, self.examples, request.turns),
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            **self.fields,
            **response_format,
            "stream": True,  # the only way to learn when the first token came
            "stream_options": {"include_usage": True},
        }
        first, *rest = json.dumps(body).encode().split(_NO_URL)
        parts = [part for picture, text in zip(pictures, rest, strict=True) for part in (_URL % picture.url, text)]
        return b"".join((first, *parts))

    # ------------------------------------------------------------------------------------------------- connections

    def _post(self, body: bytes) -> Response:
        """Send a body and wait for the response; once more, where the server had closed a connection that was idle."""
        key = "".join(f"{name}: {value}\r\n" for name, value in self._authorization().items())
        data = f"{self._head}{key}Content-Length: {len(body)}\r\n\r\n".encode() + body
        while True:
            try:
                connection, is_new = self._idle.pop(), False
            except IndexError:
                connection, is_new = self._connect(), True
            response = Response(connection, self.signals.came)
            self.signals.sent(len(body))
            try:
                self._exchange(response, data)
            except (OSError, http.client.HTTPException, InvalidRecord) as e:
                self._close(connection)
                if is_new or response.status or isinstance(e, TimeoutError):
                    raise
                continue
            finally:
                self.signals.ended(len(body), silent=response.first_s is None)
            if response.headers.get("connection", "").lower() == "close":
                self._close(connection)
            else:
                self._idle.append(connection)
            return response

    def _exchange(self, response: Response, data: bytes) -> None:
        send(response.sock, data, self.timeout_s)
        self._reader.add(response)
        if not response.wait(self.timeout_s):
            raise TimeoutError(f"no answer within {self.timeout_s:.0f} s (engine.request_timeout_s)")
        if response.error:
            raise response.error

    def _close(self, connection: socket.socket) -> None:
        self._reader.drop(connection.fileno())
        connection.close()

    def _connect(self) -> socket.socket:
        try:
            return open_socket(self.base, self.timeout_s)
        except OSError as e:
            raise NotConnected(f"{self.base.geturl()} cannot be reached: {e}") from e

    def _refusal(self, status: int, retry_after: str | None, body: bytes) -> Exception:
        text = self.masked(body.decode("utf-8", "replace"))
        kind = classify(text)
        if kind == "too_long":
            return Refused(message_of(text), "too_long", counted_tokens(text), named_limit(text))
        if kind == "tokenizer":
            return ItemFailed(f"{message_of(text)}: tokenizer and checkpoint do not match; check model.tokenizer")
        if kind == "no_pictures":
            return ItemFailed(f"{message_of(text)}: check model.mmproj, or set model.text_only=true")
        if status in (*NOT_TAKEN, 408, 409, 425) or status >= 500:
            message = f"HTTP {status}: {message_of(text)}"
            return Unavailable(message, pause_of(retry_after), refused=status in NOT_TAKEN)
        if status in (401, 403):
            return NoAccess(f"the server refused the key (HTTP {status}): {message_of(text)}")
        if 300 <= status < 400 or status in (404, 405, 407, 410):  # no fault of the item: all others would get the same
            return LoadFailed(
                f"the server has no such model or address (HTTP {status}): {message_of(text)}: check engine.base_url and model.name"
            )
        return ItemFailed(f"the server refused the request (HTTP {status}): {message_of(text)}")


def _read_stream(response: Response, masked: Callable[[str], str]) -> Answer:
    """The answer from server-sent events, up to [DONE]; raises HTTPException when the stream broke off before it, InvalidRecord
    for a reply of another form."""
    reply = completion_of(response.body)
    if (error := next((event.error for event in reply.events if event.error is not None), None)) is not None:
        raise Unavailable(masked(message_of(json.dumps({"error": error}))))
    if not reply.is_done:
        if not reply.events and response.body.lstrip().startswith(b"{"):  # no stream, whatever the status says
            raise Unavailable(masked(message_of(response.body.decode("utf-8", "replace"))))
        raise http.client.HTTPException("the stream broke off")
    usage, finish, queue_s = Usage(), "", None
    for event in reply.events:
        usage = event.usage or usage
        if event.metrics and event.metrics.queue_time_ms is not None:
            queue_s = round(event.metrics.queue_time_ms / 1000, 4)
        finish = event.finish_reason or finish
    if finish == "abort":  # from a server that is being stopped, for an answer it did not finish
        raise Unavailable("the server aborted the request")
    if finish == "error":  # of a provider behind the server
        raise Unavailable("the server ended the answer with an error")
    if max(len(json.dumps(part)) for part in (reply.text, reply.reasoning)) > MOST_TEXT:
        raise InvalidRecord(f"an answer of more than {MOST_TEXT} bytes")
    text = reply.text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text
    thoughts = reply.reasoning.encode("utf-8", "replace").decode()
    return Answer(text, finish, usage.prompt_tokens, usage.completion_tokens, response.first_s, queue_s, thoughts)
