"""Runtimes: a worker as a process and as a container; what starts, what is left alone, which error each failure is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import HostError, LinkLost
from src.hosts import docker as docker_module
from src.hosts.job_folder import ABSENT, RUNNING, State
from src.hosts.launch import Launch
from src.hosts.mirror import Location, answer_of
from src.hosts.runtimes import DockerRuntime, ProcessRuntime
from tests.harness.fake_docker import AWAY, Container, FakeDocker
from tests.harness.fake_engine import wait_until
from tests.harness.fake_host import LAUNCH, FakeHost, Fault, prints

# A worker that holds the lock until SIGTERM, or for no time at all; a second one refuses.
HOLDS = """
trap 'echo "{\\"code\\": 143, \\"state\\": \\"cancelled\\"}" > "$1/exit.json"; exit 143' TERM
exec 9>>"$1/lock"
flock -w 1 9 || exit 75
echo $$ > "$1/lock"
echo "$CUDA_VISIBLE_DEVICES" > "$1/gpus"
while :; do sleep 0.01; done
"""
ENDS = """
exec 9>>"$1/lock"
flock 9
echo '{"code": 0, "state": "done"}' > "$1/exit.json"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "jobs of 'me'" / "0123456789abcdef"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def location(folder: Path, tmp_path: Path) -> Location:
    return Location(str(tmp_path), str(folder), "1000:100")


# ---------------------------------------------------------------------------------------------------------- process


@pytest.fixture
def process(host: FakeHost, location: Location, folder: Path) -> Iterator[ProcessRuntime]:
    yield ProcessRuntime(host, replace(LAUNCH, host=replace(LAUNCH.host, gpus="device=3,5")), location)
    for _ in range(3):  # a second one may be waiting for the lock
        if (text := (folder / "lock").read_text() if (folder / "lock").exists() else "").strip():
            with suppress(ProcessLookupError):
                os.kill(int(text), signal.SIGKILL)
            time.sleep(0.1)


def state_of(runtime: ProcessRuntime | DockerRuntime) -> State:
    return runtime.state(answer_of(runtime.host, runtime.question()))


def test_process_is_absent_before_its_start(process: ProcessRuntime) -> None:
    assert state_of(process) == ABSENT


def test_process_outlives_the_command_that_starts_it(process: ProcessRuntime, folder: Path) -> None:
    (folder / "worker.pyz").write_text(HOLDS)
    for stale in ("exit.json", "cancelled"):
        (folder / stale).touch()
    process.start()
    assert state_of(process) == RUNNING
    wait_until((folder / "gpus").exists)
    assert (folder / "gpus").read_text() == "3,5\n"
    assert not (folder / "exit.json").exists() and not (folder / "cancelled").exists()


def test_second_start_leaves_the_worker_alone(process: ProcessRuntime, folder: Path) -> None:
    (folder / "worker.pyz").write_text(HOLDS)
    process.start()
    wait_until(lambda: (folder / "lock").read_text().strip())
    first = (folder / "lock").read_text()
    process.start()
    assert state_of(process) == RUNNING
    assert (folder / "lock").read_text() == first


def test_process_stops_on_request(process: ProcessRuntime, folder: Path) -> None:
    (folder / "worker.pyz").write_text(HOLDS)
    process.start()
    wait_until(lambda: (folder / "lock").read_text().strip())
    process.ask_to_stop()
    wait_until(lambda: state_of(process) == State("ended"))
    assert json.loads((folder / "exit.json").read_text())["code"] == 143


def test_stop_without_a_worker_is_harmless(process: ProcessRuntime, folder: Path) -> None:
    process.ask_to_stop()
    bystander = subprocess.Popen(["sleep", "60"])
    (folder / "lock").write_text(str(bystander.pid))  # it is free, and the process with this id is another one
    process.ask_to_stop()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_ended_process_is_known_by_its_lock(process: ProcessRuntime, folder: Path) -> None:
    (folder / "worker.pyz").write_text(ENDS)
    process.start()
    wait_until(lambda: state_of(process) == State("ended"))


