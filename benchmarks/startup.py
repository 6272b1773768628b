"""Start-up against an empty Hydra app."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, median_s, shown

BARE = """
import hydra
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
@dataclass
class Config:
    a: int = 1
ConfigStore.instance().store(name="config", node=Config)
@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(config): pass
main()
"""


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE)
        clip = next(Path("examples/clips").resolve().glob("*.mp4"))
        (folder / "one.json").write_text(json.dumps([{"name": "one", "prompt": "one", "video_path": str(clip)}]))
        run_dir = f'hydra.run.dir="{folder / "out"}"'
        bare = _time(str(folder / "bare.py"), run_dir)
        bare_help = _time(str(folder / "bare.py"), "--help")
        config = _time("-m", "src.run", "--cfg", "job")
        help_ = _time("-m", "src.run", "--help")
        plan = _time("-m", "src.run", "task=plan", f'prompts="{folder / "one.json"}"', run_dir)
    return [
        Row(
            "--cfg job",
            "a bare Hydra app",
            config / bare,
            "≤ 1.5",
            config / bare <= 1.5,
            f"{shown(config)} / {shown(bare)}",
        ),
        Row(
            "--help",
            "--help of a bare Hydra app",
            help_ / bare_help,
            "≤ 1.5",
            help_ / bare_help <= 1.5,
            f"{shown(help_)} / {shown(bare_help)}",
        ),
        Row(
            "task=plan, one item",
            "a bare Hydra app",
            plan / bare,
            "≤ 4",
            plan / bare <= 4,
            f"{shown(plan)} / {shown(bare)}",
        ),
    ]


def _time(*arguments: str) -> float:
    return median_s(lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True), runs=7)
