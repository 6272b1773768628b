"""How a run stands, by what lies in its folder on this machine; no host is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .. import log
from ..errors import ExitCode
from ..hosts.job_folder import open_jobs
from ..run_folder import RunPaths, is_locked
from ..worker.journal import read_records
from ..worker.protocol import DONE, FAILED, KEPT, REFUSED, UPSAMPLED, Ended
from ..worker.records import from_json
from .run_record import RunRecord

Word = Literal["planned", "running", "detached", "answered", "interrupted", "complete"]


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run stands.

    word: planned (nothing was started), running (a controller or a worker of this machine is at work), detached (its job was
    given to a host that no controller is in touch with), answered (without a controller: to be collected), interrupted, or
    complete (every item ended). done, total: items, or videos, as unit says. states: how those that ended did, as far as
    that is known here.
    """

    word: Word
    done: int
    total: int
    states: Mapping[str, int]
    unit: str = "answered"

    def __str__(self) -> str:
        kept = "kept original" if self.unit == "answered" else "skipped"
        others = [f"{self.states[s]:,} {word}" for s, word in ((KEPT, kept), (FAILED, "failed")) if self.states.get(s)]
        return f"{self.word}, {self.done:,} of {self.total:,}" + (f": {', '.join(others)}" if others else "")

    @property
    def is_open(self) -> bool:
        """Whether resuming it is what it needs."""
        return self.word not in ("running", "complete")

    @property
    def exit_code(self) -> ExitCode:
        """Of task=status; see docs/failures.md."""
        if self.word == "complete":
            return ExitCode.INCOMPLETE if set(self.states) - {UPSAMPLED} else ExitCode.OK
        if self.word in ("interrupted", "answered"):
            return ExitCode.INTERRUPTED
        return ExitCode.INPUT if self.word == "planned" else ExitCode.OK


def state_of(paths: RunPaths, record: RunRecord) -> RunState:
    """How a run stands: its videos, where it makes some and has all its prompts. Raises InputError for a damaged journal."""
    jobs = (*open_jobs(paths.jobs), *open_jobs(paths.inference))
    is_busy = is_locked(paths) or any(job.is_held for job in jobs)
    if paths.points.exists() and any((folder / "matrix.json").exists() for folder in (paths.root, paths.root.parent)):
        return RunState("complete", record.items, record.items, {})
    if sum(record.states.values()) == record.items and not is_busy:
        return _with_videos(RunState("complete", record.items, record.items, record.states), paths)
    collected, written = ended_ids(paths.journal), written_ids(paths)
    word: Word = "interrupted" if written or any(paths.jobs.glob("*/job.json")) else "planned"
    if is_busy:
        word = "running"
    elif len(collected) >= record.requests:
        word = "complete"
    elif len(written) >= record.requests:
        word = "answered"
    elif record.is_away and jobs:
        word = "detached"
    return _with_videos(RunState(word, items_of(len(written), record), record.items, Counter(written.values())), paths)


@dataclass(frozen=True, slots=True)
class _Video:
    state: str


def _with_videos(state: RunState, paths: RunPaths) -> RunState:
    """The state of a pipeline by its videos, which come after its prompts."""
    if state.word != "complete" or not paths.pipeline.exists():
        return state
    try:
        videos = from_json(tuple[_Video, ...], json.loads(paths.inference_results.read_bytes()))
    except (OSError, ValueError, RecursionError):  # not written yet, or damaged: the stage does it again
        return replace(state, word="interrupted", done=0, states={}, unit="videos")
    rows = Counter(video.state for video in videos)
    known = {UPSAMPLED: rows[DONE], FAILED: rows[FAILED], KEPT: rows["skipped"]}
    word: Word = "interrupted" if rows["unfinished"] else "complete"
    states = {name: count for name, count in known.items() if count}
    return RunState(word, rows.total() - rows["unfinished"], rows.total(), states, "videos")


def ended_ids(journal: Path) -> dict[str, str]:
    """The items that ended by a journal, of a run or of a job, by id, with their states."""
    return {ended.id: ended.state for ended in read_records(journal, Ended, log.left_out) if ended.state != REFUSED}


def written_ids(paths: RunPaths) -> dict[str, str]:
    """The items that ended by all that is on this machine, also what no controller has collected from its job yet."""
    found: dict[str, str] = {}
    for journal in (*(job.results for job in open_jobs(paths.jobs)), paths.journal):
        found |= ended_ids(journal)
    return found


def items_of(requests: int, record: RunRecord) -> int:
    """How many items so many distinct requests stand for: all for all of them, else at least as many."""
    return record.items if requests >= record.requests else requests