def test_start_returns_soon_after_an_early_death(process: ProcessRuntime, folder: Path) -> None:
    (folder / "worker.pyz").write_text("echo 'the disk is on fire' >&2; exit 1")
    started = time.monotonic()
    process.start()
    assert time.monotonic() - started < 5
    assert (folder / "worker.log").read_text() == "the disk is on fire\n"


def test_missing_folder_cannot_be_started_in(process: ProcessRuntime, folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(HostError, match="the worker cannot be started"):
        process.start()


# -------------------------------------------------------------------------------------------------------- container

IMAGE = "some/image:1"
DOCKED = replace(LAUNCH, image=replace(LAUNCH.image, reference=IMAGE))


@pytest.fixture
def daemon() -> FakeDocker:
    return FakeDocker(IMAGE)


@pytest.fixture
def box(daemon: FakeDocker) -> FakeHost:
    """A host with Docker."""
    return FakeHost(daemon)


@pytest.fixture
def container(box: FakeHost, location: Location) -> DockerRuntime:
    return DockerRuntime(box, DOCKED, location)


def test_container_runs_the_documented_command(container: DockerRuntime, daemon: FakeDocker, folder: Path) -> None:
    (folder / "exit.json").touch()
    (folder / "cancelled").touch()
    assert state_of(container) == ABSENT
    container.start()
    assert state_of(container) == RUNNING
    [(name, started)] = daemon.containers.items()
    place = container.location
    assert ("docker", *started.argv) == docker_module.run_argv(DOCKED, place.folder, place.root, place.user)
    assert name == docker_module.container_name(place.folder)
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("code", "oom_killed", "state"),
    [(0, False, State("ended", "done", 0)), (137, True, State("ended", "oom", 137)),
     (137, False, State("ended", "failed", 137)), (143, True, State("ended", "cancelled", 143))],
)  # fmt: skip
def test_container_state_comes_from_docker(
    container: DockerRuntime, daemon: FakeDocker, code: int, oom_killed: bool, state: State
) -> None:
    container.start()
    daemon.end(code, oom_killed=oom_killed)
    assert state_of(container) == state


def test_running_container_is_left_alone(container: DockerRuntime, box: FakeHost, daemon: FakeDocker) -> None:
    container.start()
    [first] = daemon.containers.values()
    container.start()
    assert list(daemon.containers.values()) == [first]
    assert box.count("run") == 1


