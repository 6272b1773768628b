"""The protocol: what identifies the input of an item, and which kind of job a record describes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from src.worker.protocol import BUG, CANCELLED, LOAD_FAILED, LOCKED, OK, TIMEOUT, InferJob, JobHeader
from src.worker.records import from_line, to_line
from tests.harness.records import JOB, item

INFER_JOB = InferJob(1, ("torchrun",), "", {}, ({},), 2, 3, 5.0, 0.0)


def test_input_hash_covers_what_the_model_sees() -> None:
    one = item("a", frames=("frames/1.png",))
    assert replace(one, id="b", seed=9, step=2, note="x", predicted=5, prompt="p").input_hash == one.input_hash
    assert replace(one, text=f"  {one.text}\n").input_hash == one.input_hash  # it may well have the same answer
    others = [replace(one, text="other"), replace(one, system="other"), replace(one, frames=("frames/2.png",))]
    assert len({one.input_hash, *(other.input_hash for other in others)}) == 4


@pytest.mark.parametrize(
    ("text", "infers"),
    [
        (to_line(JOB), False),
        (to_line(INFER_JOB), True),
        ('{"protocol": 1}', False),
        ('{"protocol": 1, "argv": ["torchrun"]}', True),  # of a version that wrote no kind
    ],
)
def test_header_names_the_kind_of_job(text: str, infers: bool) -> None:
    assert from_line(JobHeader, text).infers is infers


def test_exit_codes_are_fixed() -> None:
    assert (OK, BUG, LOAD_FAILED, LOCKED, TIMEOUT, CANCELLED) == (0, 1, 7, 75, 124, 143)
