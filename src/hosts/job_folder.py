"""A job's folder on this machine: its files, and how a job stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import log
from ..files import write_atomic
from ..run_folder import File, is_held
from ..worker.journal import read_records
from ..worker.protocol import (
    CANCELLED,
    LOAD_FAILED,
    LOCKED,
    NO_ACCESS,
    OK,
    TIMEOUT,
    UNAVAILABLE,
    Event,
    Exit,
    InferJob,
    JobHeader,
    Staged,
    UpsampleJob,
)
from ..worker.records import InvalidRecord, from_file, to_json, to_line
from .bundle import WORKER, worker_bundle

WITHDRAWN = ".withdrawn"  # after the name of a batch whose items are for others now
Ending = Literal["done", "cancelled", "timeout", "oom", "load_failed", "unavailable", "no_access", "locked", "failed"]
ENDINGS: dict[int | None, Ending] = {
    OK: "done", LOAD_FAILED: "load_failed", UNAVAILABLE: "unavailable", NO_ACCESS: "no_access", LOCKED: "locked",
    TIMEOUT: "timeout", CANCELLED: "cancelled",
    130: "cancelled",  # 128 + SIGINT
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class State:
    """How a job stands on its host.

    status: absent (nothing was ever started, or it was removed), waiting (created, not started), queued (it will be started
    by a cluster), running or ended.
    ending: how it ended, when it did; exit_code as the container or the worker gave it, None when it is not known.
    """

    status: Literal["absent", "waiting", "queued", "running", "ended"]
    ending: Ending | None = None
    exit_code: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker, or will be one without being started."""
        return self.status in ("queued", "running")

    @property
    def label(self) -> str:
        """For people."""
        return f"ended: {self.ending}" if self.ending else self.status


ABSENT, QUEUED, RUNNING = State("absent"), State("queued"), State("running")


def ended(exit_code: int | None, *, oom_killed: bool = False) -> State:
    """The state of a job whose worker ended with this code."""
    ending = ENDINGS.get(exit_code, "failed")
    if oom_killed and ending not in ("cancelled", "timeout"):  # the mark stays when only a child was killed for memory
        ending = "oom"
    return State("ended", ending, exit_code)


STATES = {  # by the words in which scripts name them
    "running": RUNNING, "queued": QUEUED, "absent": ABSENT, "canceled": ended(CANCELLED), "ended": State("ended"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as it stands: its state, how many items have ended, and the phase that the worker last named. per_s: items ended a
    second, lately; beat_age_s: since its last heartbeat; both None where there was none."""

    state: State
    answered: int
    phase: str
    per_s: float | None = None
    beat_age_s: float | None = None


def pace(beats: Sequence[Event], now: float) -> tuple[float | None, float | None]:
    """`JobStatus.per_s` and `beat_age_s` by the last heartbeats of a worker, on the clock of its machine."""
    if not beats:
        return None, None
    first, last = beats[0], beats[-1]
    seconds = last.time - first.time
    return (last.answered - first.answered) / seconds if seconds > 0 else None, max(0.0, now - last.time)


BEATS = 12  # of which the pace is taken


@dataclass(frozen=True, slots=True)
class JobPaths:
    """The files of one job folder; `worker.protocol` describes them. Creates nothing."""

    root: Path

    job = File("job.json")
    worker = File(WORKER)  # the program that works in the folder; a job keeps the one that it was started with
    batches = File("batches")
    frames = File("frames")
    lease = File("lease")  # touched whenever a controller polls the job
    closed = File("closed")
    results = File("results.jsonl")
    events = File("events.jsonl")
    exit = File("exit.json")
    lock = File("lock")
    cancelled = File("cancelled")  # marks a job whose worker was asked to end
    finished = File("tidied")  # marks a job whose answers are all here and of which nothing is left elsewhere
    log = File("worker.log")  # what the worker itself printed
    engine_log = File("server.log")  # what the engine printed

    @property
    def run_folder(self) -> Path:
        """The run that this is a job of; see `RunPaths.jobs`."""
        return self.root.parent.parent

    @property
    def is_held(self) -> bool:
        """Whether a worker that works in this very folder lives."""
        return is_held(self.lock)

    def renew_lease(self) -> None:
        with suppress(OSError):  # a full disk is met where it matters more
            self.lease.touch()

    def exit_record(self) -> Exit | None:
        """How the last worker ended, by its own record; None while one works, and after one that was killed."""
        try:
            return from_file(Exit, self.exit)
        except FileNotFoundError:
            return None
        except InvalidRecord as e:
            log.get().warning("exit_record_damaged", reason=str(e), note="how the worker ended is not known")
            os.replace(self.exit, self.exit.with_name("exit.json.damaged"))
            return None

    def header(self) -> JobHeader:
        """The part of its job.json that every job has."""
        return from_file(JobHeader, self.job)

    def staged(self) -> set[str]:
        """Ids of all items that the worker has been given."""
        return {i.id for batch in self.batches.glob("*.jsonl") for i in read_records(batch, Staged, log.left_out)}


def state_by_exit_record(job: JobPaths) -> State:
    """The state of a job without a worker, by what its last one left: exit.json, or nothing when it was killed."""
    if end := job.exit_record():
        return ended(end.code)
    return ended(None) if job.lock.exists() else ABSENT


def open_job(paths: JobPaths, record: UpsampleJob | InferJob) -> None:
    """Create a job folder that a worker can start in; batches are added later. What is there stays."""
    for folder in (paths.batches, paths.frames):
        folder.mkdir(parents=True, exist_ok=True)
    put_program(paths, record)


def put_program(paths: JobPaths, record: UpsampleJob | InferJob) -> None:
    """Write what is run: job.json, and the worker where none runs. What another user's folder has in place of these is
    not run."""
    if not paths.is_held:
        _put(paths.worker, worker_bundle())
    _put(paths.job, f"{to_line(to_json(record))}\n".encode())


def _put(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)


def open_jobs(folder: Path) -> list[JobPaths]:
    """The jobs below a folder that were started and not brought to their end, in order of name."""
    found = (JobPaths(file.parent) for file in sorted(folder.glob("*/job.json")))
    return [job for job in found if not job.finished.exists()]