def test_secret_variables_reach_a_container_in_a_file(
    host: FakeHost, location: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-planted")
    key = tmp_path / "key"
    key.touch()
    daemon = FakeDocker(IMAGE)
    seen: list[bytes] = []
    file = Path(docker_module.secrets_file(location.folder, location.root))
    daemon.on_start = lambda made: seen.append(file.read_bytes())
    launch = replace(DOCKED, secret_env="MY_KEY", secret_file=str(key))
    DockerRuntime(FakeHost(daemon), launch, location).start()
    [made] = daemon.containers.values()
    assert seen == [b"MY_KEY=sk-planted\0"] and not file.exists()
    assert "sk-planted" not in " ".join(made.argv) and any(f"source={key}" in word for word in made.argv)


def own(runtime: DockerRuntime, status: str, exit_code: int = 0) -> Container:
    """A container with the labels of this job."""
    job, root = runtime.location.folder.rsplit("/", 1)[-1], runtime.location.root
    return Container(status, exit_code, labels={"prompt-upsampler.job": job, "prompt-upsampler.root": root})


def test_foreign_container_is_never_followed(container: DockerRuntime, daemon: FakeDocker) -> None:
    daemon.containers[container.container] = Container("running")
    with pytest.raises(HostError, match="did not make"):
        state_of(container)
    with pytest.raises(HostError, match="did not make"):
        container.start()
    assert daemon.containers[container.container].status == "running"


def test_created_container_is_started(container: DockerRuntime, daemon: FakeDocker) -> None:
    daemon.containers[container.container] = made = own(container, "created")
    assert state_of(container) == State("waiting")
    container.start()
    assert daemon.containers[container.container] is made
    assert made.status == "running"


def test_unstartable_container_is_replaced(container: DockerRuntime, box: FakeHost, daemon: FakeDocker) -> None:
    daemon.containers[container.container] = broken = own(container, "created")
    daemon.run_error = "no-such-program: executable file not found"
    box.fail("rm", Fault(meanwhile=lambda: setattr(daemon, "run_error", "")))
    container.start()
    assert daemon.containers[container.container] is not broken
    assert state_of(container) == RUNNING


@pytest.mark.parametrize("code", [0, 1])
def test_ended_container_is_replaced(container: DockerRuntime, daemon: FakeDocker, code: int) -> None:
    daemon.containers[container.container] = own(container, "exited", code)
    container.start()
    assert state_of(container) == RUNNING


def test_lost_name_race_is_no_error(container: DockerRuntime, box: FakeHost, daemon: FakeDocker) -> None:
    def start_another() -> None:
        daemon.containers[container.container] = own(container, "running")

    box.fail("run", Fault(meanwhile=start_another))
    container.start()
    assert state_of(container) == RUNNING
    assert daemon.containers[container.container].argv == ()


@pytest.mark.parametrize("message", ["removal of container x is already in progress", "No such container: x"])
def test_container_removed_by_another_is_replaced(
    container: DockerRuntime, box: FakeHost, daemon: FakeDocker, message: str
) -> None:
    daemon.containers[container.container] = own(container, "exited", 1)

    def remove_it() -> None:
        daemon.containers.clear()

    fault = Fault(meanwhile=remove_it, done=prints("", 1, f"Error response from daemon: {message}".encode()).done)
    box.fail("rm", fault)
    container.start()
    assert state_of(container) == RUNNING


def test_container_restarted_by_another_is_kept(container: DockerRuntime, box: FakeHost, daemon: FakeDocker) -> None:
    daemon.containers[container.container] = restarted = own(container, "exited", 1)
    box.fail("rm", Fault(meanwhile=lambda: setattr(restarted, "status", "running")))
    container.start()
    assert daemon.containers == {container.container: restarted}


def test_unremovable_container_is_reported(container: DockerRuntime, box: FakeHost, daemon: FakeDocker) -> None:
    daemon.containers[container.container] = own(container, "exited", 1)
    box.fail("rm", prints("", 1, b"driver failed to remove root filesystem"))
    with pytest.raises(HostError, match="cannot be removed: driver failed"):
        container.start()


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "host.gpus=none"),
        ("invalid mount config: bind source path does not exist: /no/such/folder", "image.mounts"),
        ("failed to create: No space left on device", "free some space"),
        ("permission denied while trying to connect", "host.docker"),
        ("something else", "Docker's own"),
    ],
)
def test_unstartable_container_is_removed_and_explained(
    container: DockerRuntime, daemon: FakeDocker, error: str, hint: str
) -> None:
    daemon.run_error = error
    with pytest.raises(HostError) as raised:
        container.start()
    assert error in raised.value.message and hint in raised.value.hint
    assert daemon.containers == {}


Call = Callable[[DockerRuntime], object]


@pytest.mark.parametrize("call", [state_of, DockerRuntime.start, DockerRuntime.ask_to_stop, DockerRuntime.remove])
def test_absent_daemon_is_a_lost_link(container: DockerRuntime, daemon: FakeDocker, call: Call) -> None:
    container.start()
    daemon.is_up = False
    with pytest.raises(LinkLost, match="Docker does not answer"):
        call(container)


