"""A job that makes videos: a program of NVIDIA's makes one for each item, in rounds.

It ends at the first item that raises, and loses those after it. So what is missing is asked for in rounds: an item that ended
a round is tried again, and fails after `max_attempts`, or at once where the guardrail blocked it; the others continue without it.

In the job folder, beside what `protocol` names:

    rounds/NNN/         OUT one call of the program: its batch, its controlnet spec, what it wrote
    videos/ID.mp4       OUT the videos, moved here whole
    videos/ID.NAME.mp4  OUT control videos that were made on the way, where they are to be kept
    server.log          OUT what torchrun and the program printed
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .journal import read_records, sync_folder, write_json
from .lifecycle import Control, JobLog, LoadFailed, left_out
from .processes import failure_reason, kill_marked, last_line
from .protocol import BLOCKED, DONE, FAILED, HEARTBEAT_S, Exit, InferItem, InferJob, MadeFile, VideoOutcome
from .records import InvalidRecord, parsed
from .transfer_round import MARK, Round


class GaveUp(LoadFailed):
    """Round after round gave no video."""


class Runner:
    """Processes the items of one job folder."""

    def __init__(self, folder: Path, job: InferJob, control: Control) -> None:
        self.folder, self.job, self.control = folder, job, control
        self.time_limit_s = job.time_limit_s
        batches = sorted((folder / "batches").glob("*.jsonl"))
        self.items = [item for batch in batches for item in read_records(batch, InferItem, left_out)]
        self.log = JobLog(folder)
        self.ended = set[str]()
        self._group_of = {item.id: item.group for item in self.items}
        self._made = set[int]()  # groups that were loaded: of which there are videos, or blocked items
        for outcome in read_records(self.log.results.path, VideoOutcome, left_out):
            self._know(outcome)
        self.engine_log = folder / "server.log"
        self.attempts: Counter[str] = Counter()
        self._fruits = 0  # videos, and items that need not be asked for again
        self._beat = 0.0

    @property
    def answered(self) -> int:
        return len(self.ended)

    def run(self) -> Exit:
        """Make what is missing. Raises LoadFailed when the program cannot start, or round after round gives no video."""
        (self.folder / "videos").mkdir(exist_ok=True)
        kill_marked(MARK, self.folder)  # of a runner that was killed
        for old in sorted((self.folder / "rounds").glob("*/")):
            Round(self, old).collect(is_old=True)
        self._make_groups()
        return self.control.exit_of([item.id for item in self.items if item.id not in self.ended])

    def _make_groups(self) -> None:
        """A group that cannot be loaded, as with a value that the program refuses, fails once the next one has made a video, or
        where it could not be loaded at the start before either and others could. Else it may be the machine, and its items stay
        open."""
        file = self.folder / "not_loaded.json"
        before, lost = set(_numbers_in(file)), dict[int, LoadFailed]()
        for number in range(len(self.job.groups)):
            fruits = self._fruits
            try:
                self._make_group(number)
            except GaveUp:
                raise
            except LoadFailed as e:
                lost[number] = e
                if self._fruits > fruits or len(lost.keys() - before) >= self.job.give_up_after:
                    write_json(file, sorted(lost))
                    raise
                continue
            if self._fruits > fruits:
                self._fail_groups(lost)
        if lost and not self.control.stop.is_set():
            write_json(file, sorted(lost))
            if lost.keys() - before or not self._made - lost.keys():
                raise next(iter(lost.values()))
            self._fail_groups(lost)

    def _fail_groups(self, lost: dict[int, LoadFailed]) -> None:
        for item in self.items:
            if item.group in lost and item.id not in self.ended:
                self.failed(item.id, str(lost[item.group]), None)
        lost.clear()

    def _make_group(self, number: int) -> None:
        fruitless = 0
        while not self.control.stop.is_set():
            todo = [i for i in self.items if i.group == number and i.id not in self.ended]
            if not todo:
                return
            before, rounds = self._fruits, self.folder / "rounds"
            rounds.mkdir(exist_ok=True)
            Round(self, rounds / f"{len(list(rounds.iterdir())):03d}").run(todo, self.job.groups[number])
            fruitless = 0 if self._fruits > before else fruitless + 1
            if fruitless >= self.job.give_up_after * self.job.max_attempts and not self.control.stop.is_set():
                reason = failure_reason(self.engine_log, 0)
                raise GaveUp(f"{fruitless} rounds in a row gave no video: {reason}")

    def beat(self) -> None:
        """Write a heartbeat with the last line of the log, when it is time for one."""
        if time.monotonic() - self._beat >= HEARTBEAT_S:
            self._beat = time.monotonic()
            self.log.heartbeat(answered=self.answered, log_line=last_line(self.engine_log))

    def done(self, item_id: str, video: Path, seconds: float | None, controls: Mapping[str, Path]) -> None:
        """Move a whole video and its control videos to their places, and write its outcome once they are on disk."""
        kept = {name: self._keep(path, f"{item_id}.{name}.mp4") for name, path in controls.items()}
        made = self._keep(video, f"{item_id}.mp4")
        sync_folder(self.folder / "videos")
        tries = self.attempts[item_id] + 1
        self._end(VideoOutcome(item_id, DONE, "", seconds, tries, made.file, made.sha256, made.bytes, kept))
        self._fruits += 1

    def _keep(self, file: Path, name: str) -> MadeFile:
        with open(file, "rb") as f:
            sha256 = hashlib.sha256()
            while piece := f.read(1 << 20):
                sha256.update(piece)
            os.fsync(f.fileno())
        size = file.stat().st_size
        os.replace(file, self.folder / "videos" / name)
        return MadeFile(f"videos/{name}", sha256.hexdigest(), size)

    def failed(self, item_id: str, reason: str, seconds: float | None) -> None:
        self._end(VideoOutcome(item_id, FAILED, reason, seconds, self.attempts[item_id]))
        self._fruits += reason == BLOCKED  # it need not be asked for again

    def _end(self, outcome: VideoOutcome) -> None:
        self.log.results.append(outcome)
        self._know(outcome)

    def _know(self, outcome: VideoOutcome) -> None:
        self.ended.add(outcome.id)
        if (outcome.state == DONE or outcome.reason == BLOCKED) and outcome.id in self._group_of:
            self._made.add(self._group_of[outcome.id])


def _numbers_in(file: Path) -> list[int]:
    try:
        found = parsed(file.read_bytes())
    except (FileNotFoundError, InvalidRecord):
        return []
    return [number for number in found if isinstance(number, int)] if isinstance(found, list) else []
