"""Follow jobs to their end, wherever they run: start what works in a job's folder when nothing works there, take what it
writes, start it again when it dies, and leave without losing anything.

First start, coming back and recovery are the same code. What the results of a job mean is not known here: that is the
`Followed`'s, a worker's share of the prompts (`runs.upsampling`) or the videos (`inference.generate`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .. import log
from ..errors import Detached, EngineError, HostError
from ..files import write_atomic
from ..hosts.job_folder import JobPaths, State
from ..hosts.job_handle import Site
from ..text import command_line
from ..timing.progress import Progress, Quiet

MAX_DEATHS = 3  # without a result between them
SECOND_CTRL_C_S = 3.0

Record = dict[str, Any]  # a line of a job's results.jsonl


@dataclass(frozen=True, slots=True)
class Words:
    """How a kind of job is spoken of. time_limit: the field that sets it; again: the overrides that come back to a run,
    less its folder."""

    worker: str
    result: str
    cannot_load: str
    time_limit: str
    again: str


class Followed(Protocol):
    """A job to follow. Its folder is complete but for what `begin` stages."""

    folder: JobPaths
    words: Words
    about: dict[str, str]  # said when it is started
    load_log: Path  # where the reason of a failed start can be read

    @property
    def is_done(self) -> bool:
        """Whether all that is wanted of it has ended."""

    @property
    def ended(self) -> int:
        """How much of it has ended."""

    def open(self) -> Site:
        """The place where it runs; asked for once."""

    def begin(self, site: Site, progress: Progress) -> None:
        """The place is ready: stage what is not staged yet, now or in a thread of its own."""

    def collect(self) -> None:
        """Take what that thread has to say; raises what went wrong in it."""

    def take(self, records: Sequence[Record], site: Site, progress: Progress) -> None:
        """Write down results, some of which may be known already."""

    def take_the_rest(self, site: Site) -> None:
        """After its worker was asked to stop: write down what ended until then."""

    def stop(self) -> None:
        """Stage nothing more."""

    def close(self) -> None: ...


def follow(jobs: Sequence[Followed], progress: Progress, tell: Callable[[Sequence[Follower]], None]) -> None:
    """Carry jobs to their end, side by side. tell: called after each round, with how far they have come.

    Raises EngineError when what a job needs cannot be loaded, HostError when its worker keeps dying or was ended from
    elsewhere; Detached after Ctrl-C while the jobs go on elsewhere. KeyboardInterrupt asks workers on this machine to
    finish what they have in flight, takes that, and goes on up.
    """
    followers = [Follower(job) for job in jobs]
    try:
        going = [(follower, follower.steps(progress)) for follower in followers]
        while going:
            pauses = [(follower, steps, next(steps, None)) for follower, steps in going]
            going = [(follower, steps) for follower, steps, pause_s in pauses if pause_s is not None]
            tell(followers)
            if going:
                time.sleep(max(pause_s for *_, pause_s in pauses if pause_s is not None))
    except BaseException as e:
        for job in jobs:
            job.stop()
        _leave(e, [follower for follower in followers if follower.is_begun])
        raise
    finally:
        for follower in followers:
            follower.close()


class Follower:
    """How far a job has come. said: the last line of its engine's log that it told of."""

    def __init__(self, job: Followed) -> None:
        self.job, self.folder, self.name = job, job.folder, job.folder.root.name
        self.said, self.is_begun = "", False
        self._site: Site | None = None
        self._phase = ""  # that the worker named last
        self._results, self._events = Tail(job.folder.results), Tail(job.folder.events)
        self._deaths, self._ended_at_death = 0, -1

    @property
    def site(self) -> Site:
        if self._site is None:
            self._site = self.job.open()
        return self._site

    @property
    def sent_bytes(self) -> int:
        return self._site.sent_bytes if self._site else 0

    def steps(self, progress: Progress) -> Iterator[float]:
        """See the job to its end; yields seconds until the next step is worth taking."""
        job, site = self.job, self.site
        site.prepare()
        job.begin(site, progress)
        self.is_begun = True
        site.push()
        if self._look(Quiet()).status == "running":  # what was written until now is history
            log.get().info("job_found_running", job=self.name)
            if self._phase:
                progress.phase(self._phase)
        elif not job.is_done:
            site.start()
            log.get().info("job_started", job=self.name, **job.about)
        while True:
            job.collect()
            state = self._look(progress)
            if job.is_done:
                break
            if state.status != "running":
                self._stop_if_final(state)
                if state.ending != "done":  # done: it got tired of waiting for slow hints
                    self._mourn(state)
                site.start()
            yield site.poll_s
        progress.phase("fetching")
        write_atomic(self.folder.closed, "")
        site.push()
        while site.look().status == "running":
            yield min(site.poll_s, 0.1)
        site.finish()
        write_atomic(self.folder.tidied, "")

    def _look(self, progress: Progress) -> State:
        """How the worker stands; then what it wrote, for after its end it writes nothing."""
        state = self.site.look()
        for event in self._events.new():
            if event["event"] == "phase":
                self._phase = event["phase"]
                progress.phase(self._phase)
            self.said = event.get("said", self.said)
        self.job.take(list(self._results.new()), self.site, progress)
        return state

    def _mourn(self, state: State) -> None:
        """A worker ended before its work did: say why, make its place anew if that is gone, or give up."""
        words = self.job.words
        self._deaths = self._deaths + 1 if self.job.ended == self._ended_at_death else 1
        self._ended_at_death = self.job.ended
        if self._deaths > MAX_DEATHS:
            raise HostError(
                f"{words.worker} ended {self._deaths} times without {words.result}: {last_words(self.folder, state)}"
            )
        if state.status == "absent" and self.site.goes_on_without_us:
            log.get().info("job_gone", job=self.name, note="another controller tidied it up; made again")
            self.site.prepare()
            self._events.begin_anew_if_shorter()
            self.site.push()
        else:
            log.get().warning("worker_restarted", job=self.name, ended=last_words(self.folder, state))

    def _stop_if_final(self, state: State) -> None:
        """Raise what makes starting the worker again pointless, or unwanted."""
        words = self.job.words
        come_back = "take the run up again for what is missing"
        if state.ending == "load_failed":
            said = self.folder.exit_record() is not None
            raise EngineError(
                f"{words.cannot_load}: {last_words(self.folder, state)}",
                hint=f"see {self.job.load_log}" if said else "",
            )
        if state.ending == "timeout":
            raise HostError(f"{words.worker} reached {words.time_limit}", hint=come_back)
        if state.ending == "cancelled" and self.site.was_cancelled():
            raise HostError("the job was cancelled from elsewhere", hint=come_back)

    def close(self) -> None:
        self.job.close()
        if self._site:
            self._site.close()


