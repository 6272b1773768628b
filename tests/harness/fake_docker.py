"""A fake Docker: containers that are only records, and the messages of the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from src.hosts.host import CommandResult

AWAY = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


@dataclass
class Container:
    """A container; status as `docker inspect` words it."""

    status: str
    exit_code: int = 0
    oom_killed: bool = False
    argv: tuple[str, ...] = field(default=(), repr=False)
    labels: dict[str, str] = field(default_factory=dict)


class FakeDocker:
    """A Docker daemon. is_up: whether it can be reached; run_error: why no container can be started, "" when one can.

    on_start: called with each container that starts.
    """

    def __init__(self, *images: str) -> None:
        self.images, self.is_up, self.run_error = set(images), True, ""
        self.containers: dict[str, Container] = {}
        self.signals: list[tuple[str, str]] = []
        self.pullable: set[str] = set()
        self.on_start: Callable[[Container], object] = lambda container: None

    def command(self, words: tuple[str, ...]) -> CommandResult:
        """What `docker WORDS` does."""
        if not self.is_up:
            return CommandResult(1, b"", AWAY.encode())
        name = words[-1]
        match words[0]:
            case "image":
                return _done("sha256:0") if name in self.images else _error(f"No such image: {name}")
            case "pull":
                if name not in self.pullable:
                    return _error(f"manifest for {name} not found: manifest unknown")
                self.images.add(name)
                return _done("Downloaded")
            case "run":
                return self._run(words[words.index("--name") + 1], words)
            case "ps":
                return _done("\n".join(self._listed(words[words.index("--filter") + 1])))
        if name not in self.containers:
            return _error(f"No such container: {name}")
        container = self.containers[name]
        match words[0]:
            case "inspect":
                labels = [container.labels.get(f"prompt-upsampler.{key}", "<no value>") for key in ("job", "root")]
                state = (container.status, str(container.exit_code), str(container.oom_killed).lower())
                return _done(" ".join((*state, *labels)))
            case "start":
                return self._start(container)
            case "rm":
                if container.status == "running" and "--force" not in words:
                    return _error(f'cannot remove container "/{name}": container is running: stop the container before')
                del self.containers[name]
                return _done(name)
            case "kill":
                if container.status != "running":
                    return _error(f"cannot kill container: {name}: container 1f is not running")
                self.signals.append((name, words[words.index("--signal") + 1]))
                return _done(name)
        raise AssertionError(f"unknown docker command: {words}")

    def _run(self, name: str, words: tuple[str, ...]) -> CommandResult:
        if name in self.containers:
            return CommandResult(
                125, b"", f'docker: Conflict. The container name "/{name}" is already in use by "1f".'.encode()
            )
        labels = dict(value.split("=", 1) for option, value in pairwise(words) if option == "--label")
        container = self.containers[name] = Container("created", argv=words, labels=labels)
        return self._start(container)

    def _start(self, container: Container) -> CommandResult:
        if self.run_error:
            container.exit_code = 127
            return CommandResult(125, b"", f"docker: Error response from daemon: {self.run_error}.".encode())
        container.status = "running"
        self.on_start(container)
        return _done("1f")

    def _listed(self, wanted: str) -> list[str]:
        """Job, name and status of each container with a label, as in "label=NAME=VALUE"."""
        _, label, value = wanted.split("=", 2)
        found = {name: c for name, c in self.containers.items() if c.labels.get(label) == value}
        job = label.rpartition(".")[0] + ".job"
        states = {"running": "Up 3 minutes", "created": "Created"}
        return [f"{c.labels[job]}\t{name}\t{states.get(c.status, 'Exited (0)')}" for name, c in found.items()]

    def end(self, exit_code: int, *, oom_killed: bool = False) -> None:
        """End the only container."""
        [container] = self.containers.values()
        container.status, container.exit_code, container.oom_killed = "exited", exit_code, oom_killed


def _done(out: str) -> CommandResult:
    return CommandResult(0, f"{out}\n".encode(), b"")


def _error(message: str) -> CommandResult:
    return CommandResult(1, b"", f"Error response from daemon: {message}\n".encode())
