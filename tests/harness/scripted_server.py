"""A fake OpenAI-compatible server that answers each request from a script. It has no engine."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Response = tuple[int, dict[str, str], bytes]


class ScriptedServer:
    """Listens on the loopback. script: the next responses; without one it streams "a long boat ".

    asked: bodies of the requests; keys: their Authorization headers; paths: of all requests.
    """

    def __init__(self) -> None:
        self.script: list[Response] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.models: Response = (200, {}, json.dumps({"data": [{"id": "pixtral"}], "version": "0.0.fake"}).encode())
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize, disable_nagle_algorithm = -1, True  # a response is one packet

            def do_GET(self) -> None:
                scripted.paths.append(self.path)
                self._send(*scripted.models)

            def do_POST(self) -> None:
                scripted.paths.append(self.path)
                scripted.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                scripted.keys.append(self.headers.get("Authorization"))
                self._send(*(scripted.script.pop(0) if scripted.script else (200, {}, stream("a long boat", 7))))

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def stream(text: str, prompt_tokens: int | None, finish: str = "stop", *, done: bool = True) -> bytes:
    """A streamed answer: one event per word, the finish reason, the usage, and [DONE] unless it breaks off."""
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": word + " "}}]} for word in text.split(" ")]
    events += [{"choices": [{"delta": {}, "finish_reason": finish}]}]
    if prompt_tokens is not None:
        events += [{"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(text.split())}}]
    return b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + (b"data: [DONE]\n\n" * done)
