"""Runs in containers whose container, daemon or controller is killed, and that several controllers share."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.harness.docked import Docked
from tests.harness.program import wait_for
from tests.harness.remote import RemoteRun


def test_daemon_restarts_cost_only_worker_restarts(docked: Docked) -> None:
    """The daemon goes away and leaves the container alone; is killed with it; is stopped as systemd does."""
    run = RemoteRun(docked, 9)
    process, name = docked.container_after(run)
    docked.daemon.kill()
    docked.allow(2)
    wait_for(lambda: len(run.logged("link_lost")) >= 2)
    assert process.poll() is None
    docked.daemon.start("--live-restore")
    wait_for(lambda: len(run.ids()) == 4)
    assert run.loads() == 1 and docked.daemon.names() == [name]
    docked.daemon.restart()  # it ends the containers of the one before
    docked.allow(2)
    wait_for(lambda: len(run.ids()) >= 6)
    assert run.loads() == 2
    docked.daemon.end()
    docked.daemon.start()
    docked.server.allow()
    end = process.ended()
    run.assert_whole(end, asked_once=False)  # requests that were waiting in a crash are sent again
    assert "worker restarted" in end.err


def test_daemon_away_before_start_is_retried(docked: Docked) -> None:
    asked = docked.folder / "was asked"
    script = f'[ "$1" = run ] && [ ! -e "{asked}" ] && touch "{asked}" && exec docker -H unix:///nowhere run x'
    run = RemoteRun(docked, 2, docked.wrapped(script))
    run.assert_whole(run.to_its_end())
    assert run.logged("link_lost")


def test_killed_controller_finds_its_container(docked: Docked) -> None:
    run = RemoteRun(docked)
    process, name = docked.container_after(run)
    process.kill()
    first = docked.daemon.inspect(name)["Id"]
    again = docked.start(f"resume={run.folder}")
    wait_for(lambda: run.logged("job_found_running"))
    assert docked.daemon.names() == [name]
    assert docked.daemon.inspect(name)["Id"] == first
    docked.server.allow()
    run.assert_whole(again.ended())
    assert run.loads() == 1
    assert docked.daemon.names() == []


def test_out_of_memory_is_named_and_restarted(docked: Docked) -> None:
    if docked.daemon.run("info", "--format", "{{.MemoryLimit}}") != "true":
        pytest.skip("memory cannot be limited here")
    run = RemoteRun(docked)
    process, name = docked.container_after(run)
    docked.daemon.run("update", "--memory", "64m", "--memory-swap", "64m", name)
    init = docked.daemon.inspect(name)["State"]["Pid"]
    [worker] = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    Path(f"/proc/{worker}/oom_score_adj").write_text("1000")  # so that the kernel takes it, and not who uses memory up
    docked.daemon.attempt("exec", name, "python3", "-c", "b'x' * 2**28")
    docked.server.allow()
    end = process.ended()
    run.assert_whole(end)
    assert "memory was used up" in end.err


def test_container_detaches_and_is_canceled(docked: Docked) -> None:
    run = RemoteRun(docked)
    process, name = docked.container_after(run)
    process.interrupt()
    end = process.ended()
    assert end.code == 130, end.err
    assert docked.daemon.running(name)
    status = run.task("status")
    assert re.search(r"^state +running$", status.out, re.MULTILINE), status.out
    canceled = run.task("cancel")
    assert canceled.code == 0, canceled.err
    assert not docked.daemon.running(name)
    status = run.task("status")
    assert re.search(r"^state +ended: cancelled", status.out, re.MULTILINE), status.out
    docked.server.allow()
    run.assert_whole(run.resumed())
    assert docked.daemon.names() == []


# ------------------------------------------------------------------------------------------------ several controllers


def test_two_controllers_share_one_container(far: Docked) -> None:
    runs = [RemoteRun(far, name="one"), RemoteRun(far, name="two")]
    far.server.allow(2)
    processes = [run.start() for run in runs]
    wait_for(lambda: all(len(run.ids()) == 2 for run in runs))
    assert len(far.daemon.names()) == 1
    far.server.allow()
    for run, process in zip(runs, processes, strict=True):
        run.assert_whole(process.ended())
    assert far.daemon.names() == []


def test_killed_container_restarts_beside_other_controllers(docked: Docked) -> None:
    """Whenever this controller removes the container, another one is faster: it starts it again, removes it, is removing it."""
    error = "Error response from daemon: removal of container x is already in progress"
    script = f"""if [ "$1" = rm ]; then
      echo >> "$0.calls"
      case $(wc -l < "$0.calls") in
        1) {{docker}} start "$2" ;;
        2) {{docker}} rm -f "$2" ;;
        *) {{docker}} rm "$2" && echo "{error}" >&2 && exit 1 ;;
      esac
    fi"""
    run = RemoteRun(docked, 6, docked.wrapped(script))
    process, name = docked.container_after(run)
    docked.daemon.run("kill", "--signal", "KILL", name)
    docked.allow(2)
    wait_for(lambda: len(run.ids()) == 4)
    docked.daemon.run("kill", "--signal", "KILL", name)
    docked.server.allow()
    end = process.ended()
    run.assert_whole(end)
    assert "worker restarted" in end.err
    assert run.loads() == 3
    assert len((docked.folder / "docker.calls").read_text().splitlines()) >= 3
    assert docked.daemon.names() == []


def test_cancel_leaves_another_run_alone(docked: Docked) -> None:
    one, two = RemoteRun(docked, name="one"), RemoteRun(docked, name="two")
    process, _ = docked.container_after(one)
    other = two.start()
    wait_for(lambda: two.logged("job_started") or two.logged("job_found_running"))
    other.interrupt()
    assert other.ended().code == 130
    assert two.task("cancel").code == 0
    docked.server.allow()
    one.assert_whole(process.ended(), asked_once=False)
    two.assert_whole(two.resumed(), asked_once=False)
    assert Counter(one.ids()) == Counter(two.ids())  # the same prompts
    assert docked.daemon.names() == []
