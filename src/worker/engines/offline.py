"""Engine `offline`: no model. It measures the frames and writes the figures after the prompt.

Every result names the engine. It needs numpy and Pillow.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..facts import describe, measure_files
from ..protocol import UpsampleJob
from ..window import Window
from .engine import Answer, ItemKept, Phase, Request

VERSION = "2"
MOST_KNOWN = 4096  # frames whose facts are kept


def after_prompt(prompt: str, facts: str) -> str:
    """The prompt, word for word, and the facts after it, as separate sentences."""
    if not prompt.strip():
        return facts
    if prompt[-1].isspace():
        return prompt + facts
    return f"{prompt}. {facts}" if prompt[-1].isalnum() else f"{prompt} {facts}"


class OfflineEngine:
    """Answers with the prompt, word for word, and the measured facts after it."""

    name = "offline"
    version = VERSION

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        self.fallbacks: list[str] = []
        self.window, self.signals = Window(job.engine.in_flight or os.cpu_count() or 1, "fixed", is_fixed=True), None
        self.delay_s = job.engine.item_delay_s
        self._known: dict[tuple[str, ...], str] = {}  # facts by the hashes of the frames

    def load(self, phase: Phase) -> None:
        pass  # nothing to load

    def answer(self, request: Request) -> Answer:
        if self.delay_s:
            time.sleep(self.delay_s)
        if not request.pictures:
            raise ItemKept("engine=offline has no frames to measure; a prompt without a video needs a model")
        if request.pictures[0].is_clip:
            raise ItemKept("engine=offline measures frames, not whole clips; frames=uniform_4 sends some")
        return Answer(after_prompt(request.item.prompt, self._facts_of(request)), "stop", None, None)

    def _facts_of(self, request: Request) -> str:
        """The facts of a request's frames, measured once for the items that share them."""
        frames = tuple(picture.sha256 for picture in request.pictures)
        facts = self._known.get(frames)
        if facts is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            facts = self._known[frames] = describe(measure_files([picture.data for picture in request.pictures]))
        return facts

    def close(self) -> None:
        pass
