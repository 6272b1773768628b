"""A GGUF counted by llama.cpp's own server on this machine, which is started for the plan and ends with this process."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from ..errors import InputError
from ..worker.engines.llamacpp_server import IN_PACKAGE, LlamaServer, llamacpp_argv, llamacpp_version, model_file
from ..worker.job_settings import EngineSettings, ModelSettings
from ..worker.lifecycle import LoadFailed
from ..worker.processes import free_port
from ..worker.records import InvalidRecord, from_line
from ..worker.refusals import message_of
from ..worker.replies import InputTokens
from .counting_server import asked, started


def can_count(model: ModelSettings, *, is_here: bool) -> bool:
    """Whether this machine has what the host has: the same file, and a llama.cpp to read it. is_here: it is the host."""
    return bool(
        model.gguf
        and (is_here or model.gguf.startswith(IN_PACKAGE))
        and not any(missing(model.gguf, model.mmproj, is_own=True))
    )


def missing(gguf: str, mmproj: str, *, is_own: bool) -> Iterator[str]:
    """What keeps this machine from serving a model: its files and, where is_own says that this interpreter does it, packages."""
    wanted: list[Callable[[], object]] = [llamacpp_version] if is_own else []
    for field, name in (("model.gguf", gguf), ("model.mmproj", mmproj)):
        if name and (is_own or not name.startswith(IN_PACKAGE)):
            wanted.append(partial(model_file, name, field))
    for look in wanted:
        try:
            look()
        except LoadFailed as e:
            yield str(e)


class GgufServer:
    """The server that counts, started at the first question."""

    def __init__(self, model: ModelSettings, engine: EngineSettings) -> None:
        self.model, self.engine = model, engine
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
        said = message_of(data.decode("utf-8", "replace"))
        if status in (400, 413, 422):
            return said
        raise InputError(f"llama.cpp's server, which counts tokens of {self.gguf}, answered HTTP {status}: {said}")

    @cached_property
    def _address(self) -> str:
        port = free_port()
        mmproj = str(self.mmproj) if self.mmproj else ""
        settings = LlamaServer(str(self.gguf), mmproj, self.model.name, 1, 512, 1, 0, False)
        what, patience_s = f"llama.cpp's server for {self.gguf}", self.engine.start_timeout_s
        hint = (
            "model.gguf and model.mmproj must be whole, and parts of the same model" if mmproj else "is the file whole?"
        )
        return started(llamacpp_argv(settings, port), port, patience_s, what, hint=hint)

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        try:
            return asked(self._address, method, path, body, self.engine.request_timeout_s)
        except (OSError, http.client.HTTPException) as e:
            raise InputError(f"llama.cpp's server, which counts tokens of {self.gguf}, broke off: {e}") from e
