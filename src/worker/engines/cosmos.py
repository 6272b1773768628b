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

    It returns text only; token numbers and finish reason are those that its model gave it, where it can be listened to. With
    engine.offload its model is loaded for each prompt and unloaded after it; `_prompt_upsample_with_offload` is the class's entry
    for both modes.
    """

    name = "cosmos"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.version, _ = vllm_build()
        self.fallbacks: list[str] = []
        self.window, self.signals = Window(1, "fixed", is_fixed=True), None
        self._upsampler: Any = None
        self._said: Any = None  # the last output of its model

    def load(self, phase: Phase) -> None:
        os.environ.update(vllm_environment())  # before anything imports vllm
        try:
            module = importlib.import_module("cosmos_transfer1.auxiliary.upsampler.model.upsampler")
            self._upsampler = module.PixtralPromptUpsampler(
                checkpoint_dir=self.job.model.checkpoint,
                offload_prompt_upsampler=self.job.engine.offload,
            )
            self._listen()
        except ImportError as e:
            raise LoadFailed(f"{sys.executable} cannot import NVIDIA's upsampler: {e}") from e
        except (Exception, SystemExit) as e:
            raise LoadFailed(f"NVIDIA's upsampler did not load: {type(e).__name__}: {e}") from e

    def answer(self, request: Request) -> Answer:
        frames = [str(self.folder / name) for name in request.item.frames]
        self._said = None
        try:
            text = self._ask(request.item.text, frames)
        except (Exception, SystemExit) as e:  # of code that is not ours: it fails this item
            if classify(str(e)) == "too_long":
                raise Refused(message_of(str(e)), "too_long", counted_tokens(str(e)), named_limit(str(e))) from e
            raise ItemFailed(f"NVIDIA's upsampler: {type(e).__name__}: {e}") from e
        if self._said is None:
            return Answer(text, "unknown", None, None)
        answer = self._said.outputs[0]
        return Answer(text, answer.finish_reason, len(self._said.prompt_token_ids), len(answer.token_ids))

    def _listen(self) -> None:
        """Keep what the model returns, also of one that is loaded again."""
        upsampler = self._upsampler
        load = getattr(upsampler, "_load_upsampler_model", None)

        def listen() -> None:
            model: Any = getattr(upsampler, "upsampler_model", None)
            if chat := getattr(model, "chat", None):
                model.chat = lambda *args, **kwargs: self._keep(chat(*args, **kwargs))

        def load_and_listen() -> None:
            if load:
                load()
            listen()

        upsampler._load_upsampler_model = load_and_listen
        listen()

    def _keep(self, outputs: Any) -> Any:
        self._said = outputs[0]
        return outputs

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
