"""A STAND-IN for Cosmos-Transfer1's transfer.py: no model, no GPU. It reads arguments, controlnet spec and batch by the same
rules, refuses what they refuse, writes files in the same places in the same order, and makes its videos by drawing them.

The rules are those of github.com/nvidia-cosmos/cosmos-transfer1, main of 2026-06-07: transfer.py (`parse_arguments`, `demo`),
inference_utils.py (`load_controlnet_specs`, `validate_controlnet_specs`), preprocessors.py and `read_prompts_from_file`. What the
model would do is not imitated, see standin_model.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

from standin_model import STRENGTHS, Conduct, draw  # type: ignore[import-not-found]  # beside it in the checkout

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
    "upsample_prompt", "offload_prompt_upsampler", "use_distilled", "save_input_noise", "benchmark",
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
        if "ckpt_path" not in control:
            if cfg.use_distilled and name != "edge":
                raise ValueError(f"No default distilled checkpoint for {name}. Users must specify ckpt_path in config.")
            control["ckpt_path"] = os.path.join(cfg.checkpoint_dir, f"{name}_control.pt")
        weight = control.setdefault("control_weight", "0.5")
        if not (isinstance(weight, str) and weight.endswith(".pt")) and float(weight) < 0:
            raise ValueError(f"Control weight for {name} must be non-negative.")
    assert isinstance(cfg.seed, int), "seeds are numbers"
    assert not (cfg.use_distilled and cfg.is_av_sample)


def preprocess(cfg: argparse.Namespace, line: dict[str, Any], controls: dict[str, dict[str, Any]], folder: str) -> None:
    """What the preprocessors make, and what they and the model raise about it."""
    for name, control in controls.items():
        weight = control["control_weight"]
        assert os.path.exists(weight) if str(weight).endswith(".pt") else float(weight) >= 0, weight
        if control.get("input_control") is not None:
            assert isinstance(control["input_control"], str), control["input_control"]
            assert os.path.exists(control["input_control"]), control["input_control"]
            continue
        assert name in ("depth", "seg", "keypoint", "vis", "edge", "upscale"), f"{name} has no input_control"
        assert name != "vis" or cfg.blur_strength in STRENGTHS, cfg.blur_strength
        assert name != "edge" or cfg.canny_threshold in STRENGTHS, cfg.canny_threshold
        if name != "upscale":
            made = os.path.join(folder, f"{name}_input_control_{os.environ['LOCAL_RANK']}.mp4")
            draw(line["visual_input"], Path(made), name)
            control["input_control"] = made

    assert all("prompt" in region for region in getattr(cfg, "regional_prompts", None) or [])


def main() -> None:
    cfg, controls = arguments()
    check_controls(cfg, controls)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    assert world == cfg.num_gpus, "--num_gpus is not what torchrun started"
    conduct = Conduct(cfg.checkpoint_dir)
    if rank:
        conduct.follow()
        return
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
        preprocess(cfg, line, used, folder)
        source = line.get("visual_input") or next(c["input_control"] for c in used.values())
        assert os.path.exists(source), source
        conduct.generate(line["prompt"])
        outputs = None if conduct.is_blocked(line["prompt"]) else ([source], [line["prompt"]])
        if outputs is None:
            print("Guardrail blocked generation for entire batch.", flush=True)
        [video], [prompt] = outputs  # type: ignore[misc]  # as NVIDIA's, which a blocked prompt ends here
        draw(video, Path(folder, "output.mp4"), [prompt, used, cfg.seed, cfg.num_steps], int(cfg.fps))
        # For the tests to look at: what the model would have been given.
        Path(cfg.video_save_folder, f"../given_video_{number}.json").write_text(json.dumps([line, used, vars(cfg)]))
        Path(folder, "prompt.txt").write_bytes(prompt.encode())
        print(f"Saved video to {folder}/output.mp4", flush=True)


if __name__ == "__main__":
    main()
