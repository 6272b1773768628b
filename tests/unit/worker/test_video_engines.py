"""What the folders and logs of NVIDIA's programs say of a sample."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.inference.engines import ENGINES
from src.worker.protocol import BLOCKED
from src.worker.video_engines import TRACES


def test_every_engine_has_its_traces() -> None:
    assert TRACES.keys() == ENGINES.keys()


@pytest.mark.parametrize(
    ("engine", "files"),
    [
        ("transfer1", ("video_3/edge_input_control_0.mp4", "video_3/vis_input_control_0.mp4", "video_3/edge_input_control_1.mp4")),
        ("transfer2_5", ("ab_control_edge.mp4", "ab_control_vis.mp4", "ab_mask_edge.mp4", "ab.mp4")),
        ("cosmos3", ("ab/control_edge.mp4", "ab/control_vis.mp4", "ab/vision.mp4")),
    ],
)  # fmt: skip
def test_control_videos_are_those_of_the_first_rank(tmp_path: Path, engine: str, files: tuple[str, ...]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = TRACES[engine].control_videos(tmp_path, 3, "ab")
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "edge": files[0],
        "vis": files[1],
    }


@pytest.mark.parametrize(
    ("engine", "log", "reason"),
    [
        ("transfer1", "Guardrail blocked generation for entire batch.", BLOCKED),  # of a fork that goes on
        ("transfer1", "", "NVIDIA's program wrote no video and gave no reason"),
        ("transfer2_5", "Guardrail blocked generation. Prompt: a pirate", BLOCKED),
        ("transfer2_5", "", BLOCKED),  # its video was
        ("cosmos3", "Error generating sample 'ab': Guardrail blocked prompt 'out/ab': 'x'", BLOCKED),
        ("cosmos3", "Error generating sample 'ab': no room\nError generating sample 'b': Guardrail blocked", "no room"),
    ],
)
def test_sample_that_was_passed_over_has_a_reason(engine: str, log: str, reason: str) -> None:
    assert TRACES[engine].why_no_video(log, "ab") == reason


@pytest.mark.parametrize(
    ("engine", "log", "ends"),
    [
        ("transfer1", "Guardrail blocked generation\nTypeError: cannot unpack non-iterable NoneType object\n", True),
        ("transfer1", "Guardrail blocked generation\nRuntimeError: CUDA out of memory\n", False),
        ("cosmos3", "ValueError: Error generating sample 'ab': Guardrail blocked prompt 'ab'\n", True),
        ("cosmos3", "torch.OutOfMemoryError: CUDA out of memory\n", False),
    ],
)
def test_block_that_ends_the_program_is_known(engine: str, log: str, ends: bool) -> None:
    assert bool(re.search(TRACES[engine].block_ends, log)) is ends
