"""Calls of the program: the one place where tests start it, wait for something, and read the files of a run."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
T = TypeVar("T")
cpu_s = [0.0]  # CPU seconds of all calls that the fork server has reported


@dataclass(frozen=True)
class Ended:
    """How one call of the program ended."""

    code: int
    out: str
    err: str


class Forked:
    """A child of the fork server; as much of `subprocess.Popen` as `Program` needs."""

    def __init__(self, pid: int, ending: int, server: ForkServer) -> None:
        self.pid, self.returncode, self._ending, self._server = pid, None, ending, server

    returncode: int | None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._ending], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("src.run", timeout or 0)
            self.returncode, used_s = json.loads(os.read(self._ending, 1000))
            os.close(self._ending)
            cpu_s[0] += used_s
            self._server.cpu_s += used_s
        assert self.returncode is not None
        return self.returncode


class Program:
    """One call of the program, with the methods of `subprocess.Popen` that tests use. What it prints can be read at any time."""

    def __init__(self, process: Forked | subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self._process, self._out, self._err = process, out, err
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    @property
    def out(self) -> str:
        return _content(self._out)

    @property
    def err(self) -> str:
        return _content(self._err)

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = PATIENCE_S) -> int:
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def ended(self, timeout_s: float = PATIENCE_S) -> Ended:
        """Wait for its end. A program that takes too long is killed, and its last output is shown."""
        try:
            return Ended(self.wait(timeout_s), self.out, self.err)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {timeout_s:.0f} s: {self.out[-2000:]}\n{self.err[-2000:]}") from None


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode().replace("\r\n", "\n")


class ForkServer:
    """The client of `fork_server.py`, for the project in `root`."""

    def __init__(self, root: Path) -> None:
        self.cpu_s = 0.0  # of the calls that have ended
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("fork_server.py")
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, str(script)],
                cwd=root,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._requests.recv(100) == b"ready", "the fork server did not start"

    def start(self, request: Mapping[str, Any], fds: tuple[int, int, int]) -> Forked:
        ending, their_end = os.pipe()
        try:
            socket.send_fds(self._requests, [json.dumps(request).encode()], [*fds, their_end])
        finally:
            os.close(their_end)
        return Forked(int(self._requests.recv(100)), ending, self)

    def close(self) -> None:
        self._requests.close()
        self._server.wait()
        cpu_s[0] -= self.cpu_s  # from here on the operating system counts it among the children of this process


_fork_servers: dict[Path, ForkServer] = {}


def fork_server(project: Path) -> ForkServer:
    """The fork server of a project folder; one per test process, started at the first call."""
    if project not in _fork_servers:
        _fork_servers[project] = ForkServer(project)
    return _fork_servers[project]


def close_fork_server(project: Path = ROOT) -> None:
    """End a fork server, if it was started. All of them end with the test process, too."""
    if server := _fork_servers.pop(project, None):
        server.close()


def start(
    *overrides: str,
    cwd: Path = ROOT,
    project: Path = ROOT,
    env: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
    stdin: int | None = None,
    fresh: bool = False,
) -> Program:
    """Start the program with these arguments.

    project: the folder that holds the program's code. limit_bytes: the largest file that it may write. stdin: a file
    descriptor; nothing can be read without it. fresh: in a new interpreter, and not as a fork of one that has imported
    everything.
    """
    environment = dict(os.environ if env is None else env)
    if project != cwd:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(project), environment.get("PYTHONPATH"))))
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    with open(os.devnull, "rb") as nothing:
        given = nothing.fileno() if stdin is None else stdin
        if fresh:

            def prepare() -> None:
                if limit_bytes:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

            argv = [sys.executable, "-m", "src.run", *overrides]
            return Program(
                subprocess.Popen(
                    argv, cwd=cwd, env=environment, stdin=given, stdout=out, stderr=err, preexec_fn=prepare,
                    start_new_session=True,
                ), out, err,
            )  # fmt: skip
        request = {"arguments": overrides, "cwd": str(cwd), "env": environment, "limit_bytes": limit_bytes}
        return Program(fork_server(project).start(request, (given, out.fileno(), err.fileno())), out, err)


def program(*overrides: str, timeout_s: float = PATIENCE_S, **options: Any) -> Ended:
    """The program from its start to its end; options as of `start`."""
    return start(*overrides, **options).ended(timeout_s)


def wait_for(what: Callable[[], T], seconds: float = 60.0, step_s: float = 0.02) -> T:
    """Wait until a function returns something true; returns that."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"it did not happen within {seconds:.0f} s"
        time.sleep(step_s)
    return found


def quoted(value: Path | str) -> str:
    """A value as Hydra's command line wants it, whatever letters it holds."""
    return '"' + str(value).replace('"', '\\"') + '"'


# -------------------------------------------------------------------------------------------------- files of a run


def write_prompts(file: Path, video: Path | str, count: int) -> Path:
    """A list of distinct prompts over one clip."""
    file.parent.mkdir(parents=True, exist_ok=True)
    items = [{"name": f"take {n}", "prompt": f"A boat, take {n}.", "video_path": str(video)} for n in range(count)]
    file.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return file


def results_of(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return rows


def plan_of(run: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    return plan


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; none when there is no such file. A torn last line is left out."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def journal_ids(run: Path) -> list[str]:
    """Ids of the items that ended, in order of ending."""
    return [line["id"] for line in journal_lines(run / "journal.jsonl")]


def answered(run: Path) -> list[str]:
    """Ids that the workers of a run wrote down, in order."""
    return [line["id"] for results in run.glob("job/*/results.jsonl") for line in journal_lines(results)]


def loads_of(run: Path, folder: str = "job") -> int:
    """How often a worker of this run loaded its engine, as far as the controller knows."""
    events = [event for file in run.glob(f"{folder}/*/events.jsonl") for event in journal_lines(file)]
    return len({event["time"] for event in events if event.get("phase") == "loading"})


def logged(run: Path, event: str) -> list[dict[str, Any]]:
    """Events of one kind in the log of a run."""
    return [line for line in journal_lines(run / "log.jsonl") if line["event"] == event]