def test_daemon_lost_just_before_running_is_retried(
    container: DockerRuntime, box: FakeHost, daemon: FakeDocker
) -> None:
    box.fail("run", prints("", 1, AWAY.encode()))
    with pytest.raises(LinkLost):
        container.start()
    container.start()
    assert state_of(container) == RUNNING


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "dial unix docker.sock: connect: connection refused",
        "Cannot connect to Podman. Please verify your connection",
    ],
)
def test_silent_daemon_is_a_lost_link(container: DockerRuntime, answer: str) -> None:
    with pytest.raises(LinkLost, match="Docker does not answer"):
        container.state(answer)


@pytest.mark.parametrize("answer", ["what?", "exited", "exited x false"])
def test_unreadable_answer_is_not_retried(container: DockerRuntime, answer: str) -> None:
    with pytest.raises(HostError, match="cannot be read") as error:
        container.state(answer)
    assert not isinstance(error.value, LinkLost)


@pytest.mark.parametrize("around", ["sudo: unable to resolve host gpu\n", "Emulate Docker CLI using podman.\n"])
def test_words_of_a_wrapper_are_not_the_state(container: DockerRuntime, location: Location, around: str) -> None:
    inspected = f"running 0 false {Path(location.folder).name} {location.root}\n"
    assert container.state(around + inspected) == RUNNING
    assert container.state(inspected + around) == RUNNING
    assert container.state(f"{around}Error: no such container prompt-upsampler-1\n") == ABSENT


def test_container_is_asked_to_stop_by_signal(container: DockerRuntime, daemon: FakeDocker) -> None:
    container.ask_to_stop()  # there is none
    container.start()
    container.ask_to_stop()
    assert daemon.signals == [(container.container, "TERM")]


def test_removal_leaves_no_container(container: DockerRuntime, daemon: FakeDocker) -> None:
    container.start()
    daemon.end(0)
    container.remove()
    container.remove()
    assert daemon.containers == {}


# ------------------------------------------------------------------------------------------------------------ image


def test_present_image_is_not_pulled(container: DockerRuntime, box: FakeHost) -> None:
    container.check()
    assert box.count("pull") == 0


def with_pull(container: DockerRuntime, pull: bool) -> DockerRuntime:
    launch: Launch = replace(DOCKED, image=replace(DOCKED.image, pull=pull))
    return DockerRuntime(container.host, launch, container.location)


@pytest.mark.parametrize("pull", [False, True])
def test_missing_image_is_pulled_where_allowed(container: DockerRuntime, daemon: FakeDocker, pull: bool) -> None:
    daemon.images, daemon.pullable = set(), {IMAGE}
    if pull:
        with_pull(container, pull).check()
        assert daemon.images == {IMAGE}
    else:
        with pytest.raises(HostError, match=f"there is no image {IMAGE}") as error:
            with_pull(container, pull).check()
        assert "image.pull=true" in error.value.hint
        assert daemon.images == set()


def test_failed_pull_is_quoted(container: DockerRuntime, daemon: FakeDocker) -> None:
    daemon.images = set()
    with pytest.raises(HostError, match=r"cannot be pulled: .*manifest unknown"):
        with_pull(container, True).check()


def test_docker_that_cannot_be_used_is_final(container: DockerRuntime, daemon: FakeDocker) -> None:
    daemon.is_up = False
    with pytest.raises(HostError, match="Docker cannot be used: Cannot connect") as error:
        container.check()
    assert not isinstance(error.value, LinkLost)
    assert "is it installed and running" in error.value.hint


def test_missing_docker_command_is_named(location: Location) -> None:
    launch = replace(DOCKED, host=replace(DOCKED.host, docker=("no-such-docker",)))
    with pytest.raises(HostError, match="no-such-docker cannot be run"):
        DockerRuntime(FakeHost(), launch, location).check()


def test_process_needs_no_check(process: ProcessRuntime, host: FakeHost) -> None:
    process.check()
    process.remove()
    assert host.commands == []
