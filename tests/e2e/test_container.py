"""Runs in a container, from end to end: a dockerd of the tests' own, on this machine and behind a real sshd, and an
OpenAI-compatible server that is not real, or the real vLLM. Containers, daemon and controller are killed in turn."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.hosts import docker
from src.planning.plan_file import read_plan
from src.runs.staging import job_id
from tests.e2e.test_remote import Rig, Run, ended, take, wait_for
from tests.e2e.test_remote import planned as tokens_by_text
from tests.harness import dockerd as rig_dockerd
from tests.harness import sshd
from tests.harness.cosmos import Cosmos
from tests.harness.dockerd import Dockerd, Unavailable
from tests.harness.program import Ended, quoted

PYTHON = os.environ.get("VLLM_PYTHON", "")
MISSING = rig_dockerd.missing() or sshd.missing()
COUNT = 10
TAKES = 24  # prompts that there are; a run takes some of them

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(MISSING), reason=MISSING)]


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A dockerd with an image; made once, for it takes a minute."""
    try:
        made = Dockerd(tmp_path_factory.mktemp("dk"))
    except Unavailable as e:
        pytest.skip(str(e))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def counted(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, small: str, clips: Path) -> dict[str, int]:
    """Prompt tokens of each take, as a plan counts them."""
    folder = tmp_path_factory.mktemp("counted")
    (folder / "prompts.json").write_text(json.dumps([take(n, clips) for n in range(TAKES)]))
    given: dict[str, Path | str] = {
        "prompts": folder / "prompts.json",
        "cache_dir": cache_dir,
        "model.tokenizer": small,
    }
    return tokens_by_text(folder / "run", *(f"{name}={quoted(value)}" for name, value in given.items()))


class Docked(Rig):
    """The program, and a Docker: this machine's, or that of a machine reached by SSH (far)."""

    far = False

    def __init__(self, folder: Path, cache: Path, tokenizer: str, clips: Path, daemon: Dockerd) -> None:
        super().__init__(folder, cache, tokenizer, clips)
        self.daemon = daemon

    @property
    def docker(self) -> str:
        return f"host.docker=[{','.join(quoted(word) for word in self.daemon.command)}]"

    @property
    def host(self) -> tuple[str, ...]:
        place = super().host if self.far else ("host=local", f"host.root={quoted(self.root)}")
        image = ("image=vllm", f"image.reference={self.daemon.image}", "image.shm_size=64m")
        return (*place, self.docker, "host.gpus=none", *image)

    def close(self) -> None:
        if not self.daemon.is_up():
            self.daemon.restart()
        self.daemon.remove_all()
        super().close()


@pytest.fixture
def docked(
    tmp_path: Path, cache_dir: Path, small: str, clips: Path, daemon: Dockerd, counted: dict[str, int]
) -> Iterator[Docked]:
    made = Docked(tmp_path, cache_dir, small, clips, daemon)
    made.fake.expected = dict(counted)
    yield made
    made.close()


@pytest.fixture
def far(docked: Docked) -> Docked:
    """As `docked`, behind SSH."""
    docked.far = True
    return docked


def answered(run: Run, daemon: Dockerd, count: int = 5) -> tuple[subprocess.Popen[str], str]:
    """A run after some answers, while the server keeps the others waiting: its process, and its container's name."""
    run.rig.fake.allow(count)
    process = run.start()
    wait_for(lambda: len(run.journalled()) >= count)
    [name] = daemon.names()
    return process, name


def left(run: Run, daemon: Dockerd) -> tuple[Ended, str]:
    """A run after five answers and Ctrl-C: how it ended, and its container's name."""
    process, name = answered(run, daemon)
    process.send_signal(signal.SIGINT)
    return ended(process), name


def planned(run: Run) -> str:
    """Plan a run; the id that its job will have."""
    assert run.rig.program("task=plan", *run.overrides).code == 0
    plan = read_plan(run.folder / "plan.json")
    return job_id(plan.items, plan.settings)


