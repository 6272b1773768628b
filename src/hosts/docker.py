"""Docker as pure functions: from settings to argument tuples, from the output of `docker inspect` to the state of a job."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys

from ..planning import gpus
from ..planning.settings import HostSettings, ImageSettings
from ..worker.protocol import ENVIRONMENT_FILE_VARIABLE, KEY_FILE_VARIABLE
from .job_folder import RUNNING, State, ended
from .launch import Launch

LABEL = "prompt-upsampler"
SECRETS, KEY_FILE = "/run/secrets/prompt-upsampler-environment", "/run/secrets/prompt-upsampler-key"  # in the container
WORKSPACE = "/workspace"  # where image.repository is mounted, as NVIDIA's containers expect it
MOST_PARTS = 1000  # of a model that is split
STOP_PATIENCE_S = 20  # beyond the grace time of the worker, before Docker kills it
# Last the job and the root, which may hold blanks; a container that is not ours has no such labels.
INSPECT_FORMAT = (
    "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} "
    '{{index .Config.Labels "prompt-upsampler.job"}} {{index .Config.Labels "prompt-upsampler.root"}}'
)


_RUNNING = ("running", "paused", "restarting", "removing", "stopping")
_WAITING = ("created", "configured", "initialized")  # the last two: podman's
_STATE = re.compile(
    rf"\b({'|'.join((*_RUNNING, *_WAITING, 'exited', 'stopped', 'dead'))})\s+(-?\d+)\s+(true|false)\b(.*)"
)


def state_of(inspected: str) -> State:
    """The state from what `docker inspect --format INSPECT_FORMAT` printed, whatever a wrapper around it printed too.
    ValueError where there is none."""
    if not (found := _STATE.search(inspected)):
        raise ValueError("no state")
    if found[1] in _RUNNING:
        return RUNNING
    if found[1] in _WAITING:
        return State("waiting")
    return ended(int(found[2]), oom_killed=found[3] == "true")


def is_foreign(inspected: str, job: str, root: str) -> bool:
    """Whether the container that was inspected is not that of this job folder, though it has its name."""
    found = _STATE.search(inspected)
    return found is None or not f"{found[4].strip()} ".startswith(f"{_job_of(job)} {root} ")


def container_name(job: str) -> str:
    """The name of the container of a job folder on its host; it is the lock too: one folder, one container."""
    return f"{LABEL}-{_job_of(job)}-{hashlib.sha256(job.encode()).hexdigest()[:8]}"


def _job_of(folder: str) -> str:
    return folder.rstrip("/").rsplit("/", 1)[-1]


def _parts_of(file: str) -> list[str]:
    """A file, or all files of a model that is split (llama.cpp's gguf-split); each is found by the name of the first."""
    if found := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", file, re.DOTALL):
        return [f"{found[1]}-{n:05d}-of-{found[2]}.gguf" for n in range(1, min(int(found[2]), MOST_PARTS) + 1)]
    return [file]


def _whole(path: str) -> str:
    """A folder or file; in a hub's cache the folder of its repository, for a snapshot there is links to files beside it."""
    found = re.match(r"(.*/(?:models|datasets)--[^/]+)/snapshots/[^/]+(?:/|$)", path, re.DOTALL)
    return found[1] if found else path


def secrets_file(job: str, root: str) -> str:
    """Where a container's secret variables are on the host, until it is started."""
    return f"{root}/secrets/{container_name(job)}"


def run_argv(launch: Launch, job: str, root: str, user: str, key_file: str = "") -> tuple[str, ...]:
    """The `docker run` that starts the worker of a job, detached.

    job: the job folder on the host, root: the folder of all jobs there, user: "uid:gid" that owns both. Folders are
    mounted at their own paths, so that job.json means the same inside and outside. key_file: launch.secret_file there.
    """
    host, image = launch.host, launch.image
    cache = f"{root}/cache"
    mounts = [_mount(job), _mount(f"{job}/frames", read_only=True), _mount(cache)]
    files = [part for file in (launch.checkpoint, *launch.files) if file for part in _parts_of(file)]
    own = {_parts_of_mount(mount)[1] for mount in image.mounts}
    mounts += [_mount(file, read_only=True) for file in dict.fromkeys(map(_whole, files)) if file not in own]
    if image.repository:
        mounts.append(_mount(image.repository, WORKSPACE, read_only=True))
    if launch.secrets:
        mounts.append(_mount(secrets_file(job, root), SECRETS, read_only=True))
    if key_file:
        mounts.append(_mount(key_file, KEY_FILE, read_only=True))
    return (
        *host.docker, "run", "--detach", "--init",
        "--name", container_name(job),
        "--label", f"{LABEL}.job={_job_of(job)}",
        "--label", f"{LABEL}.run={launch.run_id}",
        "--label", f"{LABEL}.root={root}",
        "--network", image.network or ("host" if launch.needs_network else "none"),
        "--user", image.user or user,
        "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges",
        "--read-only",
        "--tmpfs", "/tmp:rw,exec,nosuid,mode=1777",  # exec: compiled kernels are loaded from there
        "--shm-size", image.shm_size,
        "--pids-limit", "8192",
        "--log-opt", "max-size=20m",
        "--stop-timeout", str(round(launch.grace_s) + STOP_PATIENCE_S),
        "--pull", "never",  # pulled before, when that is allowed
        *_gpus(host),
        *[word for mount in mounts for word in ("--mount", mount)],
        *[word for mount in image.mounts for word in ("--mount", _own_mount(mount))],
        *[word for name, value in environment(cache, launch) for word in ("--env", f"{name}={value}" if value else name)],
        *(("--workdir", WORKSPACE) if image.repository else ()),
        "--entrypoint", "",  # images of inference servers start their server by themselves
        image.reference,
        *launch.command(job),
    )  # fmt: skip


def environment(cache: str, launch: Launch) -> list[tuple[str, str]]:
    """What the worker's container needs: a uid without a passwd entry has no name and no home (torch looks up both), and
    compiled kernels are kept between runs. An empty value: taken from the host's own environment."""
    made = [
        ("USER", "upsampler"),
        ("LOGNAME", "upsampler"),
        ("HOME", f"{cache}/home"),
        ("XDG_CACHE_HOME", cache),
        ("VLLM_CACHE_ROOT", f"{cache}/vllm"),
        ("TRITON_CACHE_DIR", f"{cache}/triton"),
        ("TORCHINDUCTOR_CACHE_DIR", f"{cache}/inductor"),
    ]
    if launch.image.repository:
        made.append(("PYTHONPATH", WORKSPACE))
    if launch.secrets:
        made.append((ENVIRONMENT_FILE_VARIABLE, SECRETS))
    if launch.secret_file:
        made.append((KEY_FILE_VARIABLE, KEY_FILE))
    own = [(name, value) for name, _, value in (entry.partition("=") for entry in launch.image.env)]
    return made + [(name, value) for name, value in own if value or name not in launch.secrets]


def pull_argv(host: HostSettings, image: ImageSettings) -> tuple[str, ...]:
    return (*host.docker, "pull", image.reference)


def inspect_argv(host: HostSettings, name: str) -> tuple[str, ...]:
    return (*host.docker, "inspect", "--type", "container", "--format", INSPECT_FORMAT, name)


def list_argv(host: HostSettings, root: str) -> tuple[str, ...]:
    """Containers of jobs below a root, running or not: one per line, job, name, status."""
    return (
        *host.docker, "ps", "--all", "--no-trunc", "--filter", f"label={LABEL}.root={root}",
        "--format", '{{.Label "' + LABEL + '.job"}}\t{{.Names}}\t{{.Status}}',
    )  # fmt: skip


def is_absent(output: str) -> bool:
    """Whether `docker inspect` failed because there is no such container, and for no other reason."""
    return _says(output, "no such container", "no such object", "no container with name")


def is_away(output: str) -> bool:
    """Whether the docker command could not reach its daemon, so that nothing is known of any container."""
    return _says(
        output,
        *("cannot connect to the docker daemon", "error during connect", "connection refused", "connection reset"),
        *("i/o timeout", "deadline exceeded", "cannot connect to podman", "unable to connect to podman"),
    )


def lacks_image(output: str) -> bool:
    """Whether there is no such image, in the words of Docker or podman."""
    return _says(output, "no such image", "image not known", "no such object")


def is_taken(output: str) -> bool:
    """Whether another container has the name: another controller was faster."""
    return _says(output, "is already in use")


def is_busy(output: str) -> bool:
    """Whether a container cannot be removed since it runs."""
    return _says(output, "running container", "container is running", "as it is running")


def _says(output: str, *signs: str) -> bool:
    return any(sign in output.lower() for sign in signs)


def _gpus(host: HostSettings) -> tuple[str, ...]:
    """`all`, a count, a list of devices as in `device=0,2`, or nothing."""
    if gpus.devices(host.gpus) == ():
        return ()
    return ("--gpus", f'"{host.gpus}"' if "," in host.gpus else host.gpus)


def _mount(path: str, target: str = "", *, read_only: bool = False) -> str:
    """A bind mount, at the same path where no target is given; `--mount` fails on a missing source, where `-v` would make it
    as root."""
    fields = ("type=bind", f"source={path}", f"target={target or path}")
    return ",".join(_field(f) for f in fields) + (",readonly" if read_only else "")


def _own_mount(entry: str) -> str:
    """PATH or SOURCE:TARGET, read-only unless it ends with :rw."""
    source, target, mode = _parts_of_mount(entry)
    return _mount(source, target, read_only=mode != "rw")


def _parts_of_mount(entry: str) -> tuple[str, str, str]:
    """Source, target and mode of an own mount."""
    parts = entry.split(":")
    mode = parts.pop() if parts[-1] in ("rw", "ro") else ""
    return parts[0], parts[-1], mode


def _field(text: str) -> str:
    """A field of Docker's comma-separated mount, in quotes where it holds what would split it."""
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"') else text


def main(job: str, root: str, image: str, checkpoint: str, gpu_names: str) -> None:
    """Print the `docker run` for a staged job folder, for launchers/run_job.sh; standard library only."""
    host = HostSettings(
        name="local", kind="local", address="", user="", port=0, key_file="", password_env="", known_hosts="", root=root,
        docker=("docker",), gpus=gpu_names, patience_s=0.0, keep_job=True,
    )  # fmt: skip
    settings = ImageSettings(
        name="by hand", reference=image, python="python3", pull=False, network="", shm_size="16g", user="", mounts=(),
        env=(),
    )  # fmt: skip
    launch = Launch(host, settings, python="python3", checkpoint=checkpoint, grace_s=30.0, run_id="by-hand")
    print(shlex.join(run_argv(launch, job, root, f"{os.getuid()}:{os.getgid()}")))


if __name__ == "__main__":
    main(*sys.argv[1:])
