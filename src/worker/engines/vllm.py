"""Engine `vllm`: vLLM's OpenAI-compatible server as a child of the worker."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from ..lifecycle import LoadFailed
from ..protocol import AUTO, UpsampleJob
from ..refusals import classify
from ..window import Window, queue_of
from .child_server import ChildServer
from .engine import Phase
from .tiny_models import make_tiny_model
from .vllm_server import Server, next_fallback, vllm_argv, vllm_build, vllm_environment, vllm_options


class VllmEngine(ChildServer):
    """vLLM's OpenAI-compatible server as a child of the worker, started again when it dies."""

    name = "vllm"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        super().__init__(job, folder, vllm_environment())
        self.version, self.cpu = vllm_build()
        self.settings = Server.of(job)

    def command(self, port: int) -> tuple[str, ...]:
        return vllm_argv(self.settings, port, self.version, cpu=self.cpu, options=vllm_options())

    def ease(self, reason: str) -> str:
        return self.fallbacks[-1] if self._fall_back(reason, serving=True) else ""

    def load(self, phase: Phase) -> None:
        """Start the server; when memory is short, with less and less, until it starts or nothing is left to give up."""
        if self.job.model.tiny_random:
            self.settings = replace(self.settings, checkpoint=str(make_tiny_model(self.job, self.folder / "model")))
        elif not Path(self.settings.checkpoint).is_dir():
            raise LoadFailed(f"model.checkpoint={self.settings.checkpoint}: there is no such folder on this host")
        while True:
            try:
                return super().load(phase)
            except LoadFailed as e:
                if not self._fall_back(str(e)):
                    tried = f" (tried before: {'; '.join(self.fallbacks)})" if self.fallbacks else ""
                    raise LoadFailed(f"{e}{tried}") from None
                phase("loading", fallback=self.fallbacks[-1], reason="out of memory")

    @property
    def window(self) -> Window:
        """As many as the server has slots for and a few that wait, or fewer, where its KV cache holds less."""
        if self.job.engine.in_flight != AUTO:
            return Window(self.job.engine.in_flight, "fixed", is_fixed=True)
        slots = self.settings.max_num_seqs * self.settings.model.data_parallel_size
        metrics = None
        with contextlib.suppress(OSError):
            metrics = self.signals.metrics()
        fit = metrics.kv_tokens // max(1, self.job.needed_len) if metrics else 0
        if 0 < fit < slots:
            return Window(fit, f"the KV cache holds {fit} of the longest requests")
        return Window(slots + queue_of(slots), f"the server has {slots} slots", ramps=False)

    def _fall_back(self, error: str, *, serving: bool = False) -> bool:
        """Settle for less after an out-of-memory error; whether there was something to give up."""
        is_memory = classify(error) == "out_of_memory"
        changes = next_fallback(self.settings, self.job.needed_len, serving=serving) if is_memory else None
        if changes is None:
            return False
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.fallbacks.append(", ".join(f"{k}={v}" for k, v in changes.items()))
        return True