def wrapped(docked: Docked, script: str) -> str:
    """The override of a docker command that does something before it is Docker: {docker} in the script."""
    real = shlex.join(docked.daemon.command)
    wrapper = docked.folder / "docker"
    wrapper.write_text(f'#!/bin/sh\n{script.replace("{docker}", real)}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return f"host.docker=[{quoted(wrapper)}]"


def assert_done(run: Run, end: Ended) -> None:
    """It ended well, with every item answered and written down once; what was in flight in a crash is asked again."""
    assert end.code == 0, end.err
    ids = [item["id"] for item in run.items]
    rows = json.loads((run.folder / "results.json").read_text())
    assert [row["id"] for row in rows] == ids
    assert {row["state"] for row in rows} == {"upsampled"}
    assert sorted(run.journalled()) == sorted(ids)


# ------------------------------------------------------------------------------------------------------- a plain run


def test_a_run_in_a_container_answers_every_item_and_leaves_no_container(docked: Docked) -> None:
    run = Run(docked)
    run.assert_whole(run.to_its_end())
    assert docked.daemon.names() == []
    files = [p for p in run.folder.rglob("*") if p.is_file()]
    assert any(p.name == "results.jsonl" for p in files)
    assert {p.stat().st_uid for p in files} == {os.getuid()}


def test_a_container_may_do_nothing_but_write_its_job_and_its_cache(docked: Docked) -> None:
    run = Run(docked, COUNT, 'image.user="0:54321"')
    _, name = answered(run, docked.daemon)
    found = docked.daemon.inspect(name)
    plan = read_plan(run.folder / "plan.json")
    [job] = (run.folder / "job").iterdir()
    host, config = found["HostConfig"], found["Config"]
    assert host["NetworkMode"] == "host"  # the engine is a server elsewhere
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Privileged"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["ReadonlyRootfs"]
    assert config["User"] == "0:54321"
    assert config["Labels"] == {
        "prompt-upsampler.job": job.name,
        "prompt-upsampler.run": plan.run_id,
        "prompt-upsampler.root": str(docked.root),
    }
    assert {m["Source"]: m["RW"] for m in found["Mounts"]} == {
        str(job): True, str(job / "frames"): False, str(docked.root / "cache"): True,
    }  # fmt: skip
    status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE) and re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_the_worker_needs_no_name_for_its_uid(docked: Docked) -> None:
    run = Run(docked, COUNT, 'image.user="54321:54321"')
    job = run.folder / "job" / planned(run)
    for folder in (job, docked.root / "cache" / "home"):
        folder.mkdir(parents=True)
        os.chown(folder, 54321, 54321)
    run.assert_whole(run.resumed())
    assert (job / "results.jsonl").stat().st_uid == 54321


# ------------------------------------------------------------------------------------------------------ who is killed


def test_a_container_that_is_killed_is_started_again(docked: Docked) -> None:
    run = Run(docked)
    process, name = answered(run, docked.daemon)
    docked.daemon.run("kill", "--signal", "KILL", name)
    docked.fake.allow()
    end = ended(process)
    run.assert_whole(end)
    assert "worker restarted" in end.err
    assert run.loads() == 2


def test_a_daemon_that_is_killed_and_started_again_costs_only_a_restart(docked: Docked) -> None:
    run = Run(docked)
    process, _ = answered(run, docked.daemon)
    docked.daemon.restart()  # it ends the containers of the one before
    docked.fake.allow()
    end = ended(process)
    assert_done(run, end)
    assert "worker restarted" in end.err


def test_a_daemon_that_is_ended_and_started_again_costs_only_a_restart(docked: Docked) -> None:
    run = Run(docked)
    process, _ = answered(run, docked.daemon)
    docked.daemon.end()  # as systemctl restart docker does: containers are asked to end
    docked.daemon.start()
    docked.fake.allow()
    assert_done(run, ended(process))


def test_a_daemon_that_is_away_is_waited_for(docked: Docked) -> None:
    run = Run(docked)
    process, _ = answered(run, docked.daemon)
    docked.daemon.kill()
    docked.fake.allow()
    wait_for(lambda: len(run.logged("link_lost")) >= 2)
    assert process.poll() is None
    docked.daemon.start("--live-restore")
    end = ended(process)
    run.assert_whole(end)
    assert run.loads() == 1
    assert "Traceback" not in end.err


def test_a_daemon_that_goes_away_just_before_the_start_is_waited_for(docked: Docked) -> None:
    was = docked.folder / "was asked"
    docker = wrapped(
        docked, f'[ "$1" = run ] && [ ! -e "{was}" ] && touch "{was}" && exec docker -H unix:///nowhere run x'
    )
    run = Run(docked, COUNT, docker)
    run.assert_whole(run.to_its_end())
    assert run.logged("link_lost")


