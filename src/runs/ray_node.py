"""What runs on the nodes of a Ray cluster: the rendering of a batch's hints, and an actor that keeps a worker.

The worker is the same as everywhere, in a job folder on its node, and supervised there (`runs.supervisor`); it ends with its actor.
"""

from __future__ import annotations

import pickle
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import log
from ..errors import HintError, VideoError
from ..hosts.job_folder import JobPaths, open_job
from ..hosts.job_handle import JobHandle
from ..hosts.launch import Launch, interpreter
from ..hosts.local_job import LocalJob
from ..media.guard import Guard
from ..media.hint import Hint, RenderedHint, hint_key
from ..media.render import render
from ..media.video import Video
from ..timing.progress import Progress, Quiet
from ..worker.journal import read_records
from ..worker.processes import guard_group
from ..worker.protocol import Item, Outcome, UpsampleJob
from ..worker.records import to_line
from .staging import link_frames, put_batch
from .supervisor import Labels, Supervisor

ROW = "row"  # the one column of the pipeline: a pickled Batch, then Answers
Row = Mapping[str, Any]
Files = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """A hint as a node has rendered it. is_here: whether the controller has it too, by a common disk."""

    hint: Hint
    rendered: RenderedHint
    files: Files
    is_here: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Items to ask, each with the key of its hint, "" for none. hints: to be rendered; frames: by their names, of items that come
    with theirs; entries, failed: by key, what was rendered, or why it cannot be."""

    items: Sequence[tuple[Item, str]]
    hints: Mapping[str, tuple[Video, Hint]] = field(default_factory=dict)
    frames: Files = field(default_factory=dict)
    entries: Mapping[str, Entry] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of a batch. unrendered: by id of items that were not asked, why; hints: files of cache entries, by key."""

    outcomes: Sequence[Outcome]
    unrendered: Mapping[str, str]
    hints: Mapping[str, Files]


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a node renders. cache: the controller's, used where a node sees it; else `own_cache`. clips: an actor beside the
    controller that reads clips for nodes that do not see them."""

    cache: Path
    own_cache: Path
    clips: Any
    with_video: bool
    max_s: float
    max_pixels: int


class Clips:
    """Beside the controller: the bytes of a clip, which reach a node once."""

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()


def render_batch(row: Row, how: Rendering) -> Row:
    """Render the hints of a batch, in the cache of the node."""
    batch: Batch = pickle.loads(row[ROW])
    entries, failed = {}, {}
    for key, (video, hint) in batch.hints.items():
        try:
            entries[key] = _rendered(video, hint, how)
        except (VideoError, HintError) as e:
            failed[key] = e.message
    return {ROW: pickle.dumps(replace(batch, hints={}, entries=entries, failed=failed))}


def _rendered(video: Video, hint: Hint, how: Rendering) -> Entry:
    is_here = how.cache.is_dir()
    cache = how.cache if is_here else how.own_cache.expanduser()
    guard = Guard(video.path, how.max_s, how.max_pixels)
    with_video = how.with_video or hint.clip_fps is not None
    with tempfile.TemporaryDirectory(prefix="clip-") as folder:
        if how.clips and not (Path(video.path).exists() or (cache / hint_key(video, hint)).exists()):
            video = _fetched(video, Path(folder), how.clips)
        rendered = render(video, hint, cache, with_video=with_video, guard=guard)
    files = {file.name: file.read_bytes() for file in rendered.folder.iterdir() if file.is_file()}
    return Entry(hint, rendered, files, is_here)


def _fetched(video: Video, folder: Path, clips: Any) -> Video:
    import ray

    copy = folder / Path(video.path).name
    try:
        copy.write_bytes(ray.get(clips.read.remote(video.path)))
    except ray.exceptions.RayTaskError as e:
        raise VideoError(f"{video.path}: cannot be read: {e.cause}") from None
    return replace(video, path=str(copy))


class _Child(LocalJob):
    """A worker that ends with this process, however that ends; so does its folder."""

    _guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        super().start()
        if self._guard:  # of the worker before
            self._guard.kill()
        assert self._child
        self._guard = guard_group(self._child.pid, self.job.root)


class Worker:
    """An actor with one worker: a call hands it a batch, and returns when all of that has ended. Calls overlap.

    It is the `JobDriver` of its worker, which never ends by itself.
    """

    outcome = Outcome
    is_done, is_staged, left = False, False, 0
    place = "ray"

    def __init__(self, job: UpsampleJob, launch: Launch, labels: Labels) -> None:
        self.folder, self.labels = JobPaths(Path(tempfile.mkdtemp(prefix="upsample-"))), labels
        self._launch = replace(launch, python=interpreter(job.engine.name, launch.python, is_here=True))
        self.started_with, self.load_log, self.ended = {"engine": job.engine.name}, self.folder.log, 0
        open_job(self.folder, job)
        self.handle = _Child(self._launch, self.folder)
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._taken: set[tuple[str, int]] = set()
        self._returned: set[str] = set()  # keys of hints
        self._error: BaseException | None = None
        self._batches, self._news = 0, threading.Condition()
        threading.Thread(target=self._supervise, daemon=True).start()

    def __call__(self, rows: Row) -> Row:
        batch: Batch = pickle.loads(rows[ROW][0])
        with self._news:
            asked = self._staged(batch)
            new = {key: e.files for key, e in batch.entries.items() if not e.is_here and key not in self._returned}
            self._returned |= new.keys()
        outcomes = self._wait_for([(item.id, item.step) for item in asked])
        unrendered = {item.id: batch.failed[key] for item, key in batch.items if key in batch.failed}
        return {ROW: [pickle.dumps(Answers(outcomes, unrendered, new))]}

    def _staged(self, batch: Batch) -> list[Item]:
        """Those items of a batch that can be asked, which the worker now sees."""
        _write(self.folder.root, batch.frames)
        frames = {key: self._frames(key, entry) for key, entry in batch.entries.items()}
        asked = [_with_frames(item, frames.get(key)) for item, key in batch.items if key not in batch.failed]
        self._batches += 1
        if asked:
            put_batch(self.folder, f"{self._batches:05d}", "".join(f"{to_line(item)}\n" for item in asked))
        return asked

    def _frames(self, key: str, entry: Entry) -> tuple[list[str], str]:
        folder = self.folder.root / "hints" / key
        _write(folder, entry.files)
        return link_frames(replace(entry.rendered, folder=folder), entry.hint, self.folder), entry.rendered.note

    def _wait_for(self, wanted: Sequence[tuple[str, int]]) -> list[Outcome]:
        with self._news:
            if again := self._taken.intersection(wanted):  # Ray has lost what came of them
                read = read_records(self.folder.results, Outcome, log.left_out)
                self._outcomes |= {(o.id, o.step): o for o in read if (o.id, o.step) in again}
            while not self._error and any(key not in self._outcomes for key in wanted):
                self._news.wait()
            if self._error:
                raise self._error
            self._taken |= set(wanted)
            return [self._outcomes.pop(key) for key in wanted]

    def _supervise(self) -> None:
        try:
            for pause_s in Supervisor(self).steps(Quiet()):
                time.sleep(pause_s)
        except BaseException as e:  # raised by the calls that wait
            with self._news:
                self._error = e
                self._news.notify_all()

    def open(self) -> JobHandle:
        return self.handle

    def take(self, outcomes: Sequence[Outcome], handle: JobHandle, progress: Progress) -> None:
        with self._news:
            self._outcomes |= {(outcome.id, outcome.step): outcome for outcome in outcomes}
            self.ended += len(outcomes)
            self._news.notify_all()

    def begin(self, handle: JobHandle, progress: Progress) -> None: ...

    def collect(self) -> None: ...

    def take_rest(self, outcomes: Iterable[Outcome], handle: JobHandle) -> None: ...

    def give_back(self) -> bool:
        return False

    def stop(self) -> None: ...

    def close(self) -> None: ...


def _write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def _with_frames(item: Item, rendered: tuple[list[str], str] | None) -> Item:
    """An item with its frames, where it was staged for frames that were not there yet."""
    if rendered is None:
        return item
    names, note = rendered
    return replace(item, frames=tuple(names) if item.frames else (), note=note or item.note)
