"""Engine `endpoint`: an OpenAI-compatible server that already runs."""

from __future__ import annotations

import contextlib
import http.client
import os
from pathlib import Path

from ..chat import ChatClient, NotConnected
from ..job_settings import EngineSettings
from ..lifecycle import LoadFailed
from ..protocol import AUTO, KEY_FILE_VARIABLE, UpsampleJob
from ..records import InvalidRecord, from_line
from ..replies import Models, Version
from ..values import Secret, secret_in, secret_named
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
            job.request_fields,
            response_format=job.response_format,
            examples=job.model.examples,
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
            try:
                names = [model.name for model in from_line(Models, body).data or ()]
            except InvalidRecord:
                raise LoadFailed(
                    f"{self.client.base.geturl()} is no OpenAI-compatible server: GET /models gives no list of models; "
                    "check engine.base_url"
                ) from None
            if names and self.client.model not in names:
                raise LoadFailed(f"the server serves {', '.join(names)}, not {self.client.model}: set model.name")
        with contextlib.suppress(OSError, http.client.HTTPException, InvalidRecord):
            self.version = from_line(Version, self.client.get("/version")[1]).version

    def answer(self, request: Request) -> Answer:
        try:
            return self.client.ask(request)
        except (OSError, http.client.HTTPException) as e:
            raise Unavailable(str(e), refused=isinstance(e, NotConnected)) from e

    def close(self) -> None:
        pass


def key_of(engine: EngineSettings) -> Secret | None:
    """The key, from where a container has it, or from the file or the variable that the config names; None for no key."""
    if not (engine.api_key_env or engine.api_key_file):
        return None
    try:
        if file := os.environ.get(KEY_FILE_VARIABLE):
            return secret_in(Path(file), "the key that was brought into the container")
        return secret_named(engine.api_key_env, engine.api_key_file)
    except ValueError as e:
        raise LoadFailed(str(e)) from None