def test_a_controller_that_is_killed_finds_its_container_again(docked: Docked) -> None:
    run = Run(docked)
    process, name = answered(run, docked.daemon)
    process.kill()
    process.wait()
    first = docked.daemon.inspect(name)["Id"]
    again = docked.start(f"resume={quoted(run.folder)}")
    wait_for(lambda: run.logged("job_found_running"))
    assert docked.daemon.names() == [name]
    assert docked.daemon.inspect(name)["Id"] == first
    docked.fake.allow()
    run.assert_whole(ended(again))
    assert run.loads() == 1
    assert docked.daemon.names() == []


def test_a_container_out_of_memory_is_named_as_such_and_started_again(docked: Docked) -> None:
    if docked.daemon.run("info", "--format", "{{.MemoryLimit}}") != "true":
        pytest.skip("memory cannot be limited here")
    run = Run(docked)
    process, name = answered(run, docked.daemon)
    docked.daemon.run("update", "--memory", "64m", "--memory-swap", "64m", name)
    init = docked.daemon.inspect(name)["State"]["Pid"]
    [worker] = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    Path(f"/proc/{worker}/oom_score_adj").write_text("1000")  # so that the kernel takes it, and not who uses memory up
    docked.daemon.attempt("exec", name, "python3", "-c", "b'x' * 2**28")
    docked.fake.allow()
    end = ended(process)
    run.assert_whole(end)
    assert "memory was used up" in end.err


# ------------------------------------------------------------------------------------------------- left and come back


def test_ctrl_c_leaves_the_container_and_cancel_ends_it(docked: Docked) -> None:
    run = Run(docked)
    end, name = left(run, docked.daemon)
    assert end.code == 130, end.err
    assert docked.daemon.running(name)
    status = run.task("status")
    assert re.search(r"^state +running$", status.out, re.MULTILINE), status.out
    cancelled = run.task("cancel")
    assert cancelled.code == 0, cancelled.err
    assert not docked.daemon.running(name)
    status = run.task("status")
    assert re.search(r"^state +ended: cancelled", status.out, re.MULTILINE), status.out
    docked.fake.allow()
    run.assert_whole(run.resumed())
    assert docked.daemon.names() == []


# ------------------------------------------------------------------------------------------------- what is not there


def assert_nothing_began(docked: Docked, run: Run) -> None:
    assert not list(run.folder.glob("job/*/batches/*"))
    assert docked.fake.asked == []


def test_an_image_that_is_not_there_is_4_before_anything_is_staged(docked: Docked) -> None:
    run = Run(docked, COUNT, "image.reference=no-such-image:v1")
    end = run.to_its_end()
    assert end.code == 4, end.err
    assert "no-such-image:v1" in end.err and "image.pull" in end.err
    assert_nothing_began(docked, run)
    assert docked.daemon.names() == []


def test_a_docker_that_does_not_run_is_4_at_once(docked: Docked) -> None:
    run = Run(docked, COUNT, 'host.docker=[docker,-H,"unix:///nowhere/docker.sock"]')
    started = time.monotonic()
    end = run.to_its_end()
    assert end.code == 4, end.err
    assert "Docker cannot be used" in end.err
    assert time.monotonic() - started < 30
    assert_nothing_began(docked, run)


def test_a_machine_without_docker_is_4_at_once(docked: Docked) -> None:
    run = Run(docked, COUNT, "host.docker=[no-such-docker]")
    end = run.to_its_end()
    assert end.code == 4, end.err
    assert "no-such-docker" in end.err
    assert_nothing_began(docked, run)


def test_a_folder_to_mount_that_is_not_there_is_4_and_leaves_no_container(docked: Docked) -> None:
    run = Run(docked, COUNT, "image.mounts=[/no/such/folder]")
    end = run.to_its_end()
    assert end.code == 4, end.err
    assert "/no/such/folder" in end.err and "image.mounts" in end.err
    assert docked.daemon.names() == []
    assert docked.fake.asked == []


# -------------------------------------------------------------------------------------------------- two at the same job


def test_two_runs_of_the_same_prompts_on_one_docker_both_end_well(docked: Docked) -> None:
    runs = [Run(docked, name="one"), Run(docked, name="two")]
    docked.fake.pause_s = 0.2
    processes = [run.start() for run in runs]
    for run, process in zip(runs, processes, strict=True):
        assert_done(run, ended(process))
    assert docked.daemon.names() == []


