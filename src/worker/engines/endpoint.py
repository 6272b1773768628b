"""Engine `endpoint`: an OpenAI-compatible server that already runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path

from ..chat import ChatClient, NotConnected
from ..lifecycle import LoadFailed
from ..protocol import AUTO, EngineSettings, UpsampleJob
from ..window import Window
from .engine import Answer, Phase, Request, Unavailable


class EndpointEngine:
    """An OpenAI-compatible server that already runs."""

    name = "endpoint"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        engine = job.engine
        self.window = Window() if engine.in_flight == AUTO else Window(engine.in_flight, "fixed", is_fixed=True)
        self.version = "unknown"
        self.fallbacks: list[str] = []
        self.client = ChatClient(
            engine.base_url.rstrip("/"),
            job.model.name,
            key_of(engine),
            engine.request_timeout_s,
            job.temperature,
            job.model.request_fields,
        )
        self.signals = self.client.signals

    def load(self, phase: Phase) -> None:
        try:
            status, body = self.client.get(f"{self.client.base.path}/models")
        except (OSError, http.client.HTTPException) as e:
            raise LoadFailed(f"{self.client.base.geturl()} cannot be reached: {e}") from e
        if status in (401, 403):
            raise LoadFailed(f"{self.client.base.geturl()} refused the key (HTTP {status})")
        if status == 200:
            names = [str(m.get("id")) for m in json.loads(body).get("data", [])]
            if names and self.client.model not in names:
                raise LoadFailed(f"the server serves {', '.join(names)}, not {self.client.model}: set model.name")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
            self.version = str(json.loads(self.client.get("/version")[1]).get("version", "unknown"))

    def answer(self, request: Request) -> Answer:
        try:
            return self.client.ask(request)
        except (OSError, http.client.HTTPException) as e:
            raise Unavailable(str(e), refused=isinstance(e, NotConnected)) from e

    def close(self) -> None:
        pass


def key_of(engine: EngineSettings) -> str | None:
    """The key, from the file or the variable that the config names; it is never written anywhere."""
    if engine.api_key_file:
        return Path(engine.api_key_file).expanduser().read_text().strip()
    if engine.api_key_env:
        key = os.environ.get(engine.api_key_env)
        if not key:
            raise LoadFailed(f"the environment variable {engine.api_key_env} (engine.api_key_env) is not set")
        return key
    return None
