"""Engine `endpoint`: an OpenAI-compatible server that already runs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import time
from pathlib import Path

from ..chat import ChatClient
from ..lifecycle import LoadFailed
from ..protocol import EngineSettings, UpsampleJob
from .engine import Answer, ItemFailed, Phase, Request, Unavailable


class EndpointEngine:
    """An OpenAI-compatible server that already runs."""

    name = "endpoint"
    BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        engine = job.engine
        self.concurrency = engine.in_flight or 16
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
        """Ask, and ask again with growing pauses while the server is busy or away."""
        for pause_s in (*self.BACK_OFF_S, None):
            try:
                return self.client.ask(request)
            except (Unavailable, OSError, http.client.HTTPException) as e:
                if pause_s is None:
                    raise ItemFailed(f"the server did not answer {len(self.BACK_OFF_S) + 1} times: {e}") from e
                asked = e.retry_after_s if isinstance(e, Unavailable) else None
                time.sleep(asked if asked is not None else pause_s * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

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
