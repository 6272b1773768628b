"""What a run has to ask: rendered and staged once, and dealt to its jobs as they have room.

A job that is alone finds everything in its own folder. Several share what is staged in `queue/` beside them: each gets a copy
of what it is dealt, and what a lost one holds is dealt to others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress

from .. import log
from ..errors import HostError
from ..files import link_atomic
from ..hosts.job_folder import WITHDRAWN, JobPaths
from ..line_json import parsed_line
from ..planning.plan import Plan
from ..run_folder import RunPaths
from ..timing.progress import Progress
from ..worker.journal import read_records
from ..worker.protocol import Outcome, Staged
from ..worker.records import InvalidRecord, from_line
from . import staging
from .dealer import Dealer, Items
from .outcomes import Outcomes, RunJournal
from .render_tasks import RenderTasks, renderer
from .staging import Batch, Stop


class Missing(Collection[str]):
    """The items of a plan that have not ended, whatever ended meanwhile."""

    def __init__(self, plan: Plan, outcomes: Outcomes) -> None:
        self._places, self._outcomes = plan.places, outcomes

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._places and item_id not in self._outcomes

    def __iter__(self) -> Iterator[str]:
        return (item_id for item_id in self._places if item_id not in self._outcomes)

    def __len__(self) -> int:
        return len(self._places) - self._outcomes.planned


class Pool:
    """The items of a run that have not ended. folders: of its jobs, by the name of the place where each runs."""

    def __init__(self, plan: Plan, folders: Mapping[str, JobPaths], paths: RunPaths, journal: RunJournal) -> None:
        self.plan, self.folders, self.journal = plan, folders, journal
        self.missing = Missing(plan, journal.outcomes)
        self.asked, self.staged = len(self.missing), 0
        self.dealer = Dealer(folders)
        self.is_shared = len(folders) > 1
        self.folder = JobPaths(paths.jobs / "queue") if self.is_shared else next(iter(folders.values()))
        self.steps = dict[str, int]()  # of the items that an earlier start staged for all, the last of each
        self._stager: _Stager | None = None
        if self.is_shared and self.missing:
            self._find()

    def _find(self) -> None:
        """What an earlier start staged: some of it is open at jobs that may still run."""
        for folder in (self.folder.batches, self.folder.frames):
            folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self.folder.batches.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns):
            staged = [record for record in read_records(file, Staged, log.left_out) if record.id in self.missing]
            self.dealer.add(file.name, [record.id for record in staged])
            self.steps |= {record.id: record.step for record in staged}
        for name, job in self.folders.items():
            for file in job.batches.glob("*.jsonl"):
                records = read_records(file, Staged, log.left_out)
                self.dealer.found(name, (record.id for record in records if self.steps.get(record.id) == record.step))

    @property
    def is_given_out(self) -> bool:
        """Whether the workers have been given everything."""
        return self.staged >= self.asked and not self.dealer.waiting

    def begin(self, progress: Progress) -> None:
        """Stage in a thread what is not staged yet."""
        if self._stager is None:
            self._stager = _Stager(self.plan, self.missing, self.folder, progress)

    def collect(self) -> bool:
        """Collect what that thread has done: whether it was anything. Raises what went wrong in it."""
        is_over = self._stager is not None and self._stager.is_over
        ready = self._stager.collect() if self._stager else []
        for batch in ready:
            self.staged += batch.count
            self.add(batch.lost)
            if self.is_shared:
                self.dealer.add(batch.name, batch.ids)
        if is_over:  # some may have ended before they were staged
            self.staged = self.asked
        return bool(ready)

    def add(self, outcomes: Iterable[Outcome]) -> int:
        """These items have ended; how many had not before."""
        new = self.journal.add(outcomes)
        self.dealer.end(new)
        return len(new)

    def staged_again(self, item_id: str, step: int) -> None:
        """An item was staged alone, for another try: it goes before all others, to anybody."""
        if self.is_shared:
            self.steps[item_id] = step
            self.dealer.put_first({item_id: staging.alone(item_id, step)})

    def deal(self, rooms: Mapping[str, int], among: int, queued: int, *, at_once: bool) -> Iterator[str]:
        """Copy into the folders of jobs what they get now; yields their names, as in `Dealer.deal`."""
        for name, items in self.dealer.deal(rooms, among, queued, at_once=at_once) if rooms else ():
            try:
                self._copy(items, self.folders[name])
            except OSError as e:
                raise HostError(f"a batch cannot be written: {e.filename or ''} {e.strerror}") from e
            yield name

    def _copy(self, items: Items, job: JobPaths) -> None:
        lines = []
        for batch in dict.fromkeys(items.values()):
            for line in (self.folder.batches / batch).read_bytes().splitlines():
                with suppress(InvalidRecord):
                    staged = from_line(Staged, line, loads=parsed_line)
                    if items.get(staged.id) == batch:
                        lines.append(f"{line.decode()}\n")
                        for frame in staged.frames:
                            with suppress(FileNotFoundError):  # whoever asks the item says so, and it is made again
                                link_atomic(self.folder.root / frame, job.root / frame)
        if len(lines) < len(items):
            raise HostError(f"{self.folder.batches}: a batch is damaged", hint="resume the run: it is staged again")
        staging.put_batch(job, next(iter(items.values())).rpartition("-")[0], "".join(lines))

    def give_back(self, name: str) -> bool:
        """The host of a job is lost: others get what it holds, if it holds anything. Once it is back, it is told so
        (`hosts.mirror`)."""
        is_any = bool(self.dealer.open[name])
        self.dealer.give_back(name)
        for batch in self.folders[name].batches.glob("*.jsonl"):
            batch.rename(f"{batch}{WITHDRAWN}")
        return is_any

    def stop(self) -> None:
        """Stage nothing more."""
        if self._stager:
            self._stager.stop.asked = True

    def close(self) -> None:
        self.stop()
        if self._stager:
            self._stager.join()


class _Stager:
    """Renders and stages in a thread of its own, so that answers come in while hints are still being made."""

    def __init__(self, plan: Plan, missing: Collection[str], job: JobPaths, progress: Progress) -> None:
        self.stop, self.is_over = Stop(), False
        self._out: queue.Queue[Batch | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(plan, missing, job, progress), name="stage")
        self._thread.start()

    def _run(self, plan: Plan, missing: Collection[str], job: JobPaths, progress: Progress) -> None:
        try:
            began = time.monotonic()
            host = renderer(plan.settings)
            tasks = [RenderTasks(job.run_folder, host).wait_for] if host else []
            for ready in staging.stage(plan, missing, job, self.stop, *tasks):
                progress.took("hints", began, ready.count)
                self._out.put(ready)
                began = time.monotonic()
            self.is_over = True
        except BaseException as e:  # handed to the main thread, which raises it
            self._out.put(e)

    def collect(self) -> list[Batch]:
        """What was staged since the last time; raises what went wrong in the thread."""
        found: list[Batch] = []
        while not self._out.empty():
            ready = self._out.get()
            if isinstance(ready, OSError):
                raise HostError(f"hints cannot be written: {ready.filename or ''} {ready.strerror}") from ready
            if isinstance(ready, BaseException):
                raise ready
            found.append(ready)
        return found

    def join(self) -> None:
        self._thread.join()
