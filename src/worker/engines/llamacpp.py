"""Engine `llamacpp`: llama.cpp's own server, from the package xllamacpp, as a child of the worker, with any GGUF."""

from __future__ import annotations

import os
from pathlib import Path

from ..processes import idle_cores
from ..protocol import AUTO, UpsampleJob
from ..window import Window, queue_of
from .child_server import ChildServer
from .llamacpp_server import LlamaServer, llamacpp_argv, llamacpp_version, model_file


class LlamaCppEngine(ChildServer):
    """llama.cpp's server with `engine.slots` slots, each with a context of max_model_len, started again when it dies."""

    name = "llamacpp"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        super().__init__(job, folder, dict(os.environ))
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

    def command(self, port: int) -> tuple[str, ...]:
        return llamacpp_argv(self.settings, port)

    @property
    def window(self) -> Window:
        """As many as the server has slots for and a few that wait: it never has more or fewer."""
        if self.job.engine.in_flight != AUTO:
            return Window(self.job.engine.in_flight, "fixed", is_fixed=True)
        slots = self.settings.slots
        return Window(slots + queue_of(slots), f"the server has {slots} slots", is_fixed=True)
