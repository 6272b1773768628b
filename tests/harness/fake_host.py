"""A host for tests: the real scripts run on this machine, behind a link that fails when a test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from src.errors import HostError, LinkLost
from src.hosts.host import CommandResult, Limit, LocalHost
from src.hosts.launch import Launch
from src.planning.settings import HostSettings, ImageSettings
from tests.harness.fake_docker import FakeDocker

HOST = HostSettings(
    name="box", kind="ssh", address="box", user="", port=0, key_file="", password_env="", known_hosts="", root="~/jobs",
    docker=("docker",), gpus="none", patience_s=30.0, keep_job=False,
)  # fmt: skip
NO_IMAGE = ImageSettings(
    name="none", reference="", python="python3", pull=False, network="", shm_size="1g", user="", mounts=(), env=(),
)  # fmt: skip
LAUNCH = Launch(host=HOST, image=NO_IMAGE, python="sh", checkpoint="", grace_s=1.0, run_id="run")


@dataclass(frozen=True)
class Fault:
    """What happens to one command. lost: "before" it runs, or "after" it ran, so that only its answer is lost.

    done: the answer in place of what the command prints. cut_at: the link carries so many bytes to it and breaks.
    meanwhile: something else that happens just before it runs.
    """

    lost: str = ""
    done: CommandResult | None = None
    cut_at: int | None = None
    meanwhile: Callable[[], object] = lambda: None


NONE, LOST_BEFORE, LOST_AFTER = Fault(), Fault("before"), Fault("after")


def prints(out: str | bytes, code: int = 0, err: bytes = b"") -> Fault:
    """A command that does nothing but print."""
    return Fault(done=CommandResult(code, out.encode() if isinstance(out, str) else out, err))


class FakeHost:
    """This machine, with faults. commands: what ran; received: bytes fed to them; after: called after each command."""

    def __init__(self, docker: FakeDocker | None = None, name: str = "box") -> None:
        self.name, self.docker = name, docker
        self.commands: list[tuple[str, ...]] = []
        self.received, self.until = 0, 0.0
        self.closed = False
        self._here = LocalHost(name)
        self.after: Callable[[], object] = lambda: None
        self._faults: dict[str, deque[Fault]] = {}
        self._numbered: dict[int, Fault] = {}

    def fail(self, word: str, *faults: Fault) -> None:
        """The next commands that have this word among theirs (a script, a docker command) meet these faults in turn."""
        self._faults.setdefault(word, deque()).extend(faults)

    def fail_at(self, number: int, fault: Fault) -> None:
        """The command with this number, counted from 0, meets a fault."""
        self._numbered[number] = fault

    def count(self, word: str) -> int:
        """How many commands with this word ran."""
        return sum(word in argv for argv in self.commands)

    def run(self, argv: Sequence[str], feed: Iterable[bytes] = (), *, limit: Limit | None = None) -> CommandResult:
        fault = self._fault_of(tuple(argv))
        self.commands.append(tuple(argv))
        if fault.lost == "before":
            raise LinkLost(f"{self.name}: the link is cut")
        fault.meanwhile()
        done = fault.done or self._run(argv, self._carried(feed, fault.cut_at), limit)
        self.after()
        if fault.lost == "after" or fault.cut_at is not None:
            raise LinkLost(f"{self.name}: the link is cut")
        return done

    def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
        done = self.run(argv)
        yield from (done.out[at : at + 1000] for at in range(0, len(done.out), 1000))
        if done.code:
            raise HostError(f"{self.name}: {argv[0]} ended with {done.code}: {done.message}")

    def close(self) -> None:
        self.closed = True

    def _fault_of(self, argv: tuple[str, ...]) -> Fault:
        if fault := self._numbered.pop(len(self.commands), None):
            return fault
        return next((queue.popleft() for word, queue in self._faults.items() if queue and word in argv), NONE)

    def _run(self, argv: Sequence[str], feed: Iterable[bytes], limit: Limit | None) -> CommandResult:
        """Run a command; a Docker command, also as the last arguments of a script, is that of the fake."""
        if self.docker is None or "docker" not in argv:
            return self._here.run(argv, feed, limit=limit)
        at = list(argv).index("docker")
        done = self.docker.command(tuple(argv[at + 1 :]))
        printed = ("printf", "%s", (done.out or done.err).decode())
        return self._here.run((*argv[:at], *printed), feed, limit=limit) if at else done

    def _carried(self, feed: Iterable[bytes], cut_at: int | None) -> Iterator[bytes]:
        """What the link carries of a feed."""
        left = cut_at
        for piece in feed:
            part = piece[:left]
            self.received += len(part)
            yield part
            if left is not None:
                left -= len(part)
                if left <= 0:
                    return
