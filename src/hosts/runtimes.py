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
from .host import CommandResult, Host, Limit, checked, script
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
# The number in the lock is that of its worker only where that process was started as one.
_STOP = """
cd "$1" && [ -e lock ] || exit 1
flock -n lock true && exit 0
grep -lszxF -- "$1/worker.pyz" /proc/[0-9]*/cmdline | cut -d/ -f3 | xargs -r kill -TERM
"""
_KILL = """
cd "$1" && [ -e lock ] || exit 1
flock -n lock true && exit 0
grep -lszxF -- "$1/worker.pyz" /proc/[0-9]*/cmdline | cut -d/ -f3 | sed 's/^/-/' | xargs -r kill -KILL --
"""
# Variables come from the environment of the host and are seen in no command line.
_SECRETS = """
umask 077
if [ -n "$2" ]; then
  mkdir -p "$(dirname "$1")" && env -0 | grep -zE "$2" > "$1"
  [ $? -le 1 ] || exit 1
fi
case $3 in "") ;; "~/"*) realpath -e -- "$HOME/${3#??}" ;; *) realpath -e -- "$3" ;; esac
"""
_PROCESS = '[ -e "$1/lock" ] || { echo absent; exit; }; flock -n "$1/lock" true && echo ended || echo running'


class ProcessRuntime:
    """The worker as a process in a session of its own; the lock that it holds tells that it runs."""

    def __init__(self, host: Host, launch: Launch, location: Location) -> None:
        self.host, self.launch, self.folder = host, launch, location.folder

    def check(self) -> None: ...

    def question(self) -> Sequence[str]:
        return script(_PROCESS, self.folder)

    def state(self, answer: str) -> State:
        words = answer.partition("\n")[0].split()
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
        done = self.host.run(
            docker.pull_argv(settings, image), limit=Limit(image.pull_timeout_s, "image.pull_timeout_s")
        )
        checked(done, self.host, f"image {image.reference} cannot be pulled")

    def question(self) -> Sequence[str]:
        return docker.inspect_argv(self.launch.host, self.container)

    def state(self, answer: str) -> State:
        try:
            state = docker.state_of(answer)
        except ValueError:
            return self._without_state(answer)
        if docker.is_foreign(answer, self.location.folder, self.location.root):
            raise HostError(
                f"{self.host.name}: there is a container {self.container} that this program did not make",
                hint=f"look at it with docker inspect {self.container}; rename or remove it, then resume",
            )
        return state

    def _without_state(self, answer: str) -> State:
        """What cannot be read is no lost link, which would be tried again and again."""
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
        key_file = self._secrets_put()
        argv = docker.run_argv(self.launch, place.folder, place.root, place.user, key_file)
        try:
            done = self._docker(*argv[len(self.launch.host.docker) :])
        finally:  # a container that runs has it mounted
            if self.launch.secrets:
                self.host.run(("rm", "-f", docker.secrets_file(place.folder, place.root)))
        if done.code and not docker.is_taken(done.message):
            self._docker("rm", "--force", self.container)  # docker run leaves one that it could not start
            hint = _hint(done.message)
            raise HostError(f"{self.host.name}: the container cannot be started: {done.message}", hint=hint)

    def _secrets_put(self) -> str:
        """Write the secret variables where the container gets them from; the key file as an absolute path, "" for none."""
        launch, place = self.launch, self.location
        if not (launch.secrets or launch.secret_file):
            return ""
        wanted = f"^({'|'.join(launch.secrets)})=" if launch.secrets else ""
        name = docker.secrets_file(place.folder, place.root)
        put = script(_SECRETS, name, wanted, launch.secret_file)
        printed = checked(self.host.run(put), self.host, "the key cannot be passed to the container")
        return printed.decode("utf-8", "replace").strip()

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
        "bind source path does not exist": "a mounted path is missing: check model.checkpoint, model.gguf and image.mounts",
        "No space left": "the disk there is full: free some space, then resume",
        "permission denied": "may this user use Docker there? host.docker=[sudo,docker] uses sudo",
    }
    return next((hint for sign, hint in hints.items() if sign in message), "the message is Docker's own")
