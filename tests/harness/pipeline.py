"""Calls of task=pipeline in one run folder, with stand-ins for NVIDIA's script and torchrun; no model is loaded."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import av

from .cosmos import Cosmos
from .program import Ended, Program, journal_lines, loads_of, quoted, start
from .remote import Remote

QUIET = ("hints.video=false", "output.report=false", "output.specs=none", "console.progress=lines")


class Pipeline:
    """Pipelines on this machine, or with both stages on the host of `remote`."""

    def __init__(
        self, folder: Path, cosmos: Cosmos, clips: Path, cache: Path, tokenizer: str, remote: Remote | None = None
    ) -> None:
        self.folder, self.cosmos, self.clips, self.run = folder, cosmos, clips, folder / "run, the first"
        self.common = (f"cache_dir={quoted(cache)}", f"model.tokenizer={quoted(tokenizer)}", *QUIET)
        self.where: tuple[str, ...] = ()
        if remote:
            python = quoted(sys.executable)
            self.where = (f"worker.python={python}", f"inference.python={python}", *remote.host)
        self._programs: list[Program] = []

    def prompts(self, *items: dict[str, Any] | str) -> str:
        full = [{"prompt": i} if isinstance(i, str) else i for i in items]
        full = [{"name": f"take {n}", "video_path": str(self.clips / "wide.mp4")} | i for n, i in enumerate(full)]
        file = self.folder / "prompts.json"
        file.write_text(json.dumps([{k: v for k, v in item.items() if v is not None} for item in full]))
        return f"prompts={quoted(file)}"

    def start(self, *overrides: str) -> Program:
        self._programs.append(started := start(*overrides))
        return started

    def first(self, *overrides: str) -> Program:
        folder = f"hydra.run.dir={quoted(self.run)}"
        return self.start("task=pipeline", folder, *self.common, *self.where, *self.cosmos.overrides, *overrides)

    def to_its_end(self, *overrides: str) -> Ended:
        return self.first(*overrides).ended()

    def resumed(self, *overrides: str) -> Ended:
        """Resume as the printed hint says; with overrides by the task's own name."""
        if overrides:
            return self.start("task=pipeline", f"run={quoted(self.run)}", *overrides).ended()
        return self.start(f"resume={quoted(self.run)}").ended()

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.run / "inference.json").read_text())
        return rows

    def states(self) -> list[str]:
        return [row["state"] for row in self.rows()]

    def calls(self) -> int:
        """How often transfer.py was called."""
        return loads_of(self.run, "inference")

    def finished(self) -> int:
        """How many videos the runner has written down."""
        return sum(len(journal_lines(file)) for file in self.run.glob("inference/*/results.jsonl"))

    def runner(self) -> int:
        [lock] = self.run.glob("inference/*/lock")
        return int(lock.read_text())

    def assert_videos(self) -> None:
        """Every item has a video that plays."""
        assert set(self.states()) == {"done"}, self.rows()
        for row in self.rows():
            with av.open(str(self.run / row["video"])) as video:
                assert sum(1 for _ in video.decode(video=0)) == 4

    def close(self) -> None:
        self.cosmos.hold.unlink(missing_ok=True)
        for started in self._programs:
            started.kill()
        for pid in self.cosmos.processes():
            os.kill(pid, signal.SIGKILL)
