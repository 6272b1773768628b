"""A STAND-IN for Cosmos-Transfer2.5's examples/inference.py: no model, no GPU. Arguments and lines are read by the rules of
cosmos_transfer2/config.py, and files written in the places and order of cosmos_transfer2/inference.py (main of 2026-06-07)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from standin_model import STRENGTHS, Conduct, draw  # type: ignore[import-not-found]  # beside it in the checkout

CONTROLS = ("edge", "vis", "depth", "seg")
FILES = ("video_path", "prompt_path", "image_context_path", "guided_generation_mask")
POSITIVE = ("max_frames", "context_frame_index", "num_video_frames_per_chunk", "num_steps")
FLAGS = ("show_control_condition", "show_input", "keep_input_resolution")
KNOWN = {
    *("name", "prompt", "negative_prompt", "seed", "guidance", "sigma_max", "resolution", "num_conditional_frames"),
    *("guided_generation_step_threshold", "guided_generation_foreground_labels", *FLAGS, *FILES, *POSITIVE, *CONTROLS),
}


def whole(value: Any) -> bool:
    """What pydantic takes for an int."""
    return isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()) or str(value).isdecimal()


def problems_of(sample: dict[str, Any]) -> list[str]:
    wrong = [f"{name}: extra inputs are not permitted" for name in sample.keys() - KNOWN]
    wrong += [f"{name}: is missing" for name in ("name", "video_path") if not isinstance(sample.get(name), str)]
    if not isinstance(sample.get("prompt"), str) and not sample.get("prompt_path"):
        wrong.append("prompt: is missing")
    wrong += [f"{name}: no such file" for name in FILES if sample.get(name) and not os.path.exists(sample[name])]
    wrong += [
        f"{name}: not a positive int"
        for name in POSITIVE
        if name in sample and not (whole(sample[name]) and sample[name])
    ]
    wrong += [f"{name}: not text" for name in ("sigma_max", "resolution") if not isinstance(sample.get(name, ""), str)]
    wrong += [f"{name}: not a flag" for name in FLAGS if not isinstance(sample.get(name, False), bool)]
    if not isinstance(sample.get("negative_prompt", ""), str):
        wrong.append("negative_prompt: not text")
    if not isinstance(sample.get("guided_generation_foreground_labels") or [], list):
        wrong.append("guided_generation_foreground_labels: not a list")
    if not (whole(sample.get("guidance", 3)) and 0 <= int(sample.get("guidance", 3)) <= 7):
        wrong.append("guidance: 0 to 7")
    if sample.get("num_conditional_frames", 1) not in (0, 1, 2) or not whole(sample.get("seed", 0)):
        wrong.append("num_conditional_frames or seed")
    controls = {name: sample[name] for name in CONTROLS if sample.get(name) is not None}
    if not controls:
        wrong.append("no controls provided")
    if "vis" in controls and sample.get("image_context_path"):
        wrong.append("vis and image_context_path")
    for name, control in controls.items():
        wrong += [
            f"{name}.{field}: no such file"
            for field in ("control_path", "mask_path")
            if control.get(field) is not None and not os.path.isfile(control[field])
        ]
        if not 0 <= float(control.get("control_weight", 1.0)) <= 1:
            wrong.append(f"{name}.control_weight: 0 to 1")
        preset = {"edge": "preset_edge_threshold", "vis": "preset_blur_strength"}.get(name, "")
        if control.get(preset, "medium") not in STRENGTHS:
            wrong.append(f"{name}.{preset}")
    return wrong


def read(path: Path) -> list[dict[str, Any]]:
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    os.chdir(path.parent)
    for n, sample in enumerate(samples):
        if wrong := problems_of(sample):
            sys.exit(f"Error validating parameters from '{path}' at line {n}\n" + "\n".join(wrong))
    if len({sample["name"] for sample in samples}) < len(samples):
        sys.exit("Error: a sample's name is not unique")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-i", "--input-files", required=True, type=Path)
    parser.add_argument("-o", "--output-dir", required=True, type=Path)
    parser.add_argument("--checkpoint-path")
    parser.add_argument("--offload-guardrail-models", action="store_true")
    asked = parser.parse_args()
    samples, out = read(asked.input_files.absolute()), asked.output_dir.absolute()
    conduct = Conduct(os.environ["HF_HOME"])
    if int(os.environ["RANK"]):
        conduct.follow()
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.yaml").write_text("")
    for sample in samples:
        path, prompt = str(out / sample["name"]), sample["prompt"]
        Path(f"{path}.json").write_text(json.dumps(sample))
        if conduct.is_blocked(prompt):
            print(f"Guardrail blocked generation. Prompt: {prompt}", flush=True)
            continue
        conduct.generate(prompt)
        for name in CONTROLS:
            if sample.get(name) is not None:
                draw(sample["video_path"], Path(f"{path}_control_{name}.mp4"), name)
        draw(sample["video_path"], Path(f"{path}.mp4"), sample)
        Path(f"{path}.txt").write_text(prompt)


if __name__ == "__main__":
    main()
