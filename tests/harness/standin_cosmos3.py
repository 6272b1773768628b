"""A STAND-IN for cosmos_framework.scripts.inference with transfer samples: no model, no GPU. Arguments and samples are read by
the rules of cosmos_framework/inference/args.py, and files written in the places and order of inference.py (main of 2026-08-21)."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from standin_model import STRENGTHS, Conduct, draw  # type: ignore[import-not-found]  # beside it in the checkout

HINTS = ("edge", "blur", "depth", "seg", "wsm")
ONLY_WITH_HINTS = (
    *(
        "negative_prompt_file",
        "num_video_frames_per_chunk",
        "num_conditional_frames",
        "max_frames",
        "show_control_condition",
    ),
    *(
        "show_input",
        "num_first_chunk_conditional_frames",
        "share_vision_temporal_positions",
        "emphasize_control_in_prompt",
    ),
    "control_guidance_interval",
)
WORDS: dict[str, tuple[str, ...]] = {
    "model_mode": ("text2video", "image2video", "video2video", "text2image", "image2image"),
    "resolution": ("256", "480", "720", "768"),
    "aspect_ratio": ("1,1", "4,3", "3,4", "16,9", "9,16"),
}
HIGHEST = {"guidance": 7, "control_guidance": 10}
KINDS: dict[str, Any] = {
    **dict.fromkeys(("seed", "fps", "num_frames", "num_steps", "max_frames", "num_conditional_frames"), int),
    **dict.fromkeys(("show_input", "show_control_condition", "emphasize_control_in_prompt"), bool),
    **dict.fromkeys(("negative_prompt", "prompt"), str),
    "shift": int | float,
    "sigma_max": int | float,
    "extra": dict,
    "control_guidance_interval": list,
}
KNOWN = {
    *(
        "name",
        "prompt",
        "prompt_path",
        "negative_prompt",
        "vision_path",
        "fps",
        "num_frames",
        "num_steps",
        "seed",
        "shift",
    ),
    *("extra", "sigma_max", *HINTS, *ONLY_WITH_HINTS, *WORDS, *HIGHEST),
}


def validate(sample: dict[str, Any], *, is_built: bool = False) -> None:
    """As the loader does, and as what builds the sample does once the model is loaded; raises ValueError."""
    wrong = [f"{name}: extra inputs are not permitted" for name in sample.keys() - KNOWN]
    wrong += [
        f"{name}: {sample[name]}" for name, words in WORDS.items() if name in sample and sample[name] not in words
    ]
    wrong += [
        f"{name}: {sample[name]}" for name, high in HIGHEST.items() if not 0 <= float(sample.get(name, 0)) <= high
    ]
    wrong += [
        f"{name}: {sample[name]}"
        for name in ("fps", "num_frames", "num_steps", "max_frames", "num_video_frames_per_chunk")
        if name in sample and float(sample[name]) < 1
    ]
    wrong += [
        f"{name}: {sample[name]}" for name, kind in KINDS.items() if not isinstance(sample.get(name), kind | None)
    ]
    for name in ("prompt_path", "vision_path"):
        if name in sample and not os.path.isfile(sample[name]):
            wrong.append(f"{name}: no such file")
    hints = {name: sample[name] for name in HINTS if sample.get(name) is not None}
    for name, hint in hints.items():
        preset = {"edge": "preset_edge_threshold", "blur": "preset_blur_strength"}.get(name, "")
        wrong += [f"{name}.{field}" for field in hint.keys() - {"control_path", "weight", preset}]
        if preset in hint and hint[preset] not in (*STRENGTHS, *(("none",) if name == "blur" else ())):
            wrong.append(f"{name}.{preset}")
        try:
            float(hint.get("weight") or 0)
        except ValueError:
            wrong.append(f"{name}.weight")
        if hint.get("control_path") is not None and not os.path.isfile(hint["control_path"]):
            wrong.append(f"{name}.control_path: no such file")
    if int(sample.get("num_conditional_frames", 0)) < 0:
        wrong.append("num_conditional_frames")
    if not hints and any(name in sample for name in ONLY_WITH_HINTS):
        wrong.append("transfer inference requires at least one control hint")
    if is_built:
        clip = sample.get("vision_path")
        if clip and Path(clip).suffix.lower() not in (".mp4", ".png", ".jpg", ".jpeg", ".webp"):
            wrong.append(f"Invalid vision extension: {clip}")
        if not clip and any(not hint.get("control_path") for hint in hints.values()):
            wrong.append("transfer inference requires 'vision_path' or a pre-computed 'control_path'")
    if wrong:
        raise ValueError("; ".join(wrong))


def read(path: Path) -> list[dict[str, Any]]:
    os.chdir(path.parent)
    samples = [json.loads(line) for line in path.read_text().splitlines() if line]
    for n, sample in enumerate(samples):
        try:
            validate(sample)
        except ValueError as e:
            raise ValueError(f"Error validating parameters from '{path}' at sample {n}\n{e}") from e
    return samples


def generate(sample: dict[str, Any], folder: Path, conduct: Conduct) -> None:
    (folder / "sample_args.json").write_text(json.dumps(sample))
    hints = {name: sample[name] for name in HINTS if sample.get(name) is not None}
    for name, hint in hints.items():
        if name in ("depth", "seg", "wsm") and not hint.get("control_path"):
            raise FileNotFoundError(f"Missing pre-computed control input for '{name}'.")
    assert sum(hint.get("weight", 1.0) for hint in hints.values()) > 0, "control_weights must have a positive sum"
    conduct.generate(sample["prompt"])
    source = sample.get("vision_path") or next(iter(hints.values()))["control_path"]
    draw(source, folder / "vision.mp4", sample)
    for name in hints:
        draw(source, folder / f"control_{name}.mp4", name)
    (folder / "sample_outputs.json").write_text(json.dumps({"args": sample, "status": "success"}))


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-i", "--input-files", required=True, type=Path)
    parser.add_argument("-o", "--output-dir", required=True, type=Path)
    parser.add_argument("--checkpoint-path", choices=["Cosmos3-Nano", "Cosmos3-Edge"], required=True)
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--offload-guardrail-models", action="store_true")
    asked = parser.parse_args()
    samples, out = read(asked.input_files.absolute()), asked.output_dir.absolute()
    conduct = Conduct(os.environ["HF_HOME"])
    if int(os.environ["RANK"]):
        conduct.follow()
        return
    for sample in samples:
        folder = out / sample["name"]
        folder.mkdir(parents=True)
        if conduct.is_blocked(sample["prompt"]):
            (folder / "sample_args.json").write_text(json.dumps(sample))
            message = (
                f"Error generating sample '{sample['name']}': Guardrail blocked prompt '{folder}': '{sample['prompt']}'"
            )
            if not asked.keep_going:
                raise ValueError(message)
            print(message, flush=True)
            continue
        generate(sample, folder, conduct)


if __name__ == "__main__":
    main()
