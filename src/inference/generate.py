"""Carry out inference: stage its job, have it followed (`runs.supervisor`), bring the videos here.

Videos that are here are not made again, a job that was begun is taken up, and only what is missing is asked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from launchers import infer, worker

from .. import log, text
from ..errors import HostError
from ..files import link_whole, write_atomic
from ..hosts.host_job import Launch
from ..hosts.job_folder import JobPaths, open_job
from ..hosts.job_handle import Site, place_for
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..planning.settings import digest
from ..run_folder import RunPaths
from ..runs.supervisor import Follower, Record, Words, follow
from ..timing.progress import Progress, Quiet
from .items import Take
from .job import infer_argv, job_line, job_record, specs_of, stage_settings
from .pipeline_file import read_pipeline
from .settings import InferenceSettings

FILES = (Path(infer.__file__), Path(worker.__file__))  # infer.py needs worker.py beside it
MAKING = ("frames", "rounds", "videos")  # what of a job's folder is not kept here once its videos are in place
WORDS = Words(
    worker="inference",
    result="a video",
    cannot_load="inference cannot run",
    time_limit="inference.time_limit_s",
    again="task=pipeline run",
)


def generate(
    wanted: Sequence[Take],
    plan: Plan,
    inference: InferenceSettings,
    paths: RunPaths,
    progress: Progress,
    ended: dict[str, Record],
) -> None:
    """Make a video for every take that is not left out and has not ended; `ended` gets how each ended, by its id, also
    when this raises. done: the video is in paths.videos.

    Raises EngineError when transfer.py cannot start, HostError when the runner keeps dying; Detached after Ctrl-C while
    the job goes on elsewhere.
    """
    asked = {take.id: take for take in wanted if take.id}
    slugs = _slugs(wanted)
    while missing := {item_id: take for item_id, take in asked.items() if item_id not in ended}:
        folder = _begun(paths, missing.keys()) or _stage(tuple(missing.values()), inference, paths)
        _see_through(_Videos(folder, launch_of(plan, inference), slugs, ended, paths), len(asked), progress)
    progress.step("videos", len(ended), len(asked))


def taken_over(wanted: Sequence[Take], paths: RunPaths) -> dict[str, Record]:
    """How the takes ended whose videos are here already, by their ids."""
    slugs = _slugs(wanted)
    ended = {r["id"]: r for r in made_before(paths) if r["id"] in slugs and _is_here(r, slugs[r["id"]], paths)}
    if ended:
        log.get().info("videos_taken_over", videos=len(ended))
    return ended


def _slugs(wanted: Sequence[Take]) -> dict[str, list[str]]:
    """The file names of each video, by its id."""
    slugs: dict[str, list[str]] = {}
    for take in wanted:
        if take.id:
            slugs.setdefault(take.id, []).append(take.slug)
    return slugs


def made_before(paths: RunPaths) -> Iterable[Record]:
    """The videos that jobs of this run wrote down, as far as we have heard."""
    for file in sorted(paths.inference.glob("*/results.jsonl")):
        yield from (r for r in worker.read_records(file) if r["state"] == infer.DONE)


def launch_of(plan: Plan, inference: InferenceSettings) -> Launch:
    """What is started in an inference job's folder."""
    settings = stage_settings(plan.settings, inference)
    return Launch(
        settings,
        {file.name: file for file in FILES},
        lambda folder: (settings.python, f"{folder}/infer.py", folder),
        partial(infer_argv, settings, inference, plan.run_id),
    )


def site_of(folder: JobPaths, launch: Launch) -> Site:
    """The place where an inference job runs."""
    here = (launch.settings.python, infer.__file__, str(folder.root.resolve()))
    return place_for(launch, folder, here)


def open_jobs(paths: RunPaths) -> list[JobPaths]:
    """Inference jobs of this run that were begun and not brought to their end."""
    found = (JobPaths(file.parent) for file in sorted(paths.inference.glob("*/job.json")))
    return [job for job in found if not job.tidied.exists()]


def _begun(paths: RunPaths, missing: Iterable[str]) -> JobPaths | None:
    """A job that was begun and has something of what is missing."""
    ids = set(missing)
    return next((job for job in open_jobs(paths) if ids & job.staged()), None)


