"""Engine `offline`: the prompt unchanged, and measured facts after it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.worker.engines import offline
from src.worker.engines.engine import ItemKept, Picture, Request
from src.worker.engines.offline import OfflineEngine, after_prompt
from src.worker.facts import describe, measure, measure_files
from tests.harness.records import JOB, item

BLUE, BLACK = (50, 90, 180), (20, 20, 20)


def frame(
    color: tuple[int, int, int], width: int = 32, height: int = 18
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((height, width, 3), color, dtype=np.uint8)


def picture(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Picture:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return Picture(data.getvalue(), "0" * 64, f"{pixels.shape[1]}x{pixels.shape[0]}")


def test_colors_are_named_with_their_share() -> None:
    half = frame(BLUE)
    half[:, 16:] = BLACK
    facts = measure([half])
    assert facts.colors == (("black", 0.5), ("blue", 0.5))
    assert facts.lighter_side == "left third"
    assert "The dominant colors are black (50%) and blue (50%)." in describe(facts)


def test_change_is_measured_between_first_and_last() -> None:
    last = frame(BLACK)
    last[12:] = 240
    facts = measure([frame(BLACK), frame(BLUE), last])
    assert facts.change is not None and facts.change > 0.2
    assert "Between the first and the last of 3 frames most of the picture changes" in describe(facts)
    assert "most of all in the lower third" in describe(facts)


@pytest.mark.parametrize(("size", "shape"), [((32, 18), "landscape"), ((18, 32), "portrait"), ((18, 18), "square")])
def test_shape_is_described(size: tuple[int, int], shape: str) -> None:
    assert f"framed in {shape} format" in describe(measure([frame(BLUE, *size)]))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [("A boat", "A boat. Facts."), ("A boat!", "A boat! Facts."), ("A boat. ", "A boat. Facts."), ("  ", "Facts.")],
)
def test_facts_follow_the_prompt(prompt: str, text: str) -> None:
    assert after_prompt(prompt, "Facts.") == text


def test_answer_starts_with_the_prompt() -> None:
    engine = OfflineEngine(JOB, Path())
    answer = engine.answer(Request(item("a", prompt="A boat."), (picture(frame(BLUE)),), 1, 20))
    assert answer.text.startswith("A boat. The shot is framed in landscape format")
    assert (answer.prompt_tokens, answer.output_tokens) == (None, None)


def test_shared_frames_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, measured = OfflineEngine(JOB, Path()), list[int]()
    monkeypatch.setattr(offline, "measure_files", lambda files: measured.append(len(files)) or measure_files(files))
    blue, black = picture(frame(BLUE)), replace(picture(frame(BLACK)), sha256="1" * 64)
    texts = [
        engine.answer(Request(item("a", prompt="A boat."), pictures, 1, 20)).text
        for pictures in ((blue,), (blue,), (black,), (blue, black))
    ]
    assert measured == [1, 1, 2]
    assert texts[0] == texts[1] and len(set(texts)) == 3


def test_item_without_frames_is_kept() -> None:
    with pytest.raises(ItemKept, match="no frames to measure"):
        OfflineEngine(JOB, Path()).answer(Request(item("a"), (), 1, 20))


def test_concurrency_is_configurable() -> None:
    assert OfflineEngine(replace(JOB, engine=replace(JOB.engine, in_flight=7)), Path()).window.size == 7
