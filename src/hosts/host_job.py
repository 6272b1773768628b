"""A job on a host that is reached only through commands that it runs: another machine, or this machine's Docker.

It puts together a host, a mirror of the job's folder and a runtime of its worker, and tries again while the link is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TypeVar

from .. import log
from ..errors import FolderGone, LinkLost
from .host import Host, checked, script
from .job_folder import ABSENT, JobPaths, JobStatus, State, ended
from .launch import Launch
from .mirror import Location, Mirror, RemoteFolder, SharedFolder, answer_of, locate, peek
from .runtimes import DockerRuntime, ProcessRuntime, Runtime
from .shared_pool import PoolRuntime
from .slurm import SlurmRuntime

RETRY_MAX_S = 8.0

T = TypeVar("T")


class HostJob:
    """One job on a host."""

    poll_s = 0.5
    survives_controller = True

    def __init__(self, launch: Launch, job: JobPaths, host: Host) -> None:
        self.launch, self.job, self.host = launch, job, host
        self.name, self.silent_s = launch.host.name, launch.host.silent_s
        self._fail_fast = self._is_closed = False
        self._mutex = threading.Lock()

    @cached_property
    def location(self) -> Location:
        return locate(self.host, self.launch.host, self.job)

    @cached_property
    def mirror(self) -> Mirror:
        kind = SharedFolder if self.launch.host.kind == "local" else RemoteFolder
        return kind(self.host, self.job, self.location)

    @cached_property
    def runtime(self) -> Runtime | SlurmRuntime | PoolRuntime:
        given = self.host, self.launch, self.location
        if self.launch.host.kind == "slurm":
            return SlurmRuntime(*given)
        if self.launch.host.kind == "pool":
            return PoolRuntime(*given)
        return DockerRuntime(*given) if self.launch.image.reference else ProcessRuntime(*given)

    @property
    def sent_bytes(self) -> int:
        return self.mirror.sent_bytes

    def prepare(self) -> None:
        """The first connection is not tried again: what is wrong with it shows at once."""
        self.host.run(("true",))
        self._retrying(self._prepare)

    def _prepare(self) -> None:
        self.__dict__.pop("location", None)  # measured again: whether there is space now
        location = self.location
        self.runtime.check()
        try:
            self.mirror.create()
        except FolderGone:  # another controller removed it meanwhile
            self.mirror.create()
        log.get().debug("job_located", host=self.host.name, folder=location.folder)

    def push(self) -> None:
        with self._mutex:  # hints are staged in a thread of their own
            if not self._is_closed:
                self._retrying(self.mirror.push)

    def start(self) -> None:
        self.job.exit.unlink(missing_ok=True)
        if self.mirror.is_behind:  # another controller removed the folder
            self._retrying(self._prepare)
            self.push()
        self._retrying(self.runtime.start)

    def poll(self) -> State:
        return self._retrying(self._poll)

    def _poll(self) -> State:
        while True:
            polled = self.mirror.poll(self.runtime.question())
            state = self.runtime.state(polled.answer)
            if polled.is_gone:
                return ABSENT
            if self.mirror.is_behind:  # the folder is there again
                self.push()
            if polled.has_more:
                continue
            if state.status == "ended":
                if not self.mirror.bring_exit_record():  # killed, or its disk is full: bring its last lines
                    self.mirror.fetch_logs()
                    locate(self.host, self.launch.host, self.job)
                if state.ending is None:
                    end = self.job.exit_record()
                    state = ended(end.code if end else None)
            return state

    def peek(self) -> JobStatus:
        self.fail_fast()
        state = self.runtime.state(answer_of(self.host, self.runtime.question()))
        return peek(self.host, self.location.folder, state)

    def ask_to_stop(self) -> None:
        """The mark tells whoever supervises the job that its end was wanted; dockerd too ends containers with SIGTERM."""
        mark = script('[ ! -d "$1" ] || : > "$1/cancelled"', self.location.folder)
        checked(self.host.run(mark), self.host, "the job cannot be cancelled")
        self.runtime.ask_to_stop()

    def kill(self) -> None:
        self._retrying(self.runtime.kill)

    def was_cancelled(self) -> bool:
        asked = script('[ -e "$1/cancelled" ]', self.location.folder)
        return self._retrying(lambda: self.host.run(asked)).code == 0

    def finish(self) -> None:
        self._retrying(self._finish)

    def _finish(self) -> None:
        self.mirror.fetch_logs()
        self.runtime.remove()
        if not self.launch.host.keep_job:
            self.mirror.remove()

    def fetch(self, sizes: Mapping[str, int]) -> None:
        self._retrying(lambda: self.mirror.fetch(sizes))

    def fetch_logs(self) -> None:
        self.mirror.fetch_logs()

    def fail_fast(self) -> None:
        self._fail_fast = True

    def close(self) -> None:
        """Also for threads that are pushing: what breaks off is not tried again, and no new connection is opened for it."""
        self._fail_fast = self._is_closed = True
        self.host.close()

    def _retrying(self, work: Callable[[], T]) -> T:
        """Do something that may be done twice, again and again while the link is lost, for host.patience_s."""
        from tenacity import Retrying, retry_if_exception_type, stop_before_delay, wait_exponential_jitter

        def warn(state: object) -> None:
            error = state.outcome.exception()  # type: ignore[attr-defined]
            wait_s = state.next_action.sleep  # type: ignore[attr-defined]
            log.get().warning("link_lost", host=self.host.name, reason=str(error.message), again_in=f"{wait_s:.0f}s")

        patience_s = self.launch.host.patience_s
        self.host.until = time.monotonic() + patience_s
        lost = Retrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_exponential_jitter(multiplier=0.5, max=RETRY_MAX_S),
            stop=lambda state: self._fail_fast or stop_before_delay(patience_s)(state),
            before_sleep=warn,
            reraise=True,
        )
        return lost(work)
