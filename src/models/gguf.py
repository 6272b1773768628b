"""A GGUF counted by llama.cpp's own server on this machine, which is started for the plan and ends with this process."""

from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ..errors import InputError
from ..worker.engines.llamacpp_server import IN_PACKAGE, LlamaServer, llamacpp_argv, llamacpp_version, model_file
from ..worker.job_settings import ModelSettings
from ..worker.lifecycle import LoadFailed
from ..worker.network import Connection
from ..worker.processes import free_port, guard_group
from ..worker.records import InvalidRecord, from_line
from ..worker.refusals import message_of
from ..worker.replies import MOST_REPLY, InputTokens

START_S = 120.0


def can_count(model: ModelSettings, *, is_here: bool) -> bool:
    """Whether this machine has what the host has: the same file, and a llama.cpp to read it. is_here: it is the host."""
    if not (model.gguf and (is_here or model.gguf.startswith(IN_PACKAGE))):
        return False
    with suppress(LoadFailed):
        llamacpp_version()
        return all(model_file(name, "model.gguf") for name in (model.gguf, model.mmproj) if name)
    return False


class GgufServer:
    """The server that counts, started at the first question."""

    def __init__(self, model: ModelSettings) -> None:
        self.model = model
        try:
            self.gguf = model_file(model.gguf, "model.gguf")
            self.mmproj = model_file(model.mmproj, "model.mmproj") if model.mmproj else None
        except LoadFailed as e:
            raise InputError(str(e), hint="model.family=unverified does without counts") from None

    def identity(self) -> str:
        """Stands for the files and the server that reads them."""
        files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in (self.gguf, self.mmproj) if f]
        made_of = json.dumps([files, llamacpp_version(), dict(self.model.request_fields)])
        return hashlib.sha256(made_of.encode()).hexdigest()[:16]

    def tokens(self, messages: Mapping[str, Any]) -> int | str:
        """Tokens of a request, through the model's template and tokenizer; the reason where the server refuses it."""
        path = "/v1/chat/completions/input_tokens"
        status, data = self._call("POST", path, json.dumps({**messages, **self.model.request_fields}))
        if status == 200:
            with suppress(InvalidRecord):
                return from_line(InputTokens, data).input_tokens
        return message_of(data.decode("utf-8", "replace"))

    @cached_property
    def _address(self) -> str:
        port = free_port()
        mmproj = str(self.mmproj) if self.mmproj else ""
        settings = LlamaServer(str(self.gguf), mmproj, self.model.name, 1, 512, len(os.sched_getaffinity(0)), 0)
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(
            llamacpp_argv(settings, port), stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        guard = guard_group(server.pid)  # ends it when this process dies, however it dies
        atexit.register(_end, server, guard)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and server.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                if _request(f"http://127.0.0.1:{port}", "GET", "/health", None)[0] == 200:
                    return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        server.kill()
        raise InputError(
            f"llama.cpp cannot load {self.gguf}, so tokens cannot be counted",
            hint="is it a whole GGUF of a model that llama.cpp knows? model.family=unverified does without counts",
        )

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        try:
            return _request(self._address, method, path, body)
        except (OSError, http.client.HTTPException) as e:
            raise InputError(f"llama.cpp's server, which counts tokens of {self.gguf}, broke off: {e}") from e


def _end(server: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
    server.kill()
    server.wait()
    guard.communicate()


def _request(address: str, method: str, path: str, body: str | None) -> tuple[int, bytes]:
    connection = Connection(urlsplit(address), START_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(MOST_REPLY)
    finally:
        connection.close()