def _leave(error: BaseException, begun: Sequence[Follower]) -> None:
    """Go before the jobs have ended. Workers on this machine are asked to finish what they have in flight; elsewhere
    they go on, unless a second Ctrl-C comes."""
    elsewhere = [follower for follower in begun if follower.site.goes_on_without_us]
    for follower in elsewhere:
        follower.site.give_up_waiting()
    if elsewhere:
        if not isinstance(error, KeyboardInterrupt):
            return
        names = " ".join(follower.name for follower in elsewhere)
        log.get().warning("leaving", job=names, note=f"Ctrl-C again within {SECOND_CTRL_C_S:.0f} s cancels the job")
        try:
            time.sleep(SECOND_CTRL_C_S)
        except KeyboardInterrupt:
            log.get().warning("cancelling", job=names, note="what has ended is kept")
        else:
            first = elsewhere[0]
            hint = how_to_come_back(first.folder.run_folder, first.job.words.again)
            raise Detached(f"left; the job goes on on {first.site.name}", hint=hint) from None
    for follower in begun:
        follower.site.ask_to_stop()
        log.get().info("waiting_for_what_is_in_flight", job=follower.name)
    for follower in begun:
        while follower.site.look().status == "running":
            time.sleep(min(follower.site.poll_s, 0.1))
        follower.job.take_the_rest(follower.site)


def how_to_come_back(run: Path, again: str) -> str:
    """Two lines for people. again: the overrides that come back to a run, less its folder."""
    return f"come back:  {command_line(again, run)}\n    stop it:    {command_line('task=cancel run', run)}"


class Tail:
    """The whole lines that were added to a journal since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0

    def begin_anew_if_shorter(self) -> None:
        """After a journal may have been emptied, and before it can have grown beyond where we were."""
        if not self.path.exists() or self.path.stat().st_size < self.at:
            self.at = 0

    def new(self) -> Iterator[Record]:
        self.begin_anew_if_shorter()
        try:
            f = open(self.path, "rb")
        except FileNotFoundError:
            return
        with f:
            f.seek(self.at)
            for line in f:
                if not line.endswith(b"\n"):
                    return
                self.at += len(line)
                yield json.loads(line)


def last_words(job: JobPaths, state: State) -> str:
    """Why a worker ended, as far as anybody could say."""
    if state.ending == "oom":
        return "killed because the container's memory was used up"
    if end := job.exit_record():
        return str(end.get("reason") or end["state"])
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    code = f" (exit code {state.exit_code})" if state.exit_code is not None else ""
    return f"killed without a word{code}{': ' + lines[-1] if lines else ''}"
