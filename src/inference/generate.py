"""Inference to its end: stage its job, supervise it (`runs.supervisor`), bring the videos here.

Videos that are here are not made again, a job that was started is resumed, and only what is missing is asked.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import log, text
from ..errors import HostError
from ..files import file_sha256, link_atomic, safe_name, write_atomic
from ..hosts.bundle import worker_bundle
from ..hosts.job_folder import JobPaths, open_job, open_jobs, put_program
from ..hosts.job_handle import JobHandle, handle_for
from ..hosts.launch import Launch
from ..planning.plan import Plan
from ..planning.settings import digest
from ..run_folder import RunPaths
from ..runs.fleet import supervise
from ..runs.supervisor import Labels, Supervisor
from ..timing.progress import Progress, Quiet
from ..worker.journal import read_records
from ..worker.protocol import BLOCKED, DONE, InferJob, MadeFile, VideoOutcome
from ..worker.records import from_file, to_json, to_line
from ..worker.values import inside
from .items import InferenceItem
from .job import infer_item, infer_job, launch_of, specs_of
from .pipeline_file import read_pipeline
from .settings import InferenceSettings

INTERMEDIATE = ("frames", "rounds", "videos")  # folders of a job that are not kept here once its videos are in place
LABELS = Labels("inference", "a video", "inference cannot run", "inference.time_limit_s")


def generate(
    wanted: Sequence[InferenceItem],
    plan: Plan,
    inference: InferenceSettings,
    paths: RunPaths,
    progress: Progress,
    ended: dict[str, VideoOutcome],
) -> None:
    """Make a video for every item that is not left out and has not ended; `ended` gets how each ended, by its id, also
    when this raises. done: the video is in paths.videos.

    Raises EngineError when NVIDIA's program cannot start, HostError when the worker keeps dying; Detached after Ctrl-C while
    the job runs on elsewhere.
    """
    asked = {item.id: item for item in wanted if item.id}
    slugs = _slugs(wanted)
    while missing := {item_id: item for item_id, item in asked.items() if item_id not in ended}:
        old = _unfinished(paths, missing.keys(), inference)
        failed = failed_in(old) if old else set()
        folder = old or _stage(tuple(missing.values()), inference, paths)
        _run_job(_Videos(folder, launch_of(inference, plan.run_id), slugs, ended, paths), len(asked), progress)
        for item_id in failed & ended.keys():  # before this start: tried again, in a job of their own
            if ended[item_id].state != DONE:
                del ended[item_id]
    progress.step("videos", len(ended), len(asked))


def ended_before(wanted: Sequence[InferenceItem], paths: RunPaths) -> dict[str, VideoOutcome]:
    """How the items ended whose videos are here already, by their ids."""
    slugs = _slugs(wanted)
    ended = {o.id: o for o in _made_before(paths) if o.id in slugs and _is_here(o, slugs[o.id], paths)}
    if ended:
        log.get().info("videos_taken_over", videos=len(ended))
    return ended


def _slugs(wanted: Sequence[InferenceItem]) -> dict[str, list[str]]:
    """The file names of each video, by its id."""
    slugs: dict[str, list[str]] = {}
    for item in wanted:
        if item.id:
            slugs.setdefault(item.id, []).append(item.slug)
    return slugs


def _made_before(paths: RunPaths) -> Iterable[VideoOutcome]:
    """The videos that jobs of this run wrote down, as far as that is known here."""
    for file in sorted(paths.inference.glob("*/results.jsonl")):
        yield from (outcome for outcome in read_records(file, VideoOutcome, log.left_out) if outcome.state == DONE)


def failed_in(job: JobPaths) -> set[str]:
    """What failed in a job that was not brought to its end, but for what is blocked, which would be again."""
    ended = read_records(job.results, VideoOutcome, log.left_out)
    return {outcome.id for outcome in ended if outcome.state != DONE and outcome.reason != BLOCKED}


def open_handles(paths: RunPaths) -> list[tuple[JobPaths, JobHandle]]:
    """The inference jobs of a run that were started and not brought to their end, each with its handle."""
    if not (jobs := open_jobs(paths.inference)):
        return []
    launch = launch_of(read_pipeline(paths)[1], "")
    return [(job, handle_for(launch, job)) for job in jobs]


def _unfinished(paths: RunPaths, missing: Iterable[str], inference: InferenceSettings) -> JobPaths | None:
    """A job that was started and has something of what is missing; its command is this run's."""
    ids = set(missing)
    job = next((job for job in open_jobs(paths.inference) if ids & job.staged()), None)
    if job:
        old, own = from_file(InferJob, job.job), infer_job((), inference)
        put_program(job, replace(old, argv=own.argv, cwd=own.cwd, env=own.env))
    return job


