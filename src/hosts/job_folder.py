"""A job's folder: its files, and how the job stands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launchers import worker

from ..files import write_atomic

Ending = Literal["done", "cancelled", "timeout", "oom", "load_failed", "locked", "failed"]


@dataclass(frozen=True, slots=True)
class State:
    """How a job stands on its host.

    status: absent (nothing was ever started, or it was removed), waiting (made, not started), running or ended.
    ending: how it ended, when it did; exit_code as the container or the worker gave it, None when it is not known.
    """

    status: Literal["absent", "waiting", "running", "ended"]
    ending: Ending | None = None
    exit_code: int | None = None


ABSENT, RUNNING = State("absent"), State("running")


def ended(exit_code: int | None, *, oom_killed: bool = False) -> State:
    """The state of a job whose worker ended with this code (launchers/worker.py says which means what)."""
    known: dict[int | None, Ending] = {
        0: "done", 7: "load_failed", 75: "locked", 124: "timeout", 130: "cancelled", 143: "cancelled",
    }  # fmt: skip
    ending = known.get(exit_code, "failed")
    if oom_killed and ending not in ("cancelled", "timeout"):  # the mark stays when only a child was killed for memory
        ending = "oom"
    return State("ended", ending, exit_code)


@dataclass(frozen=True, slots=True)
class Glance:
    """A job as it stands: its state, how many items have ended, and the phase that the worker last named."""

    state: State
    answered: int
    phase: str


@dataclass(frozen=True, slots=True)
class JobPaths:
    """The files of one job folder; see launchers/worker.py for what each is. Makes nothing."""

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def run_folder(self) -> Path:
        """The run that this is the job of; see `RunPaths.jobs`."""
        return self.root.parent.parent

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def frames(self) -> Path:
        return self.root / "frames"

    @property
    def closed(self) -> Path:
        return self.root / "closed"

    @property
    def results(self) -> Path:
        return self.root / "results.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def exit(self) -> Path:
        return self.root / "exit.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def cancelled(self) -> Path:
        """Marks a job whose worker was asked to end."""
        return self.root / "cancelled"

    @property
    def tidied(self) -> Path:
        """Marks a job whose answers are all here and of which nothing is left elsewhere."""
        return self.root / "tidied"

    @property
    def log(self) -> Path:
        """What the worker itself printed."""
        return self.root / "worker.log"

    @property
    def engine_log(self) -> Path:
        """What the engine printed."""
        return self.root / "server.log"

    def exit_record(self) -> dict[str, Any] | None:
        """How the last worker said that it ended; None while one works, and after one that was killed."""
        try:
            record: dict[str, Any] = json.loads(self.exit.read_text())
        except FileNotFoundError:
            return None
        return record

    def staged(self) -> set[str]:
        """Ids of all items that the worker has been given."""
        return {line["id"] for batch in self.batches.glob("*.jsonl") for line in worker.read_records(batch)}


def state_by_exit_record(job: JobPaths) -> State:
    """The state of a job without a worker, by what its last one left: exit.json, or nothing when it was killed."""
    if end := job.exit_record():
        return ended(int(end["code"]))
    return ended(None) if job.lock.exists() else ABSENT


def open_job(paths: JobPaths, record: dict[str, Any]) -> None:
    """Make a job folder that a worker can start in; batches follow."""
    for folder in (paths.batches, paths.frames):
        folder.mkdir(parents=True, exist_ok=True)
    if not paths.job.exists():
        write_atomic(paths.job, json.dumps(record, indent=1))
