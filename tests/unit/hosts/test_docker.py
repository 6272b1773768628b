"""Docker's arguments and answers as pure functions; no Docker is needed."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from src.hosts import docker
from src.hosts.docker import environment, is_absent, run_argv, state_of
from src.hosts.job_folder import RUNNING, State, ended
from src.planning.resolve import resolve
from src.planning.settings import Settings
from tests.conftest import Configure

DIGEST = "vllm/vllm-openai@sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"


@pytest.fixture
def settings(tmp_path: Path, configure: Configure) -> Settings:
    """What a run with the real engine in a container on another machine has."""
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"name": "one", "prompt": "A boat."}]))
    config = configure("host=ssh", "host.address=gpu-box", "image=vllm", "engine=vllm", "model=tiny_random")
    config.prompts = str(prompts)
    return resolve(config).settings


def argv(settings: Settings) -> tuple[str, ...]:
    return run_argv(settings, "run-id", "/data/jobs/0123456789abcdef", "/data", "1000:100")


def with_image(settings: Settings, **fields: object) -> Settings:
    return replace(settings, image=replace(settings.image, **fields))  # type: ignore[arg-type]


def after(arguments: tuple[str, ...], option: str) -> list[str]:
    """The values of an option, in order."""
    return [value for name, value in pairwise(arguments) if name == option]


def test_the_whole_command_for_a_gpu_machine(settings: Settings) -> None:
    settings = replace(
        settings,
        host=replace(settings.host, docker=("sudo", "docker"), gpus="device=0,2"),
        model=replace(settings.model, checkpoint="/models/pixtral 12b"),
        image=replace(
            settings.image,
            reference=DIGEST,
            python="/usr/bin/python3",
            mounts=("/data/more", "/venv:/opt/venv", "/scratch:/scratch:rw"),
            env=("HF_HUB_OFFLINE=1", "HTTPS_PROXY"),
        ),
    )
    assert run_argv(settings, "89abcdef01234567", "/data/up/jobs/0123456789abcdef", "/data/up", "1000:100") == (
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
        "/usr/bin/python3", "/data/up/jobs/0123456789abcdef/worker.py", "/data/up/jobs/0123456789abcdef",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [("all", ["all"]), ("2", ["2"]), ("device=1", ["device=1"]), ("device=0,2", ['"device=0,2"']), ("none", []), ("0", [])],
)  # fmt: skip
def test_gpus_as_docker_wants_them(settings: Settings, gpus: str, wanted: list[str]) -> None:
    assert after(argv(replace(settings, host=replace(settings.host, gpus=gpus))), "--gpus") == wanted


@pytest.mark.parametrize(
    ("engine", "chosen", "network"),
    [("vllm", "", "none"), ("cosmos", "", "none"), ("endpoint", "", "host"), ("endpoint", "lan", "lan"), ("vllm", "lan", "lan")],
)  # fmt: skip
def test_only_an_engine_elsewhere_has_a_network_unless_one_is_chosen(
    settings: Settings, engine: str, chosen: str, network: str
) -> None:
    settings = replace(with_image(settings, network=chosen), engine=replace(settings.engine, name=engine))
    assert after(argv(settings), "--network") == [network]


def test_the_user_of_the_config_comes_before_that_of_the_host(settings: Settings) -> None:
    assert after(argv(settings), "--user") == ["1000:100"]
    assert after(argv(with_image(settings, user="7:8")), "--user") == ["7:8"]


def test_a_key_is_named_and_never_written_into_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very secret")
    settings = replace(settings, engine=replace(settings.engine, api_key_env="MY_KEY"))
    assert environment("/data/cache", settings)[-1] == ("MY_KEY", "")
    assert after(argv(settings), "--env")[-1] == "MY_KEY"
    assert "very secret" not in " ".join(argv(settings))


@pytest.mark.parametrize("path", ["/a,b", '/a"b', '/a","b', "/a b'c", "/$(id)", "/läuft 雨"])
def test_a_mount_of_any_name_is_read_back_by_docker_as_it_was_meant(settings: Settings, path: str) -> None:
    job = f"{path}/jobs/0123456789abcdef"
    settings = with_image(settings, mounts=(f"{path}:/target{path}:rw",))
    mounts = after(run_argv(settings, "run-id", job, path, "1000:100"), "--mount")
    fields = [row for mount in mounts for row in csv.reader([mount], strict=True)]  # as Docker reads them
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
def test_mounts_of_the_config_are_read_only_unless_they_say_otherwise(
    settings: Settings, entry: str, fields: list[str]
) -> None:
    assert after(argv(with_image(settings, mounts=(entry,))), "--mount")[-1].split(",") == ["type=bind", *fields]


@pytest.mark.parametrize("status", ["running", "paused", "restarting", "removing"])
def test_what_may_still_write_is_running(status: str) -> None:
    assert state_of(f"{status} 0 false\n") == RUNNING


def test_a_container_that_was_only_made_is_waiting() -> None:
    assert state_of("created 0 false") == State("waiting")
    assert state_of("created 127 false") == State("waiting")  # it could not be started


@pytest.mark.parametrize("status", ["exited", "dead"])
@pytest.mark.parametrize(
    ("code", "ending"),
    [
        (0, "done"), (7, "load_failed"), (75, "locked"), (124, "timeout"), (130, "cancelled"), (143, "cancelled"),
        (1, "failed"), (2, "failed"), (125, "failed"), (126, "failed"), (127, "failed"), (137, "failed"), (139, "failed"),
    ],
)  # fmt: skip
def test_an_exit_code_says_how_it_ended(status: str, code: int, ending: str) -> None:
    assert state_of(f"{status} {code} false") == State("ended", ending, code)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_killed_for_memory_is_said_whatever_the_code(code: int) -> None:
    assert state_of(f"exited {code} true") == State("ended", "oom", code)


@pytest.mark.parametrize(("code", "ending"), [(143, "cancelled"), (124, "timeout")])
def test_a_worker_that_says_why_it_ended_is_believed_even_if_a_child_was_killed_for_memory_before(
    code: int, ending: str
) -> None:
    assert state_of(f"exited {code} true").ending == ending


def test_an_end_that_nobody_saw_has_no_code() -> None:
    assert ended(None) == State("ended", "failed", None)
    assert ended(None, oom_killed=True) == State("ended", "oom", None)


@pytest.mark.parametrize("said", ["", "Cannot connect to the Docker daemon", "exited", "exited x false", "<no value>"])
def test_an_answer_that_is_no_state_is_an_error_and_no_end(said: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        state_of(said)


@pytest.mark.parametrize(
    ("said", "absent"),
    [
        ("Error: No such container: prompt-upsampler-0123456789abcdef", True),
        ("Error: No such object: prompt-upsampler-0123456789abcdef", True),
        ("Error response from daemon: No such container: prompt-upsampler-0123456789abcdef", True),
        ("error: no such object: x", True),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", False),
        ("permission denied while trying to connect to the Docker daemon socket", False),
        ("sh: 1: docker: not found", False),
        ("exited 0 false", False),
        ("", False),
    ],
)
def test_only_dockers_own_word_that_there_is_none_means_absent(said: str, absent: bool) -> None:
    assert is_absent(said) is absent


def test_questions_about_containers(settings: Settings) -> None:
    place = replace(settings.host, docker=("docker", "-H", "unix:///s.sock"))
    assert docker.inspect_argv(place, "prompt-upsampler-0123456789abcdef") == (
        "docker", "-H", "unix:///s.sock", "inspect", "--type", "container",
        "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}", "prompt-upsampler-0123456789abcdef",
    )  # fmt: skip
    assert docker.list_argv(place, "/data up") == (
        "docker", "-H", "unix:///s.sock", "ps", "--all", "--no-trunc",
        "--filter", "label=prompt-upsampler.root=/data up",
        "--format", '{{.Label "prompt-upsampler.job"}}\t{{.Names}}\t{{.Status}}',
    )  # fmt: skip
    assert docker.pull_argv(place, replace(settings.image, reference=DIGEST))[-2:] == ("pull", DIGEST)
