"""A job on a host that is seen only through commands that it runs: another machine, or this machine's Docker.

Its folder there is `<root>/jobs/<job id>`; ours is a mirror of it. What is staged goes there, journals come back as a
byte-exact beginning of the host's. Every step may be done twice, so a lost link is tried again until it is back.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from launchers import worker

from .. import log
from ..errors import HostError, LinkLost
from ..files import write_atomic
from ..planning import gpus
from ..planning.plan import Plan
from ..planning.settings import Settings, digest
from . import docker, transfer
from .connect import root_on
from .host import Done, Host, checked, script
from .job_folder import ABSENT, RUNNING, Glance, JobPaths, State, ended

RETRY_MAX_S = 8.0
LIMIT = 4 << 20  # bytes of journal that one look brings at most

T = TypeVar("T")


# Scripts get their values as arguments. $1 is the job's folder.
_MAKE = """
set -e
umask 022
mkdir -p "$1/batches" "$1/frames" "$2/frames" "$2/cache/home"
cd "$1" && ls batches
"""
_SPACE = """
set -e
mkdir -p "$1" && cd "$1" && id -u && id -g && pwd && df -Pk . | awk 'NR == 2 { print $4 }'
"""
_LINK = """
set -e
cd "$2/frames"
have="../jobs/.have-$3"
cat > "$have.names"
: > "$have"
while IFS= read -r name; do
  if [ -e "$1/frames/$name" ]; then continue; fi
  if [ -e "$name" ]; then echo "${name%.*}  $name" >> "$have"; else echo "$name"; fi
done < "$have.names"
sha256sum --check --quiet "$have" 2>/dev/null | sed -n 's/: FAILED.*//p' | while IFS= read -r name; do
  rm -f "$name"
  echo "$name"
