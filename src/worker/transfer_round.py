"""One call of NVIDIA's program for some items: its input files, its process, what it wrote (`video_engines`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from .lifecycle import Control, JobLog, LoadFailed
from .processes import end_child, failure_reason, guard_group_gently, kill_marked, read_since
from .protocol import BLOCKED, InferItem, InferJob
from .records import parsed
from .video_engines import TRACES

POLL_S = 0.1
MARK = "PROMPT_UPSAMPLER_JOB"  # variable by which processes of this job are known, whoever their parent is
CALL = "PROMPT_UPSAMPLER_CALL"  # likewise, of one call of its command


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
    def done(self, item_id: str, video: Path, seconds: float | None, controls: Mapping[str, Path]) -> None: ...
    def failed(self, item_id: str, reason: str, seconds: float | None) -> None: ...


class Round:
    """One call, in a folder of its own."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder, self.videos = runner, folder, folder / "videos"
        self._began: dict[int, float] = {}  # when each line was started, as far as it was seen
        self._traces = TRACES[runner.job.engine]

    def run(self, items: Sequence[InferItem], group: Mapping[str, Any]) -> None:
        """Call the program for these items and wait for its end.

        Raises LoadFailed when it ends before it started one.
        """
        runner = self.runner
        self._write(items, group)
        runner.log.phase("loading", items=len(items))
        log_from = runner.engine_log.stat().st_size if runner.engine_log.exists() else 0
        code = self._call()
        self.collect(ended=code == 0)
        if runner.control.stop.is_set():
            return
        started = [n for n, item in enumerate(items) if self._path(self._traces.started, n, item.id).exists()]
        reason = failure_reason(runner.engine_log, log_from)
        if code and not started:
            raise LoadFailed(f"{reason or 'no reason given'} (the program ended with {code} before the first video)")
        log = read_since(runner.engine_log, log_from).decode("utf-8", "replace")
        culprit = started[-1] if code and started else None
        for n, item in enumerate(items):
            if item.id in runner.ended:
                continue
            if n == culprit:
                self._blame(item, n, f"{reason} (the program ended with {code})", log)
            elif not code or (culprit is not None and n < culprit):
                runner.attempts[item.id] += 1
                runner.failed(item.id, self._traces.why_no_video(log, item.id), self._seconds(n))

    def _blame(self, item: InferItem, n: int, reason: str, log: str) -> None:
        """An item ended the program: it fails at once if the guardrail blocked it, else when it has no attempts left."""
        runner = self.runner
        runner.attempts[item.id] += 1
        if re.search(self._traces.block_ends, log):
            runner.failed(item.id, BLOCKED, self._seconds(n))
        elif runner.attempts[item.id] >= runner.job.max_attempts:
            runner.failed(item.id, reason, self._seconds(n))

    def collect(self, *, ended: bool = False, is_old: bool = False) -> None:
        """Collect the complete videos. ended: the program has ended well, so all that is there is whole. is_old: it was called by
        an earlier worker, and nobody knows when."""
        try:
            ids: list[str] = parsed((self.folder / "ids.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return  # killed before the call, or while it was written
        traces, runner = self._traces, self.runner
        for n, item_id in enumerate(ids):
            if item_id in runner.ended or not self._path(traces.started, n, item_id).exists():
                continue
            if not is_old:
                self._began.setdefault(n, time.monotonic())
            video = self._path(traces.video, n, item_id)
            if video.exists() and (ended or self._path(traces.whole, n, item_id).exists()):
                controls = traces.control_videos(self.videos, n, item_id) if runner.job.keep_controls else {}
                runner.done(item_id, video, self._seconds(n), controls)

    def _path(self, pattern: str, n: int, name: str) -> Path:
        return self.videos / pattern.format(n=n, name=name)

    def _seconds(self, line: int) -> float | None:
        return round(time.monotonic() - self._began[line], 1) if line in self._began else None

    def _write(self, items: Sequence[InferItem], group: Mapping[str, Any]) -> None:
        self.folder.mkdir()
        self.videos.mkdir()
        lines = [json.dumps(batch_line(item, self.runner.job, self.runner.folder)) + "\n" for item in items]
        (self.folder / "batch.jsonl").write_text("".join(lines), encoding="ascii")
        # transfer.py reads the spec's own input_video_path before the batch, and refuses a spec without one.
        clip = {"input_video_path": items[0].video} if items[0].video else {}
        spec = absolute({**clip, **group}, items[0].frames, self.runner.folder)
        (self.folder / "spec.json").write_text(json.dumps(spec, indent=1), encoding="ascii")
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
        # Not the folder: another worker may be at work there by the time a guard kills.
        own = f"{os.getpid()}-{time.time_ns()}"
        environment = {**os.environ, **job.env, MARK: str(runner.folder), CALL: own}
        with open(runner.engine_log, "ab") as log:
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=job.cwd or None,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as e:
                raise LoadFailed(f"{e.filename or argv[0]}: {e.strerror}") from e
        guard = guard_group_gently(child.pid, f"{CALL}={own}")
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


def batch_line(item: InferItem, job: InferJob, root: Path) -> dict[str, Any]:
    """The item as NVIDIA's batch file has it, with the job folder's files by their absolute paths."""
    line: dict[str, Any] = absolute(item.as_line, (item.video, *item.frames), root)
    return line if job.engine == "transfer1" else {**line, "name": item.id}


def absolute(value: Any, names: Sequence[str], root: Path) -> Any:
    """The same with the files of the job folder that are among these names by their absolute paths."""
    if isinstance(value, Mapping):
        return {key: absolute(inner, names, root) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [absolute(inner, names, root) for inner in value]
    return str(root / value) if isinstance(value, str) and value and value in names else value
