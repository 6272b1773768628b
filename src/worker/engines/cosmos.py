"""Engine `cosmos`: NVIDIA's own prompt upsampler in this process."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ..lifecycle import LoadFailed
from ..protocol import UpsampleJob
from ..refusals import classify, counted_tokens, message_of, named_limit
from ..window import Window
from .engine import Answer, ItemFailed, Phase, Refused, Request
from .vllm_server import vllm_build, vllm_environment


class CosmosEngine:
    """NVIDIA's own `PixtralPromptUpsampler` in this process, one prompt after another.

    It returns text only: prompt tokens and finish reason are unknown, and are reported as such. With engine.offload its model
    is loaded for each prompt and unloaded after it; `_prompt_upsample_with_offload` is the class's entry for both modes.
    """

    name = "cosmos"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.version, _ = vllm_build()
        self.fallbacks: list[str] = []
        self.window, self.signals = Window(1, "fixed", is_fixed=True), None
        self._upsampler: Any = None

    def load(self, phase: Phase) -> None:
        os.environ.update(vllm_environment())  # before anything imports vllm
        try:
            module = importlib.import_module("cosmos_transfer1.auxiliary.upsampler.model.upsampler")
            self._upsampler = module.PixtralPromptUpsampler(
                checkpoint_dir=self.job.model.checkpoint,
                offload_prompt_upsampler=self.job.engine.offload,
            )
        except ImportError as e:
            raise LoadFailed(f"{sys.executable} cannot import NVIDIA's upsampler: {e}") from e
        except Exception as e:
            raise LoadFailed(f"NVIDIA's upsampler did not load: {type(e).__name__}: {e}") from e

    def answer(self, request: Request) -> Answer:
        frames = [str(self.folder / name) for name in request.item.frames]
        try:
            text = self._ask(request.item.text, frames)
        except Exception as e:
            if classify(str(e)) == "too_long":
                raise Refused(message_of(str(e)), "too_long", counted_tokens(str(e)), named_limit(str(e))) from e
            raise ItemFailed(f"NVIDIA's upsampler: {type(e).__name__}: {e}") from e
        return Answer(text, "unknown", None, None)

    def _ask(self, text: str, frames: list[str]) -> str:
        """With the model in memory or, once that was too much, loaded for each prompt."""
        upsampler = self._upsampler
        try:
            return str(upsampler._prompt_upsample_with_offload(text, frames))
        except Exception as e:
            if classify(f"{type(e).__name__}: {e}") != "out_of_memory" or upsampler.offload_prompt_upsampler:
                raise
        self.fallbacks.append("offload=True")
        upsampler._offload_upsampler_model()
        upsampler.offload_prompt_upsampler = True
        return str(upsampler._prompt_upsample_with_offload(text, frames))

    def close(self) -> None:
        self._upsampler = None
