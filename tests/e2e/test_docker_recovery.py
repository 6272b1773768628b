"""Runs in containers whose container, daemon or controller is killed, and that several controllers share."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.harness.docked import Docked
from tests.harness.processes import children_of
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
    assert "is restarted" in end.err


def test_out_of_memory_is_named_and_restarted(docked: Docked) -> None:
    if docked.daemon.run("info", "--format", "{{.MemoryLimit}}") != "true":
        pytest.skip("memory cannot be limited here")
    run = RemoteRun(docked)
    process, name = docked.container_after(run)
    docked.daemon.run("update", "--memory", "64m", "--memory-swap", "64m", name)
    init = docked.daemon.inspect(name)["State"]["Pid"]
    [worker] = children_of(init)
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
