"""Docker's arguments and answers as pure functions; no Docker is needed."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise

import pytest

from src.hosts import docker
from src.hosts.docker import is_absent, is_away, run_argv, state_of
from src.hosts.job_folder import RUNNING, State
from src.hosts.launch import Launch
from src.worker.protocol import ENVIRONMENT_FILE_VARIABLE, KEY_FILE_VARIABLE
from tests.harness.fake_docker import AWAY
from tests.harness.fake_host import HOST, LAUNCH

DIGEST = "vllm/vllm-openai@sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
GPU_BOX = replace(
    LAUNCH,
    host=replace(HOST, gpus="all"),
    image=replace(LAUNCH.image, reference=DIGEST, shm_size="16g"),
    checkpoint="/models/pixtral 12b",
    grace_s=30.0,
)


def argv(launch: Launch) -> tuple[str, ...]:
    return run_argv(launch, "/data/jobs/0123456789abcdef", "/data", "1000:100")


def with_image(launch: Launch, **fields: object) -> Launch:
    return replace(launch, image=replace(launch.image, **fields))  # type: ignore[arg-type]


def after(arguments: tuple[str, ...], option: str) -> list[str]:
    """The values of an option, in order."""
    return [value for name, value in pairwise(arguments) if name == option]


def test_model_files_are_mounted_read_only() -> None:
    mounts = after(argv(replace(GPU_BOX, checkpoint="", files=("/models/a.gguf",))), "--mount")
    assert "type=bind,source=/models/a.gguf,target=/models/a.gguf,readonly" in mounts


def test_whole_models_are_mounted() -> None:
    """All parts of one that is split, and what the links of a hub's cache lead to."""
    hub = "/hub/models--org--name"
    files = ("/models/a-00002-of-00003.gguf", f"{hub}/snapshots/01ab/b.gguf", f"{hub}/snapshots/01ab/c.gguf")
    mounts = after(argv(replace(GPU_BOX, checkpoint=f"{hub}/snapshots/01ab", files=files)), "--mount")
    sources = [mount.split(",")[1].removeprefix("source=") for mount in mounts if mount.endswith(",readonly")]
    assert [s for s in sources if s.startswith("/hub")] == [hub]
    mounted = replace(
        GPU_BOX, checkpoint=f"{hub}/snapshots/01ab", image=replace(GPU_BOX.image, mounts=(f"{hub}:{hub}:ro",))
    )
    assert sum(f"target={hub}," in mount for mount in after(argv(mounted), "--mount")) == 1  # Docker refuses two
    assert [s for s in sources if s.startswith("/models")] == [f"/models/a-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


def test_gpu_machine_command_is_the_known_one() -> None:
    launch = replace(
        GPU_BOX,
        run_id="89abcdef01234567",
        host=replace(HOST, docker=("sudo", "docker"), gpus="device=0,2"),
        image=replace(
            GPU_BOX.image,
            python="/usr/bin/python3",
            mounts=("/data/more", "/venv:/opt/venv", "/scratch:/scratch:rw"),
            env=("HF_HUB_OFFLINE=1", "HTTPS_PROXY"),
        ),
    )
    assert run_argv(launch, "/data/up/jobs/0123456789abcdef", "/data/up", "1000:100") == (
        "sudo", "docker", "run", "--detach", "--init",
        "--name", "prompt-upsampler-0123456789abcdef-8e230465",
        "--label", "prompt-upsampler.job=0123456789abcdef",
        "--label", "prompt-upsampler.run=89abcdef01234567",
        "--label", "prompt-upsampler.root=/data/up",
        "--network", "none",
        "--user", "1000:100",
        "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges",
        "--read-only",
        "--tmpfs", "/tmp:rw,exec,nosuid,mode=1777",
        "--shm-size", "16g",
        "--pids-limit", "8192",
        "--log-opt", "max-size=20m",
        "--stop-timeout", "50",
        "--pull", "never",
        "--gpus", '"device=0,2"',
        "--mount", "type=bind,source=/data/up/jobs/0123456789abcdef,target=/data/up/jobs/0123456789abcdef",
        "--mount", "type=bind,source=/data/up/jobs/0123456789abcdef/frames,"
                   "target=/data/up/jobs/0123456789abcdef/frames,readonly",
        "--mount", "type=bind,source=/data/up/cache,target=/data/up/cache",
        "--mount", "type=bind,source=/models/pixtral 12b,target=/models/pixtral 12b,readonly",
        "--mount", "type=bind,source=/data/more,target=/data/more,readonly",
        "--mount", "type=bind,source=/venv,target=/opt/venv,readonly",
        "--mount", "type=bind,source=/scratch,target=/scratch",
        "--env", "USER=upsampler",
        "--env", "LOGNAME=upsampler",
        "--env", "HOME=/data/up/cache/home",
        "--env", "XDG_CACHE_HOME=/data/up/cache",
        "--env", "VLLM_CACHE_ROOT=/data/up/cache/vllm",
        "--env", "TRITON_CACHE_DIR=/data/up/cache/triton",
        "--env", "TORCHINDUCTOR_CACHE_DIR=/data/up/cache/inductor",
        "--env", "HF_HUB_OFFLINE=1",
        "--env", "HTTPS_PROXY",
        "--entrypoint", "",
        DIGEST,
        "/usr/bin/python3", "/data/up/jobs/0123456789abcdef/worker.pyz", "/data/up/jobs/0123456789abcdef",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [("all", ["all"]), ("2", ["2"]), ("device=1", ["device=1"]), ("device=0,2", ['"device=0,2"']), ("none", []), ("0", [])],
)  # fmt: skip
def test_gpus_are_spelled_for_docker(gpus: str, expected: list[str]) -> None:
    assert after(argv(replace(GPU_BOX, host=replace(HOST, gpus=gpus))), "--gpus") == expected


@pytest.mark.parametrize(
    ("needs_network", "chosen", "network"),
    [(False, "", "none"), (True, "", "host"), (True, "lan", "lan"), (False, "lan", "lan")],
)
def test_network_exists_only_where_needed(needs_network: bool, chosen: str, network: str) -> None:
    launch = replace(with_image(GPU_BOX, network=chosen), needs_network=needs_network)
    assert after(argv(launch), "--network") == [network]


def test_configured_user_precedes_the_host_user() -> None:
    assert after(argv(GPU_BOX), "--user") == ["1000:100"]
    assert after(argv(with_image(GPU_BOX, user="7:8")), "--user") == ["7:8"]


def test_repository_is_the_workspace() -> None:
    words = argv(with_image(GPU_BOX, repository="/src/cosmos, 1"))
    assert '"source=/src/cosmos, 1",target=/workspace,readonly' in after(words, "--mount")[-1]
    assert after(words, "--workdir") == ["/workspace"]
    assert "PYTHONPATH=/workspace" in after(words, "--env")
    assert after(argv(GPU_BOX), "--workdir") == []


def test_secrets_come_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very secret")
    launch = replace(with_image(GPU_BOX, env=("HF_TOKEN", "HTTPS_PROXY")), secret_env="MY_KEY", secret_file="~/key")
    assert launch.secrets == ("MY_KEY", "HF_TOKEN")
    made = run_argv(launch, "/data/jobs/0123456789abcdef", "/data", "1000:100", "/home/me/key")
    given = {entry.partition("=")[0]: entry.partition("=")[2] for entry in after(made, "--env")}
    assert not {"MY_KEY", "HF_TOKEN"} & given.keys() and "HTTPS_PROXY" in given
    sources = {given[ENVIRONMENT_FILE_VARIABLE]: "/data/secrets/", given[KEY_FILE_VARIABLE]: "/home/me/key"}
    mounts = after(made, "--mount")
    assert all(
        any(f"source={s}" in m and f"target={t}" in m and "readonly" in m for m in mounts) for t, s in sources.items()
    )
    assert "very secret" not in " ".join(made)


@pytest.mark.parametrize("path", ["/a,b", '/a"b', '/a","b', "/a b'c", "/$(id)", "/läuft 雨"])
def test_hostile_paths_survive_docker_parsing(path: str) -> None:
    job = f"{path}/jobs/0123456789abcdef"
    launch = replace(with_image(GPU_BOX, mounts=(f"{path}:/target{path}:rw",)), checkpoint="")
    mounts = after(run_argv(launch, job, path, "1000:100"), "--mount")
    fields = [row for mount in mounts for row in csv.reader([mount], strict=True)]  # as Docker parses them
    assert fields == [
        ["type=bind", f"source={job}", f"target={job}"],
        ["type=bind", f"source={job}/frames", f"target={job}/frames", "readonly"],
        ["type=bind", f"source={path}/cache", f"target={path}/cache"],
        ["type=bind", f"source={path}", f"target=/target{path}"],
    ]


@pytest.mark.parametrize(
    ("entry", "fields"),
    [
        ("/a", ["source=/a", "target=/a", "readonly"]),
        ("/a:ro", ["source=/a", "target=/a", "readonly"]),
        ("/a:rw", ["source=/a", "target=/a"]),
        ("/a:/b", ["source=/a", "target=/b", "readonly"]),
        ("/a:/b:ro", ["source=/a", "target=/b", "readonly"]),
        ("/a:/b:rw", ["source=/a", "target=/b"]),
    ],
)
def test_configured_mounts_are_read_only_by_default(entry: str, fields: list[str]) -> None:
    assert after(argv(with_image(GPU_BOX, mounts=(entry,))), "--mount")[-1].split(",") == ["type=bind", *fields]


@pytest.mark.parametrize("status", ["running", "paused", "restarting", "removing"])
def test_container_that_may_write_is_running(status: str) -> None:
    assert state_of(f"{status} 0 false\n") == RUNNING


def test_created_container_is_waiting() -> None:
    assert state_of("created 0 false") == State("waiting")
    assert state_of("created 127 false") == State("waiting")  # it could not be started


@pytest.mark.parametrize("status", ["exited", "dead"])
@pytest.mark.parametrize(("code", "ending"), [(0, "done"), (7, "load_failed"), (75, "locked"), (143, "cancelled")])
def test_exit_code_tells_the_ending(status: str, code: int, ending: str) -> None:
    state = state_of(f"{status} {code} false")
    assert (state.status, state.ending, state.exit_code) == ("ended", ending, code)


@pytest.mark.parametrize("code", [0, 1, 137])
def test_out_of_memory_precedes_the_exit_code(code: int) -> None:
    assert state_of(f"exited {code} true") == State("ended", "oom", code)


@pytest.mark.parametrize(("code", "ending"), [(143, "cancelled"), (124, "timeout")])
def test_deliberate_end_precedes_out_of_memory(code: int, ending: str) -> None:
    assert state_of(f"exited {code} true").ending == ending  # a child was killed for memory before


@pytest.mark.parametrize(
    "output", ["", "Cannot connect to the Docker daemon", "exited", "exited x false", "<no value>"]
)
def test_unreadable_state_is_an_error(output: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        state_of(output)


@pytest.mark.parametrize(
    ("message", "absent"),
    [
        ("Error: No such container: prompt-upsampler-0123456789abcdef", True),
        ("Error: No such object: prompt-upsampler-0123456789abcdef", True),
        ("Error response from daemon: No such container: prompt-upsampler-0123456789abcdef", True),
        ("error: no such object: x", True),
        (AWAY, False),
        ("permission denied while trying to connect to the Docker daemon socket", False),
        ("sh: 1: docker: not found", False),
        ("exited 0 false", False),
        ("", False),
    ],
)
def test_only_docker_itself_reports_absence(message: str, absent: bool) -> None:
    assert is_absent(message) is absent


@pytest.mark.parametrize(
    ("message", "away"),
    [(AWAY, True), ("error during connect: EOF", True), ("Error: No such container: x", False), ("", False)],
)
def test_unreachable_daemon_is_recognized(message: str, away: bool) -> None:
    assert is_away(message) is away


def test_other_commands_are_the_known_ones() -> None:
    host = replace(HOST, docker=("docker", "-H", "unix:///s.sock"))
    assert docker.inspect_argv(host, "prompt-upsampler-0123456789abcdef") == (
        "docker", "-H", "unix:///s.sock", "inspect", "--type", "container",
        "--format", docker.INSPECT_FORMAT, "prompt-upsampler-0123456789abcdef",
    )  # fmt: skip
    assert docker.list_argv(host, "/data up") == (
        "docker", "-H", "unix:///s.sock", "ps", "--all", "--no-trunc",
        "--filter", "label=prompt-upsampler.root=/data up",
        "--format", '{{.Label "prompt-upsampler.job"}}\t{{.Names}}\t{{.Status}}',
    )  # fmt: skip
    assert docker.pull_argv(host, GPU_BOX.image)[-2:] == ("pull", DIGEST)
