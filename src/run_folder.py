"""Run folders: where the files of one are, who may write there, and which ones there are."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, RunLocked

OUTPUTS = Path("outputs")  # where new run folders go; see conf/config.yaml
LATEST = "latest"  # in place of a folder: the newest run
SWEEP_RECORD = "multirun.yaml"  # what Hydra writes into the folder of a sweep
SWEEP_ENDS = ".ended"  # in the folder of a sweep, one file a point
LOCK_TIMEOUT_S = 0.2  # `is_locked` of another process holds the lock for a moment


class File:
    """A file, or a folder, of what has a `root`, by its name below that."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, paths: Any, kind: object = None) -> Path:
        root: Path = paths.root
        return root / self._name


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run folder; creates nothing."""

    root: Path

    plan = File("plan.json")
    plan_table = File("plan.csv")
    record = File("run.json")  # what a list of runs shows of this one
    command = File("command.txt")  # the command that started this run
    lock = File(".lock")
    journal = File("journal.jsonl")  # every item that ended, in order of ending; what a resumed run relies on
    timings = File("timings.json")  # of the phases of each start
    log = File("log.jsonl")
    hints = File("hints")
    jobs = File("job")  # one folder per job, named by its id

    results = File("results.json")
    summary = File("summary.csv")
    report = File("report.html")
    batch = File("batch.jsonl")
    specs_list = File("specs.jsonl")  # the updated specs, one a line
    specs = File("specs")  # the updated specs, a file each (output.specs=files)
    provenance = File("provenance.jsonl")  # what each answer was made of
    parquet = File("results.parquet")
    dataset = File("dataset")  # a folder for Hugging Face's `datasets`
    openai_batch = File("openai_batch.jsonl")
    texts = File("txt")

    points = File("points.json")  # of task=limits
    review = File("review.jsonl")  # verdicts about the texts
    made = File("prompts")  # specs that task=spec made

    pipeline = File("pipeline.json")  # how inference was started, so that it can be resumed
    inference = File("inference")  # one folder per inference job, named by its id
    inference_results = File("inference.json")
    videos = File("videos")  # that Cosmos made, one per item
    videos_page = File("videos.html")  # the videos beside what they were made from
    video_prompts = File("videos/prompts.jsonl")  # the videos with their prompts, for a run that continues with them

    def controls_of(self, slug: str, control: str) -> Path:
        """A control video that Cosmos made for an item on the way."""
        return self.root / "controls" / slug / f"{control}.mp4"


@contextmanager
def locked(paths: RunPaths, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the run folder for this process; raises RunLocked when another one has it for so long."""
    import fcntl

    paths.root.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    if timeout_s > 1 and is_locked(paths):
        from . import log

        log.get().warning("run_folder_waited_for", folder=str(paths.root), limit_s=round(timeout_s))
    with open(paths.lock, "w") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunLocked(
                        f"{paths.root}: another process uses this run folder",
                        hint="wait for it (output.lock_timeout_s), or stop it; then run the same command again",
                    ) from None
                time.sleep(0.02)
            except OSError as e:
                hint = "its file system needs locks (Lustre: mount option flock); or name a folder elsewhere: hydra.run.dir=FOLDER"
                raise InputError(f"{paths.root}: cannot be locked: {e.strerror}", hint=hint) from e
        yield


def is_locked(paths: RunPaths) -> bool:
    """Whether a process holds the run folder now."""
    return is_held(paths.lock)


def is_held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock file; this one holds it for a moment to find out."""
    import fcntl

    try:
        fd = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as e:  # where there are no locks, nobody holds one
        return isinstance(e, BlockingIOError)
    finally:
        os.close(fd)
    return False


def run_folders(below: Path = OUTPUTS) -> list[Path]:
    """The folders of all runs that were planned or started below a folder, the newest first."""
    found = []
    for folder, names, files in os.walk(below):
        if "plan.json" in files:
            found.append(Path(folder))
            names.clear()
        elif SWEEP_RECORD in files:
            names[:] = [name for name in names if name[0] != "." and Path(folder, name, "plan.json").is_file()]
        else:
            names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda folder: ((folder / "plan.json").stat().st_mtime_ns, folder), reverse=True)


def named_run(value: str, *, resumes: bool = False) -> Path | None:
    """The run that `latest`, a run's name or its path below outputs/ stands for, the newest one; None for none.

    resumes: it is to be resumed; for the last point of a sweep that is the sweep.
    """
    if (OUTPUTS / value / "plan.json").is_file() or (OUTPUTS / value / SWEEP_RECORD).is_file():
        return OUTPUTS / value
    for folder in run_folders():
        if value == LATEST:
            return folder.parent if resumes and (folder.parent / SWEEP_RECORD).is_file() else folder
        with suppress(OSError, ValueError, AttributeError, RecursionError):  # an earlier version left none
            if json.loads(RunPaths(folder).record.read_bytes()).get("name") == value:
                return folder
    return None


# What the folder of a run, or of a sweep, has before anything was started in it.
_OF_THE_START = {".hydra", "log.jsonl", ".lock", SWEEP_RECORD, f".{SWEEP_RECORD}.seal", SWEEP_ENDS}


def discard_unused(folder: Path) -> None:
    """Remove a folder in which nothing was started, and that of its day in outputs/ if it was the only one."""
    try:
        if {path.name for path in folder.iterdir()} <= _OF_THE_START:
            shutil.rmtree(folder)
            if OUTPUTS.absolute() in folder.absolute().parent.parents:
                folder.parent.rmdir()
    except OSError:  # it is not there, or not the only one of its day
        return


def link_in(folder: Path) -> Path | None:
    """A link in a run folder, where none is made: what it leads to would be written instead."""
    pending = [str(folder)]
    while pending:
        with suppress(PermissionError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    return Path(entry.path)
                if entry.is_dir():
                    pending.append(entry.path)
    return None