def test_two_controllers_of_one_job_share_its_container(far: Docked) -> None:
    runs = [Run(far, name="one"), Run(far, name="two")]
    far.fake.allow(5)
    processes = [run.start() for run in runs]
    wait_for(lambda: all(len(run.journalled()) == 5 for run in runs))
    assert len(far.daemon.names()) == 1
    far.fake.allow()
    for run, process in zip(runs, processes, strict=True):
        run.assert_whole(ended(process))
    assert far.daemon.names() == []


def test_an_ended_container_that_another_controller_removes_first_is_no_error(docked: Docked) -> None:
    docker = wrapped(docked, '[ "$1" = rm ] && {docker} rm -f "$2"')
    run = Run(docked, COUNT, docker)
    process, name = answered(run, docked.daemon)
    docked.daemon.run("kill", "--signal", "KILL", name)
    docked.fake.allow()
    run.assert_whole(ended(process))


def test_a_container_that_another_controller_is_just_removing_is_no_error(docked: Docked) -> None:
    said = "Error response from daemon: removal of container x is already in progress"
    docker = wrapped(docked, f'[ "$1" = rm ] && {{docker}} rm "$2" && echo "{said}" >&2 && exit 1')
    run = Run(docked, COUNT, docker)
    run.assert_whole(run.to_its_end())


def test_an_ended_container_that_another_controller_started_anew_is_followed(docked: Docked) -> None:
    docker = wrapped(docked, '[ "$1" = rm ] && [ ! -e "$0.once" ] && touch "$0.once" && {docker} start "$2"')
    run = Run(docked, COUNT, docker)
    process, name = answered(run, docked.daemon)
    docked.daemon.run("kill", "--signal", "KILL", name)
    docked.fake.allow()
    run.assert_whole(ended(process))


def test_cancelling_a_run_leaves_another_one_of_the_same_prompts_alone(docked: Docked) -> None:
    one, two = Run(docked, name="one"), Run(docked, name="two")
    process, _ = answered(one, docked.daemon)
    other = two.start()
    wait_for(lambda: two.logged("job_started") or two.logged("job_found_running"))
    other.send_signal(signal.SIGINT)
    assert ended(other).code == 130
    assert two.task("cancel").code == 0
    docked.fake.allow()
    one.assert_whole(ended(process))


# ------------------------------------------------------------------------------------------------- on another machine


def test_a_run_in_a_container_over_ssh_leaves_no_job_and_no_container(far: Docked) -> None:
    far.root = far.folder / "root of 'ours', \"quoted\""
    run = Run(far)
    process, name = answered(run, far.daemon)
    assert {m["Source"] for m in far.daemon.inspect(name)["Mounts"]} > {str(far.root / "cache")}
    far.fake.allow()
    run.assert_whole(ended(process))
    assert far.frames()
    assert list((far.root / "jobs").iterdir()) == []
    assert far.daemon.names() == []


def test_two_workers_are_two_containers_and_one_result(far: Docked) -> None:
    run = Run(far, 20, "host.workers=2")
    far.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) >= 5 and len(far.daemon.names()) == 2)
    labels = [far.daemon.inspect(name)["Config"]["Labels"] for name in far.daemon.names()]
    assert len({label["prompt-upsampler.run"] for label in labels}) == 1
    assert len({label["prompt-upsampler.job"] for label in labels}) == 2
    far.fake.allow()
    run.assert_whole(ended(process))
    assert far.daemon.names() == []


# ----------------------------------------------------------------------------------------- what others left there


def container_of(docked: Docked, job_id: str) -> str:
    return docker.container_name(f"{docked.root}/jobs/{job_id}")


def create(docked: Docked, name: str, *command: str, **labels: str) -> None:
    """A container that is made and not started."""
    words = [word for key, value in labels.items() for word in ("--label", f"prompt-upsampler.{key}={value}")]
    docked.daemon.run("create", "--name", name, "--network", "none", *words, docked.daemon.image, *command)


def test_a_container_that_was_made_and_not_started_is_taken_over(far: Docked) -> None:
    run = Run(far)
    create(far, container_of(far, planned(run)), "true")
    run.assert_whole(run.to_its_end())
    assert far.daemon.names() == []


def test_a_container_that_was_made_and_cannot_start_is_replaced(far: Docked) -> None:
    run = Run(far)
    create(far, container_of(far, planned(run)), "no-such-program")
    run.assert_whole(run.to_its_end())
    assert far.daemon.names() == []


