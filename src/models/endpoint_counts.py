"""A vLLM server that is asked for the tokens of a request (`/tokenize`)."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import InputError
from ..worker.engines.endpoint import key_of
from ..worker.job_settings import EngineSettings, ModelSettings
from ..worker.lifecycle import LoadFailed
from ..worker.network import Connection, above_v1, server_at
from ..worker.records import InvalidRecord, from_json
from ..worker.refusals import message_of
from ..worker.replies import Models, Tokens


class ServerCounts:
    """The server of engine=endpoint, asked from here."""

    def __init__(self, model: ModelSettings, engine: EngineSettings) -> None:
        self.model, self.base = model, server_at(engine.base_url)
        try:
            key = key_of(engine)
        except LoadFailed as e:
            raise InputError(f"engine: the key cannot be read: {e}") from e
        self.key, self.timeout_s = key, engine.request_timeout_s

    def identity(self) -> str:
        """Stands for the server and what it serves: a cache of its counts is not used for another."""
        _, models = self._call("GET", f"{self.base.path}/models")
        _, version = self._call("GET", f"{above_v1(self.base)}/version")
        try:
            served = [(m.name, m.root, m.max_model_len) for m in from_json(Models, models).data or ()]
        except InvalidRecord as e:
            raise InputError(f"{self.base.geturl()}: GET /models gives no list of models: {e}") from None
        made_of = (self.base.geturl(), self.model.name, served, version, self.model.request_fields)
        return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()[:16]

    def tokens(self, messages: Mapping[str, Any]) -> int | str:
        """Tokens of a request by `/tokenize`, which runs the whole preprocessing; the reason where the server refuses it."""
        body = {"model": self.model.name, **messages, **self.model.request_fields}
        status, found = self._call("POST", f"{above_v1(self.base)}/tokenize", body)
        if status == 200:
            with suppress(InvalidRecord):
                return from_json(Tokens, found).count
        if status in (400, 413, 422):
            return message_of(json.dumps(found))
        raise InputError(
            f"{self.base.geturl()}: /tokenize answered HTTP {status}: {message_of(json.dumps(found))}",
            hint="model.family=ask needs a vLLM server; model.family=unverified does without counts",
        )

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else {}
        sent = json.dumps(body) if body is not None else None
        try:
            status, answer = Connection(self.base, self.timeout_s).exchange(method, path, sent, headers)
        except (OSError, http.client.HTTPException) as e:
            raise InputError(
                f"{self.base.geturl()} cannot be reached from here: {e}",
                hint="the server must run before the plan is made; or set model.family",
            ) from e
        data = answer.decode("utf-8", "replace")
        try:
            found = json.loads(text := self.key.masked(data) if self.key else data)
        except (ValueError, RecursionError):
            found = text
        return status, found if isinstance(found, dict) else {"message": found}
