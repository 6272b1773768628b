"""How inference runs, as a frozen value."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..planning.settings import HostSettings, ImageSettings
from ..text import counted
from ..worker.values import Word
from .engines import ENGINES
from .engines.engine import Engine
from .vocabulary import Asked, asked_of

# Keys that are fields of the config too; further ones are in inference.arguments.
ARGUMENTS = (
    "negative_prompt", "sigma_max", "blur_strength", "canny_threshold", "num_steps", "guidance", "fps", "seed",
)  # fmt: skip
FLAGS = ("offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models")


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How inference runs; field by field as in the config group `inference`, but for:

    controls: the template, JSON text. arguments: what is set of the keys of items, JSON text. flags: those that are set.
    script: "" for the engine's. upscale: the videos are upscaled afterwards. image, python: with the defaults of the other groups
    in place of "".
    """

    name: str
    controls: str
    arguments: str
    flags: tuple[str, ...]
    checkpoint_dir: Word
    num_gpus: int
    repository: Word
    script: Word
    torchrun: Word
    python: Word
    extra_args: tuple[str, ...]
    require_upsampled: bool
    max_attempts: int
    grace_s: float
    time_limit_s: float
    host: HostSettings
    image: ImageSettings
    engine: str = "transfer1"
    checkpoint: Word = ""
    hf_home: Word = ""
    keep_controls: bool = False
    ignore: tuple[str, ...] = ()
    upscale: bool = False

    @property
    def engine_of(self) -> Engine:
        return ENGINES[self.engine]

    @property
    def template(self) -> Asked:
        """What items without controls of their own are made with, and defaults of keys."""
        return asked_of({**json.loads(self.arguments), **json.loads(self.controls)})

    @property
    def reaches_hub(self) -> bool:
        """Whether models can come from the Hugging Face hub, or from its cache on the host."""
        return not self.image.reference or self.image.network not in ("", "none") or bool(self.hf_home)

    @property
    def how(self) -> str:
        """What the time that a video takes depends on, in words."""
        steps = json.loads(self.arguments).get("num_steps")
        gpus = counted(self.num_gpus, "GPU")
        engine = "" if self.engine == "transfer1" else f" with {self.engine_of.title}"
        return f"inference={self.name}{engine}, {gpus}" + (f", {steps} steps" if steps else "")
