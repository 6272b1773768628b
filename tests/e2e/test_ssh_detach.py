"""Runs over SSH that detach with Ctrl-C, that two controllers share, and whose jobs are cleaned up."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.harness.processes import has_ended
from tests.harness.program import journal_lines, wait_for
from tests.harness.remote import Remote, RemoteRun, is_held

TWO = ("host.workers=2", 'host.gpus="device=3,5"')


def state_count(status: str, state: str) -> int:
    return len(re.findall(rf"^state +{state}", status, re.MULTILINE))


def test_detached_job_is_polled_and_canceled(remote: Remote) -> None:
    run = RemoteRun(remote)
    end = run.detached(2)
    assert end.code == 130, end.err
    assert f"resume={run.folder}" in end.err
    assert f"task=cancel run={run.folder}" in end.err
    [job] = remote.jobs()
    assert is_held(job)
    [events] = run.folder.glob("job/*/events.jsonl")
    for _ in range(2):
        status = run.task("status")
        assert status.code == 0, status.err
        assert state_count(status.out, "running$") == 1, status.out
        assert re.search(r"^answered +2 of 6$", status.out, re.MULTILINE), status.out
    times = [e["time"] for e in journal_lines(events) if e["event"] == "phase"]
    assert len(times) == len(set(times))  # a poll adds nothing to the local copy
    remote.allow(2)
    process = remote.start("task=attach", f"run={run.folder}")
    wait_for(lambda: len(run.ids()) == 4)
    process.interrupt()
    assert process.ended().code == 130
    canceled = run.task("cancel")
    assert canceled.code == 0, canceled.err
    assert remote.workers() == []
    assert state_count(run.task("status").out, "ended: cancelled") == 1
    assert run.loads() == 1
    remote.server.allow()
    run.assert_whole(run.resumed())


def test_second_ctrl_c_stops_the_worker(remote: Remote) -> None:
    run = RemoteRun(remote)
    process = run.after_answers(3)
    process.interrupt()
    wait_for(lambda: run.logged("detaching"))
    process.interrupt()
    end = process.ended()
    assert end.code == 130, end.err
    assert "Traceback" not in end.err
    [job] = remote.jobs()
    assert not is_held(job)
    assert json.loads((job / "exit.json").read_text())["state"] == "cancelled"
    remote.server.allow()
    run.assert_whole(run.resumed())


def test_two_workers_share_items_and_restart_alone(remote: Remote) -> None:
    run = RemoteRun(remote, 20, *TWO)
    process = run.after_answers(5)
    wait_for(lambda: len(remote.workers()) == 2)
    variables = [v for pid in remote.workers() for v in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")]
    visible = {v for v in variables if v.startswith(b"CUDA_VISIBLE_DEVICES=")}
    assert visible == {b"CUDA_VISIBLE_DEVICES=3", b"CUDA_VISIBLE_DEVICES=5"}
    wait_for(lambda: all(journal_lines(job / "events.jsonl") for job in remote.jobs()))  # both wrote that they load
    worker = remote.workers()[0]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: has_ended(worker))
    remote.server.allow()
    end = process.ended()
    run.assert_whole(end)
    assert run.loads() == 3
    shares = [len(journal_lines(file)) for file in run.folder.glob("job/*/results.jsonl")]
    assert sorted(shares) == [10, 10]  # prompts of one length
    assert "answers: 20 of 20" in end.err
    assert list((remote.root / "jobs").iterdir()) == []


def test_two_workers_detach_reattach_and_cancel_together(remote: Remote) -> None:
    run = RemoteRun(remote, 20, *TWO)
    process = run.after_answers(5)
    wait_for(lambda: sum(map(is_held, remote.jobs())) == 2)
    process.interrupt()
    assert process.ended().code == 130
    assert all(map(is_held, remote.jobs()))
    status = run.task("status")
    assert state_count(status.out, "running$") == 2, status.out
    assert re.search(r"^answered +5 of 20$", status.out, re.MULTILINE), status.out
    canceled = run.task("cancel")
    assert canceled.code == 0, canceled.err
    assert remote.workers() == []
    assert canceled.out.count("ended: cancelled") == 2
    remote.allow(5)
    process = remote.start(f"resume={run.folder}")
    wait_for(lambda: len(run.ids()) == 10)
    process.interrupt()
    assert process.ended().code == 130
    remote.server.allow()
    run.assert_whole(run.resumed())
    assert run.loads() == 4  # two, and two after the cancel


def test_two_controllers_share_one_worker(remote: Remote) -> None:
    stays = RemoteRun(remote, 12, name="stays")
    proxy = remote.proxied()
    away = RemoteRun(remote, 12, name="away")
    remote.server.allow(5)
    processes = [run.start() for run in (stays, away)]
    wait_for(lambda: all(len(run.ids()) == 5 for run in (stays, away)))
    assert len(remote.jobs()) == 1
    wait_for(lambda: len(remote.workers()) == 1)  # a second one sees that the job is taken, and ends
    proxy.freeze()
    remote.server.allow()
    stays.assert_whole(processes[0].ended())
    proxy.thaw()
    away.assert_whole(processes[1].ended(), asked_once=False)  # the other one took the answers with it


def test_clean_removes_only_ended_jobs(remote: Remote) -> None:
    done = RemoteRun(remote, 2, "host.keep_job=true", name="done", first=40, offline=True)
    assert done.to_its_end().code == 0
    [ended] = remote.jobs()
    RemoteRun(remote).detached()
    [running] = set(remote.jobs()) - {ended}
    names = ("mine", "my notes", "-rf", "0123456789ABCDEF", "0" * 17, "0123456789abcdef copy of it")
    foreign = [remote.root / "jobs" / name for name in names]
    for folder in foreign:
        folder.mkdir()
        (folder / "job.json").write_text("{}")
    end = remote.program("task=clean", *remote.host, "yes=true")
    assert end.code == 0, end.err
    assert remote.jobs() == [running] and is_held(running)
    assert all((folder / "job.json").exists() for folder in foreign)


def test_ctrl_c_does_not_wait_for_a_dead_link(remote: Remote) -> None:
    proxy = remote.proxied()
    run = RemoteRun(remote, 8, "host.link_timeout_s=30")
    process = run.start()
    wait_for(lambda: list(run.folder.glob("job/*/batches/*")))  # which are being sent
    proxy.freeze()
    process.interrupt()
    began = time.monotonic()
    assert process.ended().code == 130
    assert time.monotonic() - began < 25
    proxy.thaw()
    run.assert_whole(run.resumed(), asked_once=False)