@pytest.mark.parametrize("command", ["true", "false"])
def test_a_container_that_ended_is_replaced(far: Docked, command: str) -> None:
    run = Run(far)
    name = container_of(far, planned(run))
    create(far, name, command)
    far.daemon.run("start", "--attach", name) if command == "true" else far.daemon.run("start", name)
    wait_for(lambda: not far.daemon.running(name))
    run.assert_whole(run.to_its_end())
    assert far.daemon.names() == []


def test_clean_removes_our_ended_containers_and_no_others(docked: Docked) -> None:
    root, old, made = str(docked.root), "0123456789abcdef", "fedcba9876543210"
    _, running = left(Run(docked), docked.daemon)
    for job in (old, made):
        create(docked, container_of(docked, job), "true", job=job, root=root)
    docked.daemon.run("start", container_of(docked, old))
    create(docked, "somebody-elses", "true")
    create(docked, container_of(docked, "0" * 16), "true", job="0" * 16, root="/another/root")
    wait_for(lambda: not docked.daemon.running(container_of(docked, old)))
    end = docked.program("task=clean", *docked.host, "yes=true")
    assert end.code == 0, end.err
    assert docked.daemon.names() == sorted([running, "somebody-elses", container_of(docked, "0" * 16)])
    assert docked.daemon.running(running)


# ------------------------------------------------------------------------------------------------------ the real vLLM


@pytest.mark.vllm
@pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM (launchers/vllm_env.sh makes one)")
def test_the_real_vllm_in_a_container_without_network_behind_ssh(far: Docked) -> None:
    mounts = {Path(PYTHON).parent.parent, Path(os.path.realpath(PYTHON)).parent.parent}
    run = Run(far, 14)
    run.overrides = (
        f"prompts={quoted(far.folder / 'run.json')}", f"hydra.run.dir={quoted(run.folder)}", *far.host,
        f"cache_dir={quoted(far.folder / 'cache')}", "engine=vllm", "model=tiny_random", "image.shm_size=2g",
        f"image.python={quoted(PYTHON)}", f"image.mounts=[{','.join(quoted(folder) for folder in mounts)}]",
        "budget.max_output_tokens=32", "console.progress=lines",
    )  # fmt: skip
    process = run.start()
    wait_for(far.daemon.names)
    [name] = far.daemon.names()
    assert far.daemon.inspect(name)["HostConfig"]["NetworkMode"] == "none"
    out, err = process.communicate(timeout=600)
    assert_done(run, Ended(process.returncode, out, err))
    tokens = [row["tokens"] for row in json.loads((run.folder / "results.json").read_text())]
    assert len(tokens) == 14
    assert [t["predicted"] for t in tokens] == [t["measured"] for t in tokens]
    assert far.daemon.names() == []


# --------------------------------------------------------------------------------------------------------- inference


def test_inference_runs_in_a_container_behind_ssh_and_its_videos_come_here(far: Docked, tmp_path: Path) -> None:
    """NVIDIA's script and torchrun are stand-ins; container, runner and link are real."""
    cosmos = Cosmos(tmp_path / "cosmos", python="python3")
    prompts, run = tmp_path / "prompts.json", tmp_path / "run"
    prompts.write_text(json.dumps([take(n, far.clips) for n in range(3)]))
    fields = (
        f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(run)}", "pipeline.upsample=false", *far.given, *far.host,
        *cosmos.overrides, f"image.mounts=[{quoted(cosmos.folder)}]",
    )  # fmt: skip
    cosmos.hold.touch()
    process = far.start("task=pipeline", *fields)
    wait_for(lambda: any(far.daemon.running(name) for name in far.daemon.names()))
    [name] = far.daemon.names()
    found = far.daemon.inspect(name)
    assert found["HostConfig"]["NetworkMode"] == "none" and found["HostConfig"]["ReadonlyRootfs"]
    process.kill()
    process.wait()
    cosmos.hold.unlink()
    end = ended(far.start("task=pipeline", f"run={quoted(run)}"))
    assert end.code == 0, end.err
    rows = json.loads((run / "inference.json").read_text())
    assert [row["state"] for row in rows] == ["done"] * 3
    assert all((run / row["video"]).stat().st_size for row in rows)
    assert far.daemon.names() == [] and far.jobs() == []
