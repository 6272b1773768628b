"""Carry out inference: stage its job, start the runner, follow it, bring the videos here.

As in `src.execute`, first start, coming back and recovery are the same code: videos that are here are not made again, a job
that was begun is taken up, a runner that still lives is followed, and only what is missing is asked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from launchers import infer, worker
from src import log
from src.containers import State
from src.errors import Detached, EngineError, HostError
from src.execute import MAX_WORKER_DEATHS, SECOND_CTRL_C_S, Tail, last_words
from src.host_site import Launch
from src.inference import InferenceSettings, Take, infer_argv, job_line, job_record, specs_of, stage_settings
from src.jobs import JobPaths, open_job
from src.paths import RunPaths, link_whole, write_atomic
from src.plan import Plan, digest
from src.progress import Progress
from src.sites import Site, place_for

FILES = (Path(infer.__file__), Path(worker.__file__))  # infer.py needs worker.py beside it
MAKING = ("frames", "rounds", "videos")  # what of a job's folder is not kept here once its videos are in place

Record = dict[str, Any]  # a line of the runner's results.jsonl


def generate(
    wanted: Sequence[Take],
    plan: Plan,
    inference: InferenceSettings,
    paths: RunPaths,
    progress: Progress,
    ended: dict[str, Record],
) -> None:
    """Make a video for every take that is not left out; `ended` gets how each ended, by its id, also when this raises.
    done: the video is in paths.videos.

    Raises EngineError when transfer.py cannot start, HostError when the runner keeps dying; Detached after Ctrl-C while
    the job goes on elsewhere.
    """
    asked = {take.id: take for take in wanted if take.id}
    slugs: dict[str, list[str]] = {}
    for take in wanted:
        if take.id:
            slugs.setdefault(take.id, []).append(take.slug)
    ended |= {r["id"]: r for r in made_before(paths) if r["id"] in slugs and _is_here(r, slugs[r["id"]], paths)}
    if ended:
        log.get().info("videos_taken_over", videos=len(ended))
    while missing := {item_id: take for item_id, take in asked.items() if item_id not in ended}:
        folder = _begun(paths, missing.keys()) or _stage(tuple(missing.values()), inference, paths)
        job = _Job(folder, launch_of(plan, inference), slugs, ended, paths)
        job.see_through(progress, len(asked))
    progress.step("videos", len(ended), len(asked))


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


@dataclass
class _Job:
    """One inference job: its folder, the place where it runs, and how far it has come."""

    folder: JobPaths
    launch: Launch
    slugs: Mapping[str, Sequence[str]]
    ended: dict[str, Record]
    paths: RunPaths

    def see_through(self, progress: Progress, total: int) -> None:
        site = site_of(self.folder, self.launch)
        try:
            self._follow(site, progress, total)
        except BaseException as e:
            _leave(e, site, self.paths, lambda: self._take(site))
            raise
        finally:
            site.close()

    def _follow(self, site: Site, progress: Progress, total: int) -> None:
        staged, name = self.folder.staged(), self.folder.root.name
        results, events = Tail(self.folder.results), Tail(self.folder.events)
        said, deaths, at_death = "", 0, -1
        site.prepare()
        site.push()
        if site.look().status == "running":
            log.get().info("job_found_running", job=name)
        elif {r["id"] for r in worker.read_records(self.folder.results)} < staged:
            site.start()
            log.get().info("job_started", job=name, items=len(staged), inference=self.launch.settings.place.name)
        while True:
            state = site.look()
            for event in events.new():
                if event["event"] == "phase":
                    progress.phase(event["phase"])
                said = event.get("said", said)
            self._place(list(results.new()), site)
            progress.step("videos", len(self.ended), total, log.printable(said))
            if staged <= self.ended.keys():
                break
            if state.status != "running":
                _stop_if_final(state, self.folder, site)
                deaths = deaths + 1 if len(self.ended) == at_death else 1
                at_death = len(self.ended)
                if deaths > MAX_WORKER_DEATHS:
                    raise HostError(f"inference ended {deaths} times without a video: {last_words(self.folder, state)}")
                log.get().warning("inference_restarted", job=name, ended=last_words(self.folder, state))
                if state.status == "absent":
                    site.prepare()
                    events.begin_anew_if_shorter()
                    site.push()
                site.start()
            time.sleep(site.poll_s)
        while site.look().status == "running":
            time.sleep(min(site.poll_s, 0.1))
        site.finish()
        write_atomic(self.folder.tidied, "")
        for used in MAKING:
            shutil.rmtree(self.folder.root / used, ignore_errors=True)

    def _take(self, site: Site) -> None:
        """What ended while the runner was asked to stop."""
        new = [r for r in worker.read_records(self.folder.results) if r["id"] not in self.ended]
        self._place(new, site)

    def _place(self, records: Sequence[Record], site: Site) -> None:
        """Bring the videos of new records here, check them, and give them their names."""
        done = [r for r in records if r["state"] == infer.DONE and r["id"] not in self.ended]
        wanted = [r for r in done if r["id"] in self.slugs and not _is_here(r, self.slugs[r["id"]], self.paths)]
        for record in wanted:
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
        self.ended.update((r["id"], r) for r in records)


def _stop_if_final(state: State, job: JobPaths, site: Site) -> None:
    """Raise what makes starting the runner again pointless, or unwanted."""
    if state.ending == "load_failed":
        raise EngineError(f"inference cannot run: {last_words(job, state)}", hint=f"see {job.engine_log}")
    if state.ending == "timeout":
        raise HostError("inference reached inference.time_limit_s", hint="come back for what is missing")
    if state.ending == "cancelled" and site.was_cancelled():
        raise HostError("the job was cancelled from elsewhere", hint="come back for what is missing")


def _leave(error: BaseException, site: Site, paths: RunPaths, take: Callable[[], None]) -> None:
    """Go before the job has ended: a runner on this machine is asked to end; elsewhere it goes on, unless a second
    Ctrl-C comes."""
    if site.goes_on_without_us:
        site.give_up_waiting()
        if not isinstance(error, KeyboardInterrupt):
            return
        log.get().warning("leaving", note=f"Ctrl-C again within {SECOND_CTRL_C_S:.0f} s cancels the job")
        try:
            time.sleep(SECOND_CTRL_C_S)
        except KeyboardInterrupt:
            log.get().warning("cancelling", note="whole videos are kept")
        else:
            raise Detached(f"left; inference goes on on {site.name}", hint=how_to_come_back(paths)) from None
    elif site.look().status != "running":
        return
    site.ask_to_stop()
    while site.look().status == "running":
        time.sleep(min(site.poll_s, 0.1))
    take()


def how_to_come_back(paths: RunPaths) -> str:
    return (
        f"come back:  python -m src.run task=pipeline run={paths.root}\n"
        f"    stop it:    python -m src.run task=cancel run={paths.root}"
    )