def _stage(missing: Sequence[InferenceItem], inference: InferenceSettings, paths: RunPaths) -> JobPaths:
    """Create the folder of a new job: its record, its batch, and the files that it names, by content.

    Its name is a hash of all that, and of how many jobs of this run ended before: what failed there is tried again.
    """
    specs = specs_of(missing)
    record, items = infer_job(specs, inference), [infer_item(item, specs) for item in missing]
    before = sum(job.finished.exists() for job in map(JobPaths, paths.inference.glob("*")))
    worker = hashlib.sha256(worker_bundle()).hexdigest()
    job = JobPaths(paths.inference / digest(to_json(items), to_json(record), worker, before))
    job.frames.mkdir(parents=True, exist_ok=True)
    for name, file in sorted({pair for item in missing for pair in item.files}):
        link_atomic(Path(file), job.root / name)
    job.batches.mkdir(exist_ok=True)
    write_atomic(job.batches / "00000.jsonl", "".join(f"{to_line(item)}\n" for item in items))
    open_job(job, record)  # last: a folder without job.json was not started
    return job


def _is_here(made: VideoOutcome, slugs: Iterable[str], paths: RunPaths) -> bool:
    """Whether a video is whole under one of its names; it is then under all of them."""
    names = [paths.videos / f"{slug}.mp4" for slug in slugs]
    found = next((file for file in names if _is_same(file, made)), None)
    if found:
        _put(found, names)
    return found is not None


def _is_same(file: Path, made: VideoOutcome | MadeFile) -> bool:
    try:
        return file.stat().st_size == made.bytes and file_sha256(file) == made.sha256
    except FileNotFoundError:
        return False


def _put(source: Path, names: Iterable[Path]) -> None:
    for name in names:
        if name != source:
            name.unlink(missing_ok=True)
            link_atomic(source, name)


def _run_job(job: _Videos, asked: int, progress: Progress) -> None:
    def show(supervisors: Sequence[Supervisor]) -> None:
        progress.step("videos", len(job.taken), asked, text.printable(supervisors[0].last_line))

    supervise([job], progress, show)
    for name in INTERMEDIATE:
        shutil.rmtree(job.folder.root / name, ignore_errors=True)


class _Videos:
    """One inference job. taken: how what it was asked for ended, by id, and what ended before."""

    labels = LABELS
    outcome = VideoOutcome

    def __init__(
        self,
        folder: JobPaths,
        launch: Launch,
        slugs: Mapping[str, Sequence[str]],
        taken: dict[str, VideoOutcome],
        paths: RunPaths,
    ) -> None:
        self.folder, self.launch, self.slugs, self.taken, self.paths = folder, launch, slugs, taken, paths
        self.asked, self.load_log, self.place = folder.staged(), folder.engine_log, launch.host.name
        self.started_with = {"items": str(len(self.asked)), "inference": launch.host.name}

    @property
    def is_staged(self) -> bool:
        return True

    @property
    def is_done(self) -> bool:
        return self.asked <= self.taken.keys()

    @property
    def left(self) -> int:
        return len(self.asked - self.taken.keys())

    @property
    def ended(self) -> int:
        return len(self.taken)

    def open(self) -> JobHandle:
        return handle_for(self.launch, self.folder)

    def begin(self, handle: JobHandle, progress: Progress) -> None:
        """All of it is staged."""

    def collect(self) -> None:
        """Nothing is staged in a thread."""

    def take(self, outcomes: Sequence[VideoOutcome], handle: JobHandle, progress: Progress) -> None:
        """Bring the videos of new outcomes here, check them, and give them their names."""
        new = [outcome for outcome in outcomes if outcome.id in self.asked and outcome.id not in self.taken]
        if foreign := {outcome.id for outcome in outcomes} - self.asked:
            log.get().warning("foreign_results_ignored", job=self.folder.root.name, ids=", ".join(sorted(foreign)[:3]))
        for outcome in new:
            if outcome.state == DONE and outcome.id in self.slugs:
                self._place(outcome, handle)
        self.taken.update((outcome.id, outcome) for outcome in new)
        if new:
            progress.took("videos", time.monotonic(), len(new))

    def take_rest(self, outcomes: Iterable[VideoOutcome], handle: JobHandle) -> None:
        self.take(list(outcomes), handle, Quiet())

    def _place(self, made: VideoOutcome, handle: JobHandle) -> None:
        slugs = self.slugs[made.id]
        if _is_here(made, slugs, self.paths):
            return
        try:
            source = inside(self.folder.root, made.file)
        except ValueError as e:
            raise HostError(f"{handle.name}: {self.folder.results}, file: {e}") from None
        if not _is_same(source, made):
            handle.fetch({made.file: made.bytes})
        if not _is_same(source, made):
            raise HostError(
                f"{handle.name}: {made.file} is not the video that was made",
                hint="it was changed there: remove the job's folder there, then run the same command again",
            )
        self._place_controls(made, slugs, handle)
        _put(source, [self.paths.videos / f"{slug}.mp4" for slug in slugs])

    def _place_controls(self, made: VideoOutcome, slugs: Iterable[str], handle: JobHandle) -> None:
        """The control videos on the way to a video are shown beside it, where they were asked for."""
        for name, control in made.controls.items():
            source = inside(self.folder.root, control.file)
            if not _is_same(source, control):
                handle.fetch({control.file: control.bytes})
            _put(source, [self.paths.controls_of(slug, safe_name(name)) for slug in slugs])

    def give_back(self) -> bool:
        return False

    def stop(self) -> None: ...

    def close(self) -> None: ...
