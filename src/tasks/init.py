"""`task=init`: a starter in the working folder: a prompt file with a clip, your own defaults, and a .gitignore."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import ExitCode
from ..files import bundled, write_atomic
from ..text import PROGRAM
from . import Invocation

CLIP = "clips/rolling_ball.webm"
STARTER = {
    "prompts.json": """[
  {
    "name": "rolling_ball",
    "prompt": "A striped ball rolls over a wooden floor.",
    "video_path": "clips/rolling_ball.webm"
  }
]
""",
    "conf/local/defaults.yaml": """# @package _global_
# Your own defaults. Remove the # before what you want; upsample --help lists every option and field.
defaults:
  - _self_
#  - override /host: gpu_box
#  - override /engine: vllm

prompts: prompts.json
""",
    "conf/host/gpu_box.yaml": """# A machine with GPUs, over SSH: host=gpu_box; upsample task=doctor host=gpu_box checks it.
defaults:
  - ssh

name: gpu_box
address: gpu.example.com # or a name from ~/.ssh/config
""",
    ".gitignore": "outputs/\n",
}


def run(invocation: Invocation) -> ExitCode:
    """Writes what is not there yet, and leaves every other file as it is."""
    for name, text in STARTER.items():
        if _is_new(Path(name), invocation):
            write_atomic(Path(name), text)
    if _is_new(Path(CLIP), invocation):
        Path(CLIP).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundled("examples") / CLIP, CLIP)
    invocation.print(f"next          {PROGRAM} plan prompts.json")
    return ExitCode.OK


def _is_new(path: Path, invocation: Invocation) -> bool:
    invocation.print(f"{'kept' if path.exists() else 'written':<13} {path}")
    return not path.exists()
