"""Engine `llamacpp`: llama.cpp's own server, from the package xllamacpp, as a child of the worker, with any GGUF."""

from __future__ import annotations

import os
from pathlib import Path

from ..processes import idle_cores
from ..protocol import AUTO, UpsampleJob
from ..window import Window, queue_of
from .child_server import ChildServer
from .engine import Answer, Phase, Request
from .llamacpp_server import LlamaServer, llamacpp_argv, llamacpp_version, model_file


class LlamaCppEngine:
    """llama.cpp's server with `engine.slots` slots, each with a context of max_model_len, started again when it dies."""

    name = "llamacpp"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        self.version = llamacpp_version()
        engine, model = job.engine, job.model
        self.settings = LlamaServer(
            gguf=str(model_file(model.gguf, "model.gguf")),
            mmproj=str(model_file(model.mmproj, "model.mmproj")) if model.mmproj else "",
            name=model.name,
            slots=engine.slots,
            slot_len=job.max_model_len,
            threads=engine.threads or idle_cores(),
            gpu_layers=engine.gpu_layers,
        )
        self.fallbacks: list[str] = []
        self.server = ChildServer(job, folder, lambda port: llamacpp_argv(self.settings, port), dict(os.environ))
        self.signals = self.server.signals

    @property
    def window(self) -> Window:
        """As many as the server has slots for and a few that wait: it never has more or fewer."""
        if self.server.job.engine.in_flight != AUTO:
            return Window(self.server.job.engine.in_flight, "fixed", is_fixed=True)
        slots = self.settings.slots
        return Window(slots + queue_of(slots), f"the server has {slots} slots", is_fixed=True)

    def load(self, phase: Phase) -> None:
        self.server.start(phase)

    def answer(self, request: Request) -> Answer:
        return self.server.answer(request)

    def close(self) -> None:
        self.server.close()
