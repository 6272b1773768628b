"""A STAND-IN for NVIDIA's transfer.py: no model, no GPU. It reads arguments, controlnet spec and batch by the same rules,
refuses what they refuse, writes files in the same places in the same order, and makes its videos by drawing them.

The rules are those of github.com/nvidia-cosmos/cosmos-transfer1: cosmos_transfer1/diffusion/inference/transfer.py
(`parse_arguments`, `demo`; commits b046cc17, 0879ceef), inference_utils.py (`load_controlnet_specs`,
`validate_controlnet_specs`; 004e3e56), preprocessors.py (05bb9769) and `read_prompts_from_file`. What the model would do is
not imitated: the video is the first frame of the input, with the prompt's hash as a grey step.

CHECKPOINT_DIR/standin.json says how it behaves:

    delay_s       how long one video takes
    fail, block   words: a prompt with one of them raises, or is blocked as by the guardrail
    hold          a file: while it is there, nothing goes on
    once          a file that `fail` makes; while it is there, nothing fails
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STRENGTHS = ["very_low", "low", "medium", "high", "very_high"]
TEXTS = {
    "prompt": "NVIDIA's default prompt", "negative_prompt": "NVIDIA's default negative prompt", "input_video_path": "",
    "checkpoint_dir": "checkpoints", "tokenizer_dir": "Cosmos-Tokenize1-CV8x8x8-720p", "video_save_name": "output",
    "video_save_folder": "outputs/", "batch_input_path": None,
}  # fmt: skip
NUMBERS: dict[str, tuple[type, float]] = {
    "sigma_max": (float, 70.0), "batch_size": (int, 1), "num_steps": (int, 35), "guidance": (float, 5), "fps": (int, 24),
    "seed": (int, 1), "num_gpus": (int, 1),
}  # fmt: skip
FLAGS = (
    "is_av_sample", "offload_diffusion_transformer", "offload_text_encoder_model", "offload_guardrail_models",
    "upsample_prompt", "offload_prompt_upsampler",
)  # fmt: skip
HINT_KEYS = {"vis", "seg", "edge", "depth", "keypoint", "upscale", "hdmap", "lidar"}


def arguments() -> tuple[argparse.Namespace, dict[str, dict[str, Any]]]:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    for name, text in TEXTS.items():
        parser.add_argument(f"--{name}", type=str, default=text)
    for name, (kind, number) in NUMBERS.items():
        parser.add_argument(f"--{name}", type=kind, default=number)
    for name in FLAGS:
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("blur_strength", "canny_threshold"):
        parser.add_argument(f"--{name}", type=str, default="medium", choices=STRENGTHS)
    parser.add_argument("--num_input_frames", type=int, default=1, choices=[1])
    parser.add_argument("--controlnet_specs", type=str, required=True)
    cfg = parser.parse_args()
    with open(cfg.controlnet_specs) as f:
        spec = json.load(f)
    controls = {name: value for name, value in spec.items() if name in HINT_KEYS}
    for name in spec.keys() - controls.keys():
        if type(spec[name]) is dict:
            raise ValueError(f"Invalid hint_key: {name}. Must be one of {HINT_KEYS}")
        if f"--{name}" not in sys.argv:
            setattr(cfg, name, spec[name])
    return cfg, controls


def check_controls(cfg: argparse.Namespace, controls: dict[str, dict[str, Any]]) -> None:
    for name, control in controls.items():
        if not cfg.input_video_path and cfg.sigma_max < 80:
            raise ValueError("Must have 'input_video' specified if sigma_max < 80")
        if not cfg.input_video_path and "input_control" not in control:
            raise ValueError(
                f"{name} controlnet must have 'input_control' video specified if no 'input_video' specified."
            )
        control.setdefault("ckpt_path", os.path.join(cfg.checkpoint_dir, f"{name}_control.pt"))
        weight = control.setdefault("control_weight", "0.5")
        if not (isinstance(weight, str) and weight.endswith(".pt")) and float(weight) < 0:
            raise ValueError(f"Control weight for {name} must be non-negative.")


def main() -> None:
    cfg, controls = arguments()
    check_controls(cfg, controls)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert world == cfg.num_gpus, "--num_gpus is not what torchrun started"
    checkpoint = Path(cfg.checkpoint_dir)
    print(f"Loading from {checkpoint}", flush=True)
    conduct = json.loads((checkpoint / "standin.json").read_text())
    with open(cfg.batch_input_path) as f:
        lines = [json.loads(line.strip()) for line in f]
    os.makedirs(cfg.video_save_folder, exist_ok=True)
    for number, line in enumerate(lines):
        folder = os.path.join(cfg.video_save_folder, f"video_{number}")
        os.makedirs(folder, exist_ok=True)
        used = copy.deepcopy(controls)
        for name, override in line.get("control_overrides", {}).items():
            if name in used:
                used[name].update(override)
            else:
                print(f"Ignoring unknown control key in override: {name}", flush=True)
        for name, control in used.items():
            if control.get("input_control") is None and name in ("depth", "seg", "keypoint"):
                looked_for = os.environ.get("CHECKPOINT_DIR", "checkpoints")
                assert os.path.samefile(looked_for, cfg.checkpoint_dir), "the preprocessors have no checkpoints"
            elif control.get("input_control") is not None:
                assert os.path.exists(control["input_control"]), control["input_control"]
        if not generate(line, used, conduct):
            print("Guardrail blocked generation for entire batch.", flush=True)
            continue
        if rank == 0:
            save(cfg, line, used, Path(folder))


def generate(line: dict[str, Any], controls: dict[str, Any], conduct: dict[str, Any]) -> bool:
    """Take time, raise, or be blocked (False)."""
    prompt = line["prompt"]
    assert os.path.exists(line["visual_input"]), line["visual_input"]
    until = time.monotonic() + conduct.get("delay_s", 0.0)
    while time.monotonic() < until or os.path.exists(conduct.get("hold", "")):
        print(f"Sampling: {time.monotonic():.1f}", end="\r", flush=True)
        time.sleep(0.02)
    once = Path(conduct["once"]) if conduct.get("once") else None
    if any(word in prompt for word in conduct.get("fail", ())) and not (once and once.exists()):
        if once:
            once.touch()
        raise RuntimeError(f"CUDA out of memory, says the stand-in about: {prompt}")
    return not any(word in prompt for word in conduct.get("block", ()))


def save(cfg: argparse.Namespace, line: dict[str, Any], controls: dict[str, Any], folder: Path) -> None:
    try:
        import av
    except ImportError:  # under an interpreter that has torch: what comes out is what went in
        Path(folder / "output.mp4").write_bytes(Path(line["visual_input"]).read_bytes())
        (folder / "prompt.txt").write_bytes(line["prompt"].encode())
        return
    with av.open(line["visual_input"]) as source:
        frame = next(source.decode(video=0)).reformat(64, 64, "rgb24").to_ndarray()
    said = json.dumps([line["prompt"], controls, cfg.seed, cfg.num_steps], sort_keys=True)
    frame[:16, :16] = hashlib.sha256(said.encode()).digest()[0]
    with av.open(str(folder / "output.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=int(cfg.fps), options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"  # type: ignore[attr-defined]
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))  # type: ignore[attr-defined]
        out.mux(stream.encode(None))  # type: ignore[attr-defined]
    # For the tests to look at: what the model would have been given.
    (folder.parent.parent / f"given_{folder.name}.json").write_text(json.dumps([line, controls, vars(cfg)]))
    (folder / "prompt.txt").write_bytes(line["prompt"].encode())
    print(f"Saved video to {folder / 'output.mp4'}", flush=True)


if __name__ == "__main__":
    main()
