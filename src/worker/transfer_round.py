"""One call of NVIDIA's `transfer.py` for some items: its input files, its process, what it wrote.

How transfer.py shows its progress (nvidia-cosmos/cosmos-transfer1, cosmos_transfer1/diffusion/inference/transfer.py): with
--batch_input_path it makes the folder video_K when it starts line K, writes video_K/output.mp4 into it when the item is
done, and video_K/prompt.txt after that. An item that NVIDIA's guardrail blocks gets no video, and the next one starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .lifecycle import Control, JobLog, LoadFailed
from .processes import end_child, failure_reason, guard_group_gently, kill_marked
from .protocol import InferItem, InferJob

POLL_S = 0.1
MARK = "PROMPT_UPSAMPLER_JOB"  # variable by which processes of this job are known, whoever their parent is
FILE_FIELDS = ("input_control", "control_weight")  # fields of a control that may name a file


class Runner(Protocol):
    """What a round needs of the job around it. ended: ids; attempts: rounds that an item has crashed."""

    folder: Path
    job: InferJob
    control: Control
    log: JobLog
    engine_log: Path
    ended: set[str]
    attempts: Counter[str]

    def beat(self) -> None: ...
    def done(self, item_id: str, video: Path, seconds: float | None) -> None: ...
    def failed(self, item_id: str, reason: str, seconds: float | None) -> None: ...


class Round:
    """One call, in a folder of its own."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder, self.videos = runner, folder, folder / "videos"
        self._began: dict[int, float] = {}  # when each line was started, as far as it was seen

    def run(self, items: Sequence[InferItem], spec: Mapping[str, Any]) -> None:
        """Call transfer.py for these items and wait for its end.

        Raises LoadFailed when it ends before it started one.
        """
        runner = self.runner
        self._write(items, spec)
        runner.log.phase("loading", items=len(items))
        log_from = runner.engine_log.stat().st_size if runner.engine_log.exists() else 0
        code = self._call()
        self.collect(ended=code == 0)
        if runner.control.stop.is_set():
            return
        started = [n for n in range(len(items)) if self._folder_of(n).is_dir()]
        reason = failure_reason(runner.engine_log, log_from)
        if code and not started:
            raise LoadFailed(f"transfer.py ended with {code} before the first video: {reason}")
        culprit = started[-1] if code and started else None
        for n, item in enumerate(items):
            if item.id in runner.ended:
                continue
            if n == culprit:
                runner.attempts[item.id] += 1
                if runner.attempts[item.id] >= runner.job.max_attempts:
                    runner.failed(item.id, f"transfer.py ended with {code}: {reason}", self._seconds(n))
            elif (not code or (culprit is not None and n < culprit)) and not self._video_of(n).exists():
                runner.failed(item.id, _why_no_video(runner.engine_log, log_from), self._seconds(n))

    def collect(self, *, ended: bool = False) -> None:
        """Collect the complete videos: prompt.txt is written after a complete video.

        ended: transfer.py has ended well, so all that is there is whole.
        """
        try:
            ids: list[str] = json.loads((self.folder / "ids.json").read_text())
        except (FileNotFoundError, ValueError):
            return  # killed before the call, or while it was written
        for n, item_id in enumerate(ids):
            folder = self._folder_of(n)
            if item_id in self.runner.ended or not folder.is_dir():
                continue
            self._began.setdefault(n, time.monotonic())
            if self._video_of(n).exists() and (ended or (folder / "prompt.txt").exists()):
                self.runner.done(item_id, self._video_of(n), self._seconds(n))

    def _folder_of(self, line: int) -> Path:
        return self.videos / f"video_{line}"

    def _video_of(self, line: int) -> Path:
        return self._folder_of(line) / "output.mp4"

    def _seconds(self, line: int) -> float | None:
        return round(time.monotonic() - self._began[line], 1) if line in self._began else None

    def _write(self, items: Sequence[InferItem], spec: Mapping[str, Any]) -> None:
        self.folder.mkdir()
        self.videos.mkdir()
        root = self.runner.folder
        lines = [json.dumps(batch_line(item, root)) + "\n" for item in items]
        (self.folder / "batch.jsonl").write_text("".join(lines), encoding="ascii")
        # transfer.py reads the spec's own input_video_path before the batch, and refuses a spec without one.
        whole = {"input_video_path": str(root / items[0].video), **spec}
        (self.folder / "spec.json").write_text(json.dumps(whole, indent=1), encoding="ascii")
        (self.folder / "ids.json").write_text(json.dumps([item.id for item in items]))

    def _call(self) -> int:
        """Run the command to its end, or until the runner is asked to stop; its exit code."""
        runner, job = self.runner, self.runner.job
        places = {
            "{videos}": str(self.videos),
            "{spec}": str(self.folder / "spec.json"),
            "{batch}": str(self.folder / "batch.jsonl"),
        }
        argv = [places.get(word, word) for word in job.argv]
        environment = {**os.environ, **job.env, MARK: str(runner.folder)}
        with open(runner.engine_log, "ab") as log:
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=job.cwd or None,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as e:
                raise LoadFailed(f"{e.filename or argv[0]}: {e.strerror}") from e
        guard = guard_group_gently(child.pid)
        try:
            while child.poll() is None and not runner.control.stop.is_set():
                before = len(self._began)
                self.collect()
                if self._began and not before:
                    runner.log.phase("generating")
                runner.beat()
                time.sleep(POLL_S)
            if runner.control.stop.is_set():
                runner.log.phase("draining")
                end_child(child, job.grace_s)
        finally:
            guard.kill()
            guard.communicate()
            if child.poll() is None:
                end_child(child, 0.0)
            kill_marked(MARK, runner.folder)
        return int(child.returncode)


def batch_line(item: InferItem, root: Path) -> dict[str, Any]:
    """The item as NVIDIA's batch file has it, with the job folder's files by their absolute paths."""
    line = {"visual_input": str(root / item.video), "prompt": item.prompt}
    controls = {
        name: {
            field: str(root / value) if field in FILE_FIELDS and str(value).startswith("frames/") else value
            for field, value in control.items()
        }
        for name, control in item.controls.items()
    }
    return {**line, "control_overrides": controls} if controls else line


def _why_no_video(log: Path, start: int) -> str:
    with open(log, "rb") as f:
        f.seek(start)
        blocked = any(b"Guardrail blocked" in line for line in f)
    return "NVIDIA's guardrail blocked it" if blocked else "transfer.py wrote no video and gave no reason"
