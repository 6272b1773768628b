"""Settings of inference, and which arguments, controls and weights NVIDIA's parser accepts."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..planning.settings import HostSettings, ImageSettings
from ..worker.values import Word

CONTROLS = ("vis", "seg", "edge", "depth", "keypoint", "upscale", "hdmap", "lidar")
STRENGTHS = ("very_low", "low", "medium", "high", "very_high")
# Fields beside the controls of a spec, which transfer.py reads as if they were arguments.
SPEC_ARGUMENTS: dict[str, type] = {
    "negative_prompt": str, "sigma_max": float, "blur_strength": str, "canny_threshold": str, "num_steps": int,
    "guidance": float, "fps": int, "seed": int,
}  # fmt: skip
MIN_VALUES = {"num_steps": 1, "fps": 1, "guidance": 0, "sigma_max": 0}  # of those that are numbers
# Fields of a control (examples/inference_cosmos_transfer1_7b.md, preprocessors.py).
CONTROL_FIELDS = ("control_weight", "control_weight_prompt", "input_control", "input_control_prompt", "ckpt_path")
FLAGS = ("offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models")
# Arguments that the program sets: with other values, it would not find the videos.
RESERVED_ARGS = (
    "--checkpoint_dir", "--video_save_folder", "--video_save_name", "--controlnet_specs", "--num_gpus",
    "--batch_input_path", "--batch_size", "--input_video_path", "--prompt", "--upsample_prompt",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """How inference runs; field by field as in the config group `inference`, but for:

    controls: the template, JSON text. arguments: what is set of SPEC_ARGUMENTS, JSON text. flags: those that are set.
    image, python: with the defaults of the other groups in place of "".
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

    @property
    def how(self) -> str:
        """What the time that a video takes depends on, in words."""
        steps = json.loads(self.arguments).get("num_steps")
        gpus = f"{self.num_gpus} GPU{'s' if self.num_gpus > 1 else ''}"
        return f"inference={self.name}, {gpus}" + (f", {steps} steps" if steps else "")


def wrong_argument(name: str, value: object) -> str:
    """What is wrong with one of SPEC_ARGUMENTS; "" when nothing is."""
    if name in ("blur_strength", "canny_threshold"):
        return "" if value in STRENGTHS else f"must be one of {', '.join(STRENGTHS)}"
    if SPEC_ARGUMENTS[name] is str:
        return "" if isinstance(value, str) else "must be text"
    if isinstance(value, bool) or not isinstance(value, int if SPEC_ARGUMENTS[name] is int else int | float):
        return "must be a whole number" if SPEC_ARGUMENTS[name] is int else "must be a number"
    least = MIN_VALUES.get(name)
    return "" if least is None or value >= least else f"must be {least} or more"


def wrong_weight(weight: object) -> str:
    """What is wrong with a control_weight by NVIDIA's `validate_controlnet_specs`; "" when it is right."""
    if isinstance(weight, str) and weight.endswith(".pt"):
        return ""
    try:
        right = float(weight) >= 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        right = False
    return "" if right else f"{weight!r} is neither a number from 0 on nor a .pt file"
