"""What starts a worker, on whichever host: the settings that its command depends on."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..planning.settings import HostSettings, ImageSettings, Settings
from ..worker.values import is_secret_name
from .bundle import WORKER


@dataclass(frozen=True, slots=True)
class Launch:
    """How a job's worker is started.

    python: the interpreter, for a plain process. checkpoint: a folder that a container mounts read-only, "" for none.
    needs_network: whether the worker asks a server elsewhere. secret_env, secret_file: a variable of the host's own environment
    that it gets, and a file there that it reads; "" for none. run_id: a label for people.
    """

    host: HostSettings
    image: ImageSettings
    python: str
    checkpoint: str
    grace_s: float
    run_id: str
    needs_network: bool = False
    secret_env: str = ""
    secret_file: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The variables that reach a container in a file, for its environment can be read by others."""
        named = (entry for entry in self.image.env if "=" not in entry and is_secret_name(entry))
        return tuple(dict.fromkeys((*((self.secret_env,) if self.secret_env else ()), *named)))

    @staticmethod
    def of(settings: Settings, run_id: str) -> Launch:
        """The launch of a job that upsamples. On this machine, engines that need no vLLM run in this interpreter."""
        engine, python = settings.engine, settings.python
        if settings.host.kind == "local" and engine.name in ("offline", "endpoint"):
            python = sys.executable
        return Launch(
            host=settings.host,
            image=settings.image,
            python=python,
            checkpoint=settings.model.checkpoint,
            grace_s=engine.grace_s,
            run_id=run_id,
            needs_network=engine.name == "endpoint",
            secret_env=engine.api_key_env,
            secret_file=engine.api_key_file,
        )

    def command(self, folder: str) -> tuple[str, ...]:
        """The command that works in a job folder."""
        python = self.image.python if self.image.reference else self.python
        return (python, f"{folder}/{WORKER}", folder)