done
cut -c67- "$have" | while IFS= read -r name; do [ ! -e "$name" ] || echo "$name"; done | xargs -r ln -f -t "$1/frames" --
rm -f "$have" "$have.names"
"""
_START = """
cd "$1" && shift || exit 1
rm -f exit.json cancelled
setsid "$@" >>worker.log 2>&1 </dev/null &
started=$!
n=0
while [ $n -lt 100 ] && kill -0 $started 2>/dev/null && flock -n lock true; do sleep 0.1; n=$((n + 1)); done
"""
_STOP = 'cd "$1" && [ -e lock ] && { flock -n lock true || kill -TERM "$(cat lock)"; }'
_PROCESS = '[ -e "$1/lock" ] || { echo absent; exit; }; flock -n "$1/lock" true && echo ended || echo running'
# State first, then the journals: what a worker wrote before it ended is never missed.
_LOOK = """
folder=$1 results=$2 events=$3 limit=$4
shift 4
"$@" 2>&1 | tr '\\n' ' '
echo
cd "$folder" 2>/dev/null || { echo gone; exit 0; }
for pair in "results.jsonl $results" "events.jsonl $events"; do
  name=${pair% *} at=${pair#* }
  size=$(stat -c %s "$name" 2>/dev/null || echo 0)
  n=$((size - at))
  [ $n -gt $limit ] && n=$limit
  echo "$size"
  [ $n -gt 0 ] && tail -c +$((at + 1)) "$name" | head -c $n
  echo
done
"""
_GLANCE = """
cd "$1" 2>/dev/null || { echo 0; echo; exit 0; }
cat results.jsonl 2>/dev/null | grep -vc '"state":"refused"' || true
grep '"event":"phase"' events.jsonl 2>/dev/null | tail -n 1 | grep . || echo
cat exit.json 2>/dev/null || true
"""
_EXIT = 'cat "$1/exit.json" 2>/dev/null || true'
REMOVE = """
set -e
cd "$2/jobs"
case "$1" in "$2/jobs/"*/*|"$2/jobs/"|*..*) exit 64;; "$2/jobs/"*) rm -rf -- "$1";; *) exit 64;; esac
find "$2/frames" -type f -links 1 -mtime +7 -delete
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started in a job folder on a host.

    settings: place and container. files: name -> file of ours that is copied into the job folder. process: from the job
    folder there to the command of a plain process; container: from job folder, root and user to `docker run`.
    """

    settings: Settings
    files: Mapping[str, Path]
    process: Callable[[str], tuple[str, ...]]
    container: Callable[[str, str, str], tuple[str, ...]]


def worker_launch(plan: Plan) -> Launch:
    """The worker that asks the engine."""
    settings = plan.settings
    return Launch(
        settings,
        {"worker.py": Path(worker.__file__)},
        lambda folder: (settings.python, f"{folder}/worker.py", folder),
        lambda folder, root, user: docker.run_argv(settings, plan.run_id, folder, root, user),
    )


class HostSite:
    """A host, ours by SSH or this machine's Docker, seen only through commands that it runs."""

    poll_s = 0.5
    goes_on_without_us = True

    def __init__(self, launch: Launch, job: JobPaths, host: Host) -> None:
        self.launch, self.settings, self.job = launch, launch.settings, job
        self.host = host
        self.name = self.settings.place.name
        self.remote = self.settings.place.kind != "local"
        self.in_container = bool(self.settings.container.reference)
        self.job_id = job.root.name
        self.stopping = False  # a lost link is not waited for any more
        self._key = digest("controller", str(job.root.resolve()), os.uname().nodename)
        self.sent_bytes = 0
        self._pushed: set[str] = set()
        self._events_at = job.events.stat().st_size if job.events.exists() else 0
        self._mutex = threading.Lock()
        self.root = self.folder = self.user = self.container = ""

    # ---------------------------------------------------------------------------------------------------- preparing

    def prepare(self) -> None:
        """Find out where things are, see that the image is there, make the folder and bring the worker.

        The first connection is not tried again: what is wrong with it shows at once.
        """
        self.host.run(("true",))
        self._steadily(self._prepare)

    def _prepare(self) -> None:
        self.locate()
        if self.in_container:
            self._check_image()
        if self.remote:
            listed = self._checked(script(_MAKE, self.folder, self.root), "the job's folder cannot be made")
            self._pushed = set(listed.decode().split())
            self._check_journal()
            has_events = self.host.run(script('[ -e "$1/events.jsonl" ]', self.folder)).code == 0
            if not has_events and self.job.events.exists():  # a new folder in place of one that was tidied up
                os.truncate(self.job.events, 0)
                self._events_at = 0
        elif self.in_container:
            self._checked(script('mkdir -p "$1/cache/home"', self.root), "the cache cannot be made")
            for name, file in self.launch.files.items():
                write_atomic(self.job.root / name, file.read_bytes())

    def locate(self) -> None:
        """Absolute paths on the host, and who we are there."""
        root = root_on(self.host, self.settings.place)
        uid, gid, self.root, free_kib = (
            self._checked(script(_SPACE, root), f"host.root={root} cannot be used").decode().split("\n")[:4]
        )
        self.user = f"{uid}:{gid}"
        self.folder = f"{self.root}/jobs/{self.job_id}" if self.remote else str(self.job.root.resolve())
        self.container = docker.container_name(self.folder)
        if int(free_kib) < 1024:
            raise HostError(f"{self.host.name}: {self.root}: the disk is full", hint="make room there, then resume")

    def _check_image(self) -> None:
        image, command = self.settings.container, self.settings.place.docker
        done = self.host.run((*command, "image", "inspect", "--format", "{{.Id}}", image.reference))
        if done.code == 0:
            return
        if "no such image" not in done.said.lower():
            raise HostError(
                f"{self.host.name}: Docker cannot be used: {done.said}",
                hint="is it installed and running there, and may this user use it? host.docker names the command",
            )
        if not image.pull:
            raise HostError(
                f"{self.host.name}: there is no image {image.reference}",
                hint="load or build it there, or allow pulling with image.pull=true",
            )
        log.get().info("image_pulled", image=image.reference, host=self.host.name)
        done = self.host.run(docker.pull_argv(self.settings.place, image), timeout_s=3600.0)
        checked(done, self.host, f"image {image.reference} cannot be pulled")

    def _check_journal(self) -> None:
        """Our copy of the job's journal must be the beginning of the host's; a host that lost it gets ours back."""
        ours = self.job.results.read_bytes() if self.job.results.exists() else b""
        if not ours:
            return
        have = self.host.run(script('head -c "$2" "$1/results.jsonl" | sha256sum', self.folder, str(len(ours))))
        if have.out.decode()[:64] == transfer.sha256(ours):
            return
        size = self.host.run(script('stat -c %s "$1/results.jsonl" 2>/dev/null || echo 0', self.folder)).out
        if int(size):
            raise HostError(
                f"{self.host.name}: {self.folder}/results.jsonl is not the journal that we know",
                hint="somebody changed it: remove that folder there if nobody needs it, then resume",
            )
        transfer.send(self.host, {"results.jsonl": self.job.results}, self.folder, self._key)

    # ------------------------------------------------------------------------------------------------------ staging

    def push(self) -> None:
        """Frames first, then the batches that name them, then `closed`; what is there already does not travel."""
        if not self.remote:
            return
        with self._mutex:
            self._steadily(self._push)

    def _push(self) -> None:
        base = {} if "job.json" in self._pushed else {"job.json": self.job.job, **self.launch.files}
        batches = [b for b in sorted(self.job.batches.glob("*.jsonl")) if b.name not in self._pushed]
        closing = {"closed": self.job.closed} if self.job.closed.exists() and "closed" not in self._pushed else {}
        if not (base or batches or closing):
            return
        frames = {Path(f).name for batch in batches for line in worker.read_records(batch) for f in line["frames"]}
        missing = self._link(frames)
        if missing:
            files = {name: self.job.frames / name for name in missing}
            transfer.send(self.host, files, f"{self.root}/frames", self._key, on_bytes=self._sent)
            if still := self._link(frames):
                raise HostError(f"{self.host.name}: {len(still)} frames did not arrive")
        small = {**base, **{f"batches/{b.name}": b for b in batches}}
        transfer.send(self.host, small, self.folder, self._key)
        transfer.send(self.host, closing, self.folder, self._key)  # after the batches: none comes after it
        self._pushed |= {Path(name).name for name in (*small, *closing)}

    def _link(self, frames: set[str]) -> list[str]:
        """Give the job the frames that the host has; those that it has not."""
        if not frames:
            return []
        names = "".join(f"{name}\n" for name in sorted(frames)).encode()
        done = self.host.run(script(_LINK, self.folder, self.root, self._key), [names])
        return checked(done, self.host, "frames cannot be linked").decode().split()

    def _sent(self, count: int) -> None:
        self.sent_bytes += count

    # ------------------------------------------------------------------------------------------------------ the worker

    def start(self) -> None:
        self.job.exit.unlink(missing_ok=True)
        self._steadily(self._start_container if self.in_container else self._start_process)

    def _start_process(self) -> None:
        shown = (f"{name}={value}" for name, value in gpus.environment(self.settings.place.gpus).items())
        argv = ("env", *shown, *self.launch.process(self.folder))
        self._checked(script(_START, self.folder, *argv), "the worker cannot be started")

    def _start_container(self) -> None:
        """Docker's own names decide who wins when two start the same job."""
        state = self._state(self._answer(self._question()))
        if state.status == "running":
            return
        if state.status == "waiting" and self._docker("start", self.container).code == 0:
            return
        if state.status != "absent" and not self._remove_container():
            return
        self._checked(script('rm -f "$1/exit.json" "$1/cancelled"', self.folder), "the job cannot be begun anew")
        argv = self.launch.container(self.folder, self.root, self.user)
        done = self._docker(*argv[len(self.settings.place.docker) :])
        if done.code and "is already in use" not in done.said:
            self._docker("rm", "--force", self.container)  # docker run leaves one that it could not start
            raise HostError(
                f"{self.host.name}: the container cannot be started: {done.said}", hint=_docker_hint(done.said)
            )

    def _remove_container(self) -> bool:
        """Remove a container that ended; False when another controller has started it anew meanwhile."""
        done = self._docker("rm", self.container)
        if done.code == 0 or docker.is_absent(done.said) or "already in progress" in done.said:
            return True
        if "running container" in done.said or "container is running" in done.said:
            return False
        raise HostError(f"{self.host.name}: the container that ended cannot be removed: {done.said}")

    def _docker(self, *words: str) -> Done:
        """A docker command; LinkLost when its daemon is not there."""
        done = self.host.run((*self.settings.place.docker, *words))
        if done.code and docker.is_away(done.said):
            raise LinkLost(f"{self.host.name}: Docker does not answer: {done.said}")
        return done

    def look(self) -> State:
        return self._steadily(self._look)

    def _look(self) -> State:
        while True:
            question = self._question()
            if not self.remote:  # the worker writes into our own folder
                return self._state(self._answer(question))
            at = self.job.results.stat().st_size if self.job.results.exists() else 0
            asked = script(_LOOK, self.folder, str(at), str(self._events_at), str(LIMIT), *question)
            told = self._checked(asked, "the job cannot be looked at")
            state_line, _, rest = told.partition(b"\n")
            state = self._state(state_line.decode("utf-8", "replace"))
            if rest.startswith(b"gone"):
                return ABSENT
            more = self._take(rest, at)
            if more:
                continue
            if state.status == "ended":
                record = self._checked(script(_EXIT, self.folder), "exit.json cannot be read")
                if record:
                    self.job.exit.write_bytes(record)
                else:  # killed, or it could not write any more: what it said last, and whether the disk is full
                    self.fetch_logs()
                    self.locate()
                if not self.in_container:
                    end = self.job.exit_record()
                    state = ended(int(end["code"]) if end else None)
            return state

    def glance(self) -> Glance:
        question = self._question()
        state = self._state(self._answer(question))
        told = self._checked(script(_GLANCE, self.folder), "the job cannot be looked at").decode()
        answered, event, record = told.split("\n", 2)
        if state.status == "ended" and not self.in_container:
            state = ended(int(json.loads(record)["code"]) if record.strip() else None)
        return Glance(state, int(answered), json.loads(event)["phase"] if event else "")

    def _question(self) -> tuple[str, ...]:
        """The command whose answer `_state` understands."""
        if self.in_container:
            return docker.inspect_argv(self.settings.place, self.container)
        return script(_PROCESS, self.folder)

    def _answer(self, question: Sequence[str]) -> str:
        """What a command says, on whichever stream."""
        done = self.host.run(question)
        return (done.out.strip() or done.err).decode("utf-8", "replace")

    def _take(self, rest: bytes, at: int) -> bool:
        """Append what is new to our copies, whole lines only; whether there is more to fetch."""
        more = False
        for path, start in ((self.job.results, at), (self.job.events, self._events_at)):
            line, _, rest = rest.partition(b"\n")
            size = int(line)
            if size < start:
                raise HostError(
                    f"{self.host.name}: {self.folder}/{path.name} has {size} bytes, we have {start} of it already",
                    hint="somebody changed it: remove that folder there if nobody needs it, then resume",
                )
            count = min(max(size - start, 0), LIMIT)
            new, rest = rest[:count], rest[count + 1 :]
            whole = new[: new.rfind(b"\n") + 1]
            if whole:
                with open(path, "ab") as f:
                    f.write(whole)
            if path == self.job.events:
                self._events_at = start + len(whole)
            more = more or (size - start > LIMIT)
        return more

    def _state(self, said: str) -> State:
        said = said.strip()
        if not self.in_container:
            return RUNNING if said == "running" else ABSENT if said == "absent" else State("ended")
        if docker.is_absent(said):
            return ABSENT
        try:
            return docker.state_of(said)
        except (ValueError, IndexError):
            raise LinkLost(f"{self.host.name}: Docker does not answer: {said[-300:]}") from None

    def ask_to_stop(self) -> None:
        """The mark tells who follows the job that its end was wanted; dockerd too ends containers with SIGTERM."""
        self._checked(script('cd "$1" && : > cancelled', self.folder), "the job cannot be cancelled")
        if self.in_container:
            self._docker("kill", "--signal", "TERM", self.container)
        else:
            self.host.run(script(_STOP, self.folder))

    def was_cancelled(self) -> bool:
        return self._steadily(lambda: self.host.run(script('[ -e "$1/cancelled" ]', self.folder))).code == 0

    # ------------------------------------------------------------------------------------------------------ the end

    def finish(self) -> None:
        """Take the logs, remove the container, and the job's folder unless host.keep_job."""
        self.fetch_logs()
        if self.in_container:
            self._remove_container()
        if self.remote and not self.settings.place.keep_job:
            self._checked(script(REMOVE, self.folder, self.root), "the job's folder cannot be removed")

    def fetch(self, names: Collection[str]) -> None:
        """Bring files that the job made into our copy of its folder; on this machine they are there already."""
        if self.remote and names:
            self._steadily(lambda: transfer.fetch(self.host, self.folder, names, self.job.root))

    def fetch_logs(self) -> None:
        """What the worker and the engine printed, the last 2 MiB of each; on this machine the logs are here already."""
        if not self.remote:
            return
        for name, path in (("worker.log", self.job.log), ("server.log", self.job.engine_log)):
            said = self.host.run(script('tail -c 2097152 "$1" 2>/dev/null || true', f"{self.folder}/{name}")).out
            if said:
                path.write_bytes(said)

    def give_up_waiting(self) -> None:
        self.stopping = True

    def close(self) -> None:
        self.host.close()

    # ------------------------------------------------------------------------------------------------------ the link

    def _checked(self, argv: Sequence[str], what: str) -> bytes:
        return checked(self.host.run(argv), self.host, what)

    def _steadily(self, work: Callable[[], T]) -> T:
        """Do something that may be done twice, again and again while the link is lost, for host.patience_s."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

        def tell(state: object) -> None:
            error = state.outcome.exception()  # type: ignore[attr-defined]
            wait_s = state.next_action.sleep  # type: ignore[attr-defined]
            log.get().warning("link_lost", host=self.host.name, reason=str(error.message), again_in=f"{wait_s:.0f}s")

        lost = Retrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_exponential_jitter(initial=0.5, max=RETRY_MAX_S),
            stop=lambda state: self.stopping or stop_after_delay(self.settings.place.patience_s)(state),
            before_sleep=tell,
            reraise=True,
        )
        return lost(work)


def _docker_hint(said: str) -> str:
    hints = {
        "could not select device driver": "Docker has no NVIDIA runtime there: install it, or set host.gpus=none",
        "bind source path does not exist": "a folder to mount is not there: check model.checkpoint and image.mounts",
        "No space left": "the disk there is full: make room, then resume",
        "permission denied": "may this user use Docker there? host.docker=[sudo,docker] uses sudo",
    }
    return next((hint for sign, hint in hints.items() if sign in said), "the message is Docker's own")
