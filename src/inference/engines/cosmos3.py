"""Cosmos 3 (cosmos-framework): transfer is video2video with hints; a sample without a hint would only continue its clip.

Source: github.com/NVIDIA/cosmos-framework, main of 2026-08-21: docs/inference.md, cosmos_framework/inference/args.py (an unknown
key ends the batch before anything is loaded), common/args.py (suffixes, names), inference.py, transfer.py.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ...targets.exports import MODE_OF, Sample, sample_of_cosmos3
from .engine import STRENGTHS, CallSettings, Engine, Key, Request, keys

MODELS = ("Cosmos3-Nano", "Cosmos3-Edge")  # Cosmos3-Super makes no video from a video
_ONLY_WITH_HINTS = (
    "negative_prompt_file", "num_video_frames_per_chunk", "num_conditional_frames", "max_frames", "show_control_condition",
    "show_input", "num_first_chunk_conditional_frames", "share_vision_temporal_positions", "emphasize_control_in_prompt",
    "control_guidance", "control_guidance_interval",
)  # fmt: skip
_NEED_FILE = ("depth", "seg", "wsm")  # of these, the loader accepts a hint without one, and generation raises


def _problem(request: Request) -> str:
    controls = request.whole
    if not controls and (alone := [name for name in _ONLY_WITH_HINTS if name in request.arguments]):
        return f"{alone[0]}: needs a control"
    for name, fields in controls.items():
        if not fields.get("control_path") and (name in _NEED_FILE or not request.clip):
            return f"{name}: needs a control video (control_path), for Cosmos 3 makes none" + (
                "" if request.clip else " without a clip"
            )
    if request.clip and PurePath(request.clip).suffix.lower() not in MODE_OF:
        return f"{request.clip}: Cosmos 3 takes pictures, and clips that end in .mp4"
    if controls and not sum(fields.get("weight", 1.0) for fields in controls.values()):
        return "the weights of its controls are all 0"
    if len(request.arguments.get("control_guidance_interval", (0, 0))) != 2:
        return "control_guidance_interval: must be two numbers"
    if not request.clip and request.arguments.get("num_first_chunk_conditional_frames"):
        return "num_first_chunk_conditional_frames: needs a clip"
    if not request.clip and request.arguments.get("model_mode", "text2video") != "text2video":
        return f"model_mode={request.arguments['model_mode']}: needs a clip"
    return ""


def _line(request: Request, name: str) -> dict[str, Any]:
    sample = sample_of_cosmos3(Sample(name, request.prompt, clip=request.clip))
    return {**sample, **request.arguments, **request.whole}


def _argv(settings: CallSettings) -> tuple[str, ...]:
    return ("-i", "{batch}", "-o", "{videos}", "--checkpoint-path", settings.checkpoint or MODELS[0], "--keep-going")


ENGINE = Engine(
    name="cosmos3",
    title="Cosmos 3",
    controls={"edge": "edge", "vis": "blur", "depth": "depth", "seg": "seg", "wsm": "wsm"},
    fields={"control_weight": Key("weight", "share", low=0), "input_control": Key("control_path", "file")},
    keys={
        "model_mode": Key("model_mode", words=("video2video", "image2video", "text2video")),
        "negative_prompt": Key("negative_prompt"),
        "canny_threshold": Key("edge.preset_edge_threshold", words=STRENGTHS),
        "blur_strength": Key("blur.preset_blur_strength", words=("none", *STRENGTHS)),
        "aspect_ratio": Key("aspect_ratio", words=("16,9", "9,16", "4,3", "3,4", "1,1")),
        "resolution": Key("resolution", words=("256", "480", "720", "768")),
        **keys("whole", "fps", "num_steps", "num_video_frames_per_chunk", low=1),
        **keys("whole", "num_frames", "max_frames", low=2),  # of one, it makes a picture
        **keys("whole", "seed"),
        **keys("whole", "num_conditional_frames", "num_first_chunk_conditional_frames", low=0),
        **keys("number", "guidance", low=0, high=7),
        **keys("number", "control_guidance", low=0, high=10),
        **keys("number", "shift"),
        **keys("flag", "show_control_condition", "show_input", "share_vision_temporal_positions"),
        **keys("flag", "emphasize_control_in_prompt"),
        **keys("file", "negative_prompt_file"),
        **keys("numbers", "control_guidance_interval", low=0),
        **keys("object", "extra"),
    },
    script=("-m", "cosmos_framework.scripts.inference"),
    flags={"offload_guardrail_models": "--offload-guardrail-models"},
    reserved=(
        "-i", "--input-files", "-o", "--output-dir", "--checkpoint-path", "--keep-going", "--no-keep-going", "--benchmark",
        "--cp-size", "--cfgp-size",  # by which several copies of the model make several videos at a time
    ),
    needs_hub=True,
    from_hub={},
    piece=93,
    problem=_problem,
    group=lambda request: {},
    line=_line,
    argv=_argv,
)  # fmt: skip
