"""Engine `endpoint`: an OpenAI-compatible server that already runs."""

from __future__ import annotations

import contextlib
import http.client
import os
from pathlib import Path

from ..chat import ChatClient
from ..endpoints import Endpoints
from ..job_settings import EngineSettings
from ..lifecycle import LoadFailed, NoAccess, NotThere
from ..network import above_v1
from ..protocol import AUTO, KEY_FILE_VARIABLE, UpsampleJob
from ..records import InvalidRecord, from_line
from ..replies import Models, Version
from ..signals import Signals
from ..values import Secret, secret_in, secret_named
from ..window import Window
from .engine import Answer, Phase, Request


class EndpointEngine:
    """OpenAI-compatible servers of one model that already run."""

    name = "endpoint"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        engine = job.engine
        self.window = Window() if engine.in_flight == AUTO else Window(engine.in_flight, "fixed", is_fixed=True)
        self.version = "unknown"
        self.fallbacks: list[str] = []
        urls = (engine.base_url, *engine.more_urls)
        self.signals = Signals(lambda: self._servers.metrics_page())
        self.clients = [ChatClient.of(job, url, key_of(engine), self.signals) for url in urls]
        self.client, self._servers = self.clients[0], Endpoints(self.clients)

    def load(self, phase: Phase) -> None:
        """One of the servers must be there, and those that are must serve the model."""
        gone: list[NotThere] = []
        for client in self.clients:
            try:
                _check(client)
            except NotThere as e:
                gone.append(e)
        if len(gone) == len(self.clients):
            raise gone[0]
        with contextlib.suppress(OSError, http.client.HTTPException, InvalidRecord):
            _, data = self.client.get(f"{above_v1(self.client.base)}/version")
            self.version = from_line(Version, data).version

    def answer(self, request: Request) -> Answer:
        return self._servers.ask(request)

    def close(self) -> None:
        pass


def _check(client: ChatClient) -> None:
    """Raises LoadFailed for a server that is not there, refuses the key, or serves another model."""
    url = client.base.geturl()
    try:
        status, body = client.get(f"{client.base.path}/models")
    except (OSError, http.client.HTTPException) as e:
        raise NotThere(f"{url} cannot be reached: {e}") from e
    if status in (401, 403):
        raise NoAccess(f"{url} refused the key (HTTP {status})")
    if status == 200:
        try:
            names = [model.name for model in from_line(Models, body).data or ()]
        except InvalidRecord:
            raise LoadFailed(
                f"{url} is no OpenAI-compatible server: GET /models gives no list of models; check engine.base_url"
            ) from None
        if names and client.model not in names:
            raise LoadFailed(f"the server serves {', '.join(names)}, not {client.model}: set model.name")


def key_of(engine: EngineSettings) -> Secret | None:
    """The key, from where a container has it, or from the file or the variable that the config names; None for no key."""
    if not (engine.api_key_env or engine.api_key_file):
        return None
    try:
        if file := os.environ.get(KEY_FILE_VARIABLE):
            return secret_in(Path(file), "the key that was brought into the container")
        return secret_named(engine.api_key_env, engine.api_key_file)
    except ValueError as e:
        raise NoAccess(str(e)) from None
