"""Cosmos-Transfer1: a controlnet spec for a call, and a batch whose lines override its controls.

Source: github.com/nvidia-cosmos/cosmos-transfer1, main of 2026-06-07: diffusion/inference/transfer.py, inference_utils.py
(`load_controlnet_specs`, `validate_controlnet_specs`), preprocessors.py, world_generation_pipeline.py (121 frames).
"""

from __future__ import annotations

from typing import Any

from .engine import STRENGTHS, CallSettings, Engine, Key, Request, keys

CONTROLS = ("vis", "seg", "edge", "depth", "keypoint", "upscale", "hdmap", "lidar")
NO_CLIP_SIGMA = 80  # from here on, the clip is not used
_NEED_FILE = ("hdmap", "lidar")  # which no preprocessor makes


def _problem(request: Request) -> str:
    arguments, controls = request.arguments, request.whole
    fileless = [name for name, fields in controls.items() if not fields.get("input_control")]
    if not request.clip and (arguments.get("sigma_max", 0) < NO_CLIP_SIGMA or fileless):
        return (
            "it has no video, which Cosmos-Transfer1 starts from unless sigma_max is 80 or more and each control has its "
            "input_control"
        )
    if missing := [name for name in fileless if name in _NEED_FILE]:
        return f"{missing[0]}: needs input_control, for NVIDIA's script makes none"
    if arguments.get("use_distilled"):
        if arguments.get("is_av_sample"):
            return "use_distilled: does not go with is_av_sample"
        if other := [name for name, fields in controls.items() if name != "edge" and "ckpt_path" not in fields]:
            return f"use_distilled: {other[0]} has no distilled checkpoint; name one with ckpt_path"
    return ""


def _group(request: Request) -> dict[str, Any]:
    """The spec. The checkpoints of controls are loaded from it; everything else of them may differ from item to item."""
    controls = {name: dict(fields) for name, fields in request.controls.items()}
    if request.own:
        controls = {name: {k: v for k, v in fields.items() if k == "ckpt_path"} for name, fields in controls.items()}
    if not request.clip:  # asked for in the spec, where no clip is; each line names its own
        controls = {name: {**fields, "input_control": ""} for name, fields in controls.items()}
    own = {}
    if request.arguments.get("regional_prompts"):  # the script writes into them: no two items may share them
        own = {"prompt": request.prompt, "input_video_path": request.clip}
    return {**request.arguments, **own, **controls}


def _line(request: Request, name: str) -> dict[str, Any]:
    overrides = request.whole if request.own else request.overrides
    clip = {"visual_input": request.clip} if request.clip else {}
    return {**clip, "prompt": request.prompt, **({"control_overrides": overrides} if overrides else {})}


def _argv(settings: CallSettings) -> tuple[str, ...]:
    return (
        "--checkpoint_dir", settings.checkpoint_dir,
        "--video_save_folder", "{videos}",
        "--controlnet_specs", "{spec}",
        "--num_gpus", str(settings.num_gpus),
        "--batch_input_path", "{batch}",
    )  # fmt: skip


ENGINE = Engine(
    name="transfer1",
    title="Cosmos-Transfer1",
    controls={name: name for name in CONTROLS},
    fields={
        "control_weight": Key("control_weight", "weight", low=0),
        "input_control": Key("input_control", "file"),
        "control_weight_prompt": Key("control_weight_prompt", of=("seg",)),
        "input_control_prompt": Key("input_control_prompt", of=("seg",)),
        "ckpt_path": Key("ckpt_path"),
    },
    keys={
        "negative_prompt": Key("negative_prompt"),
        "blur_strength": Key("blur_strength", words=STRENGTHS),
        "canny_threshold": Key("canny_threshold", words=STRENGTHS),
        **keys("number", "sigma_max", "guidance", low=0),
        **keys("whole", "num_steps", "fps", low=1),
        **keys("whole", "seed", low=0, high=2**32 - 1),
        **keys("whole", "num_input_frames", low=1, high=1),
        **keys("flag", "use_distilled", "is_av_sample"),
        **keys("regions", "regional_prompts"),
    },
    script=("cosmos_transfer1/diffusion/inference/transfer.py",),
    flags={
        name: f"--{name}"
        for name in ("offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models")
    },
    reserved=(
        "--checkpoint_dir", "--video_save_folder", "--video_save_name", "--controlnet_specs", "--num_gpus", "--benchmark",
        "--batch_input_path", "--batch_size", "--input_video_path", "--prompt", "--upsample_prompt", "--save_input_noise",
    ),
    needs_hub=False,
    from_hub={  # cosmos_transfer1/checkpoints.py; keypoint: of rtmlib
        "depth": ("depth-anything/Depth-Anything-V2-Small-hf",),
        "seg": ("facebook/sam2-hiera-large", "IDEA-Research/grounding-dino-tiny"),
        "keypoint": (),
    },
    piece=121,
    problem=_problem,
    group=_group,
    line=_line,
    argv=_argv,
)  # fmt: skip
