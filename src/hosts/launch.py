"""What starts a worker, on whichever host: the settings that its command depends on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

from ..planning.settings import HostSettings, ImageSettings, Settings
from ..worker.values import is_secret_name
from .bundle import WORKER


def interpreter(engine: str, python: str, *, is_here: bool) -> str:
    """The interpreter of a worker outside of containers: `python`, or on this machine this one, where the engine needs no other
    or none was named and this one has what it needs."""
    has_engine = engine == "llamacpp" or (engine == "vllm" and find_spec("vllm") is not None)
    own = engine in ("offline", "endpoint") or (has_engine and python == "python3")
    return sys.executable if is_here and own else python


@dataclass(frozen=True, slots=True)
class Launch:
    """How a job's worker is started.

    python: the interpreter, for a plain process. checkpoint, files: a folder, "" for none, and files that a container mounts
    read-only.
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
    files: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The variables that reach a container in a file, for its environment can be read by others."""
        named = (entry for entry in self.image.env if "=" not in entry and is_secret_name(entry))
        return tuple(dict.fromkeys((*((self.secret_env,) if self.secret_env else ()), *named)))

    @staticmethod
    def of(settings: Settings, run_id: str) -> Launch:
        """The launch of a job that upsamples."""
        engine = settings.engine
        return Launch(
            host=settings.host,
            image=settings.image,
            python=interpreter(engine.name, settings.python, is_here=settings.host.kind == "local"),
            checkpoint=settings.model.checkpoint,
            grace_s=engine.grace_s,
            run_id=run_id,
            needs_network=engine.name == "endpoint",
            secret_env=engine.api_key_env,
            secret_file=engine.api_key_file,
            files=tuple(file for file in (settings.model.gguf, settings.model.mmproj) if file.startswith("/")),
        )

    def command(self, folder: str) -> tuple[str, ...]:
        """The command that works in a job folder."""
        python = self.image.python if self.image.reference else self.python
        return (python, f"{folder}/{WORKER}", folder)
