"""The lines of NVIDIA's batch file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.worker.protocol import InferItem, InferJob
from src.worker.transfer_round import batch_line

ROOT = Path("/jobs/one")
JOB = InferJob(1, (), "", {}, ({},), 2, 3, 5.0, 0.0)


def test_files_of_the_job_are_absolute() -> None:
    controls: dict[str, dict[str, Any]] = {
        "depth": {"input_control": "frames/depth.mp4", "control_weight": "frames/weight.pt"},
        "edge": {"input_control": "/data/edge.mp4", "control_weight": 0.3, "ckpt_path": "frames/unchanged"},
    }
    files = ("frames/depth.mp4", "frames/weight.pt")
    line = batch_line(InferItem("a", 0, "a boat", "frames/clip.mp4", controls, files), JOB, ROOT)
    assert line == {
        "visual_input": "/jobs/one/frames/clip.mp4",
        "prompt": "a boat",
        "control_overrides": {
            "depth": {"input_control": "/jobs/one/frames/depth.mp4", "control_weight": "/jobs/one/frames/weight.pt"},
            "edge": {"input_control": "/data/edge.mp4", "control_weight": 0.3, "ckpt_path": "frames/unchanged"},
        },
    }


def test_item_without_controls_overrides_nothing() -> None:
    line = batch_line(InferItem("a", 0, "a boat", "frames/clip.mp4", {}), JOB, ROOT)
    assert line == {"visual_input": "/jobs/one/frames/clip.mp4", "prompt": "a boat"}