def _stage(missing: Sequence[Take], inference: InferenceSettings, paths: RunPaths) -> JobPaths:
    """Make the folder of a new job: its record, its batch, and the files that it names, by content.

    Its name is a hash of all that, and of how many jobs of this run ended before: what failed there is tried anew.
    """
    specs = specs_of(missing)
    record = job_record(specs, inference, infer.PROTOCOL)
    code = [file.read_bytes().hex() for file in FILES]
    before = sum(1 for _ in paths.inference.glob("*/tidied"))
    job = JobPaths(paths.inference / digest([job_line(take, specs) for take in missing], record, code, before))
    (job.root / "frames").mkdir(parents=True, exist_ok=True)
    for name, file in sorted({pair for take in missing for pair in take.files}):
        link_whole(Path(file), job.root / name)
    lines = "".join(json.dumps(job_line(take, specs), ensure_ascii=True) + "\n" for take in missing)
    job.batches.mkdir(exist_ok=True)
    write_atomic(job.batches / "00000.jsonl", lines)
    open_job(job, record)  # last: a folder without job.json was not begun
    return job


def _is_here(record: Record, slugs: Iterable[str], paths: RunPaths) -> bool:
    """Whether the video of a record is whole under one of its names; it is then under all of them."""
    names = [paths.videos / f"{slug}.mp4" for slug in slugs]
    found = next((file for file in names if _is_same(file, record)), None)
    if found:
        _put(found, names)
    return found is not None


def _is_same(file: Path, record: Record) -> bool:
    try:
        return bool(file.stat().st_size == record["bytes"] and _sha256(file) == record["sha256"])
    except FileNotFoundError:
        return False


def _put(source: Path, names: Iterable[Path]) -> None:
    for name in names:
        if name != source:
            name.unlink(missing_ok=True)
            link_whole(source, name)


def _sha256(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _see_through(job: _Videos, asked: int, progress: Progress) -> None:
    def tell(followers: Sequence[Follower]) -> None:
        progress.step("videos", len(job.taken), asked, text.printable(followers[0].said))

    follow([job], progress, tell)
    for used in MAKING:
        shutil.rmtree(job.folder.root / used, ignore_errors=True)


class _Videos:
    """One inference job. taken: how what it was asked for ended, by id, and what ended before."""

    words = WORDS

    def __init__(
        self,
        folder: JobPaths,
        launch: Launch,
        slugs: Mapping[str, Sequence[str]],
        taken: dict[str, Record],
        paths: RunPaths,
    ) -> None:
        self.folder, self.launch, self.slugs, self.taken, self.paths = folder, launch, slugs, taken, paths
        self.asked, self.load_log = folder.staged(), folder.engine_log
        self.about = {"items": str(len(self.asked)), "inference": launch.settings.place.name}

    @property
    def is_done(self) -> bool:
        return self.asked <= self.taken.keys()

    @property
    def ended(self) -> int:
        return len(self.taken)

    def open(self) -> Site:
        return site_of(self.folder, self.launch)

    def begin(self, site: Site, progress: Progress) -> None:
        """All of it is staged."""

    def collect(self) -> None:
        """Nothing is staged beside us."""

    def take(self, records: Sequence[Record], site: Site, progress: Progress) -> None:
        """Bring the videos of new records here, check them, and give them their names."""
        new = [r for r in records if r["id"] not in self.taken]
        for record in new:
            if record["state"] == infer.DONE and record["id"] in self.slugs:
                self._place(record, site)
        self.taken.update((r["id"], r) for r in new)
        if new:
            progress.took("videos", time.monotonic(), len(new))

    def take_the_rest(self, site: Site) -> None:
        self.take(list(worker.read_records(self.folder.results)), site, Quiet())

    def _place(self, record: Record, site: Site) -> None:
        if _is_here(record, self.slugs[record["id"]], self.paths):
            return
        source = self.folder.root / record["file"]
        if not _is_same(source, record):
            site.fetch([record["file"]])
        if not _is_same(source, record):
            raise HostError(
                f"{site.name}: {record['file']} is not the video that was made",
                hint="somebody changed it: remove the job's folder there, then run the same command again",
            )
        first, *others = (self.paths.videos / f"{slug}.mp4" for slug in self.slugs[record["id"]])
        first.unlink(missing_ok=True)
        link_whole(source, first)
        _put(first, others)

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def open_sites(paths: RunPaths) -> list[tuple[JobPaths, Site]]:
    """The inference jobs of a run that were begun and not brought to their end, each with its place."""
    if not (jobs := open_jobs(paths)):
        return []
    launch = launch_of(read_plan(paths.plan), read_pipeline(paths)[1])
    return [(job, site_of(job, launch)) for job in jobs]
