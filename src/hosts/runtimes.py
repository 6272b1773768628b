"""How a worker lives on a host: as a plain process or as a container.

A runtime knows which command reports the state of the worker (`question`) and how to read its output (`state`, where an
unknown exit code is left to exit.json). It remembers nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import log
from ..errors import HostError, LinkLost
from ..planning import gpus
from . import docker
from .host import CommandResult, Host, checked, script
from .job_folder import ABSENT, RUNNING, State
from .launch import Launch
from .mirror import Location, answer_of

_START = """
cd "$1" && shift || exit 1
rm -f exit.json cancelled
setsid "$@" >>worker.log 2>&1 </dev/null &
started=$!
n=0
while [ $n -lt 100 ] && kill -0 $started 2>/dev/null && flock -n lock true; do sleep 0.1; n=$((n + 1)); done
"""
_STOP = 'cd "$1" && [ -e lock ] && { flock -n lock true || kill -TERM "$(cat lock)"; }'
_KILL = 'cd "$1" && [ -e lock ] && { flock -n lock true || kill -KILL -- "-$(cat lock)"; }'
_PROCESS = '[ -e "$1/lock" ] || { echo absent; exit; }; flock -n "$1/lock" true && echo ended || echo running'


class ProcessRuntime:
    """The worker as a process in a session of its own; the lock that it holds tells that it runs."""

    def __init__(self, host: Host, launch: Launch, location: Location) -> None:
        self.host, self.launch, self.folder = host, launch, location.folder

    def check(self) -> None: ...

    def question(self) -> Sequence[str]:
        return script(_PROCESS, self.folder)

    def state(self, answer: str) -> State:
        words = answer.split()
        return RUNNING if "running" in words else ABSENT if "absent" in words else State("ended")

    def start(self) -> None:
        visible = (f"{name}={value}" for name, value in gpus.environment(self.launch.host.gpus).items())
        argv = ("env", *visible, *self.launch.command(self.folder))
        checked(self.host.run(script(_START, self.folder, *argv)), self.host, "the worker cannot be started")

    def ask_to_stop(self) -> None:
        self.host.run(script(_STOP, self.folder))

    def kill(self) -> None:
        """The worker's whole session: its engine ends with it."""
        self.host.run(script(_KILL, self.folder))

    def remove(self) -> None: ...


class DockerRuntime:
    """The worker as a detached container; its name is the lock: Docker decides who wins when two start the same job."""

    def __init__(self, host: Host, launch: Launch, location: Location) -> None:
        self.host, self.launch, self.location = host, launch, location
        self.container = docker.container_name(location.folder)

    def check(self) -> None:
        """The image must be there, or be pulled where that is allowed."""
        image, settings = self.launch.image, self.launch.host
        done = self.host.run((*settings.docker, "image", "inspect", "--format", "{{.Id}}", image.reference))
        if done.code == 0:
            return
        if not docker.lacks_image(done.message):
            raise HostError(
                f"{self.host.name}: Docker cannot be used: {done.message}",
                hint="is it installed and running there, and may this user use it? host.docker names the command",
            )
        if not image.pull:
            raise HostError(
                f"{self.host.name}: there is no image {image.reference}",
                hint="load or build it there, or allow pulling with image.pull=true",
            )
        log.get().info("image_pulled", image=image.reference, host=self.host.name)
        done = self.host.run(docker.pull_argv(settings, image), timeout_s=3600.0)
        checked(done, self.host, f"image {image.reference} cannot be pulled")

    def question(self) -> Sequence[str]:
        return docker.inspect_argv(self.launch.host, self.container)

    def state(self, answer: str) -> State:
        """What cannot be read is no lost link, which would be tried again and again."""
        try:
            return docker.state_of(answer)
        except ValueError:
            said = answer.strip()[-300:]
        if docker.is_absent(answer):
            return ABSENT
        if docker.is_away(answer) or not said:
            raise LinkLost(f"{self.host.name}: Docker does not answer: {said}")
        raise HostError(f"{self.host.name}: the state of the container cannot be read from {said!r}", hint=_hint(said))

    def start(self) -> None:
        state = self.state(answer_of(self.host, self.question()))
        if state.status == "running":
            return
        if state.status == "waiting" and self._docker("start", self.container).code == 0:
            return
        if state.status != "absent" and not self._removed():
            return
        place = self.location
        clear = script('rm -f "$1/exit.json" "$1/cancelled"', place.folder)
        checked(self.host.run(clear), self.host, "the job cannot be started again")
        argv = docker.run_argv(self.launch, place.folder, place.root, place.user)
        done = self._docker(*argv[len(self.launch.host.docker) :])
        if done.code and not docker.is_taken(done.message):
            self._docker("rm", "--force", self.container)  # docker run leaves one that it could not start
            hint = _hint(done.message)
            raise HostError(f"{self.host.name}: the container cannot be started: {done.message}", hint=hint)

    def ask_to_stop(self) -> None:
        self._docker("kill", "--signal", "TERM", self.container)

    def kill(self) -> None:
        self._docker("kill", self.container)

    def remove(self) -> None:
        self._removed()

    def _removed(self) -> bool:
        """Remove a container that ended; False when another controller has started it again meanwhile."""
        done = self._docker("rm", self.container)
        if done.code == 0 or docker.is_absent(done.message) or "already in progress" in done.message:
            return True
        if docker.is_busy(done.message):
            return False
        raise HostError(f"{self.host.name}: the container that ended cannot be removed: {done.message}")

    def _docker(self, *words: str) -> CommandResult:
        """A docker command; LinkLost when its daemon does not answer."""
        done = self.host.run((*self.launch.host.docker, *words))
        if done.code and docker.is_away(done.message):
            raise LinkLost(f"{self.host.name}: Docker does not answer: {done.message}")
        return done


Runtime = ProcessRuntime | DockerRuntime


def _hint(message: str) -> str:
    hints = {
        "could not select device driver": "Docker has no NVIDIA runtime there: install it, or set host.gpus=none",
        "bind source path does not exist": "a folder to mount is not there: check model.checkpoint and image.mounts",
        "No space left": "the disk there is full: free some space, then resume",
        "permission denied": "may this user use Docker there? host.docker=[sudo,docker] uses sudo",
    }
    return next((hint for sign, hint in hints.items() if sign in message), "the message is Docker's own")
