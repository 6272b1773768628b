"""Cosmos-Transfer2.5: one sample a line, with its controls inside; checkpoints come from the Hugging Face hub.

Source: github.com/nvidia-cosmos/cosmos-transfer2.5, main of 2026-06-07: examples/inference.py and cosmos_transfer2/config.py
(one unknown key ends the batch; unknown keys inside a control are ignored), cosmos_transfer2/inference.py.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from .engine import STRENGTHS, CallSettings, Engine, Key, Request, keys

_CLIPS = (".mp4", ".avi", ".mov", ".mkv", ".webm")  # what else its loader reads are pictures


def _problem(request: Request) -> str:
    if not request.clip:
        return "it has no video, which Cosmos-Transfer2.5 needs"
    if PurePath(request.clip).suffix.lower() not in _CLIPS:
        return f"{request.clip}: Cosmos-Transfer2.5 makes videos of clips that end in {', '.join(_CLIPS)}"
    if "vis" in request.controls and "image_context_path" in request.arguments:
        return "image_context_path: does not go with the control vis, for both decide the style"
    for name, fields in request.whole.items():
        if "mask_path" in fields and "mask_prompt" in fields:
            return f"{name}: has a mask_path and a mask_prompt, and only one of them is used"
    return ""


def _group(request: Request) -> dict[str, Any]:
    """Samples of one set: for different ones, all four branches are loaded."""
    return {"controls": sorted(request.controls)}


def _line(request: Request, name: str) -> dict[str, Any]:
    return {"name": name, "prompt": request.prompt, "video_path": request.clip, **request.arguments, **request.whole}


def _argv(settings: CallSettings) -> tuple[str, ...]:
    checkpoint = ("--checkpoint-path", settings.checkpoint) if settings.checkpoint else ()
    return ("-i", "{batch}", "-o", "{videos}", *checkpoint)


ENGINE = Engine(
    name="transfer2_5",
    title="Cosmos-Transfer2.5",
    controls={name: name for name in ("edge", "vis", "depth", "seg")},
    fields={
        "control_weight": Key("control_weight", "share", low=0, high=1),
        "input_control": Key("control_path", "file"),
        "mask_path": Key("mask_path", "file"),
        "control_weight_prompt": Key("mask_prompt"),
        "input_control_prompt": Key("control_prompt", of=("seg",)),
    },
    keys={
        "negative_prompt": Key("negative_prompt"),
        "canny_threshold": Key("edge.preset_edge_threshold", words=STRENGTHS),
        "blur_strength": Key("vis.preset_blur_strength", words=STRENGTHS),
        "sigma_max": Key("sigma_max", "digits", low=0, high=200),
        "resolution": Key("resolution", "digits", low=1),
        "num_conditional_frames": Key("num_conditional_frames", "whole", low=0, high=2),
        **keys("whole", "seed", "guided_generation_step_threshold"),
        **keys("whole", "guidance", low=0, high=7),
        **keys("whole", "num_steps", "num_video_frames_per_chunk", "context_frame_index", low=1),
        "max_frames": Key("max_frames", "whole", low=2),  # of one, it makes a picture
        **keys("flag", "show_control_condition", "show_input", "keep_input_resolution"),
        **keys("file", "image_context_path", "guided_generation_mask"),
        **keys("numbers", "guided_generation_foreground_labels"),
    },
    script=("examples/inference.py",),
    flags={"offload_guardrail_models": "--offload-guardrail-models"},
    reserved=(
        "-i", "--input-files", "-o", "--output-dir", "--checkpoint-path", "--no-keep-going", "--benchmark", "--num-gpus",
        "--checkpoint-dir", "--batch-input-path", "--controlnet-specs", "--fps", "--show-input", "--show-control-condition",
    ),
    needs_hub=True,
    from_hub={},
    piece=93,
    problem=_problem,
    group=_group,
    line=_line,
    argv=_argv,
    least_frames=2,
)  # fmt: skip
