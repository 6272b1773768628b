"""A run is never a black box: how it stands at any moment, where it is found, and who hears of its end."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.program import (
    ROOT,
    Ended,
    Program,
    journal_ids,
    quoted,
    results_of,
    start,
    wait_for,
    write_prompts,
)  # fmt: skip
from tests.harness.remote import Remote, RemoteRun
from tests.harness.scripted_server import ScriptedServer

SLOW = ("engine.item_delay_s=0.5", "engine.in_flight=1", "hints.video=false")
ITEMS = 12


class Desk:
    """A working folder of its own, so that outputs/ is too."""

    def __init__(self, folder: Path, clips: Path, common: tuple[str, ...]) -> None:
        self.folder, self.common = folder, common
        folder.mkdir()
        self.prompts = write_prompts(folder / "my prompts.json", clips / "wide.mp4", ITEMS)

    def start(self, *overrides: str) -> Program:
        return start(*overrides, cwd=self.folder, project=ROOT)

    def call(self, *overrides: str) -> Ended:
        end = self.start(*overrides).ended()
        assert "Traceback" not in end.err, end.err
        return end

    def run(self, *overrides: str) -> Program:
        return self.start(f"prompts={quoted(self.prompts)}", *self.common, *overrides)

    def json(self, *overrides: str) -> Any:
        """What is on standard output, all of it, as JSON."""
        return json.loads(self.call(*overrides, "console.format=json").out)

    def folders(self) -> list[Path]:
        """Whatever outputs/ has, hidden folders aside."""
        found = (self.folder / "outputs").glob("[!.]*/*")
        return sorted(path for path in found)

    def pids(self) -> list[int]:
        """The workers of its runs."""
        return [int(text) for lock in self.folder.glob("outputs/*/*/job/*/lock") if (text := lock.read_text())]

    def close(self) -> None:
        for pid in self.pids():
            if Path(f"/proc/{pid}/cmdline").exists() and b"worker.pyz" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def desk(tmp_path: Path, clips: Path, common: tuple[str, ...]) -> Iterator[Desk]:
    desk = Desk(tmp_path / "desk", clips, common)
    yield desk
    desk.close()


def status_line(end: Ended) -> str:
    [line] = re.findall(r"^status +(.*)$", end.out, re.MULTILINE)
    return str(line)


def command_in(text: str, label: str) -> list[str]:
    """The overrides of the command that a line of output has."""
    [line] = re.findall(rf"^{label} +python -m src\.run (.*)$", text, re.MULTILINE)
    return shlex.split(line)


def test_killed_run_is_reported_and_resumed(desk: Desk) -> None:
    process = desk.run(*SLOW, "name=boats")
    wait_for(lambda: desk.folders() and len(journal_ids(desk.folders()[0])) >= 2)
    [folder], [worker] = desk.folders(), desk.pids()
    os.kill(worker, signal.SIGSTOP)
    running = desk.call("task=status", "run=boats")
    assert running.code == 0 and status_line(running).startswith("running, "), running.out
    process.kill()
    report = desk.call("task=report", "run=latest")  # its worker outlives it
    assert report.code == 0 and report.out.startswith("running, "), report.out
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: desk.json("task=status", "run=latest")["state"] == "interrupted")
    status = desk.call("task=status", "run=latest")
    assert status.code == 130
    done = int(re.fullmatch(rf"interrupted, (\d+) of {ITEMS}", status_line(status))[1])  # type: ignore[index]
    assert 2 <= done < ITEMS
    assert desk.call("task=report", "run=boats").code == 0
    states = [row["state"] for row in results_of(folder)]
    assert (states.count("upsampled"), len(states)) == (done, ITEMS)
    assert {row["reason"] for row in results_of(folder) if row["state"] == "kept"} == {"not answered yet (interrupted)"}
    page = (folder / "report.html").read_text()
    assert "<h1>my prompts.json · boats</h1>" in page and f"{done} of {ITEMS} items ended" in page
    assert desk.call(*command_in(status.out, "resume")).code == 0
    complete = desk.call("task=status", "run=boats")
    assert (complete.code, status_line(complete)) == (0, f"complete, {ITEMS} of {ITEMS}")
    assert {row["state"] for row in results_of(folder)} == {"upsampled"}


def test_plan_ends_with_its_own_command(desk: Desk) -> None:
    prompts = json.loads(desk.prompts.read_text())
    prompts[1]["video_path"] = "gone.mp4"
    desk.prompts.write_text(json.dumps(prompts))
    plan = desk.run("task=plan", "upsample=best_fit", "name=careful").ended()
    assert plan.code == 3 and plan.out.startswith("1 of 12 items cannot be upsampled"), plan.out
    assert "there is no such file" in plan.out.splitlines()[1]
    [folder] = desk.folders()
    assert next(csv.DictReader((folder / "plan.csv").open(encoding="utf-8-sig")))["name"] == "take 1"
    status = desk.call("task=status", "run=careful")
    assert (status.code, status_line(status)) == (2, "planned, 0 of 12")
    assert desk.call(*command_in(plan.out.splitlines()[-1], "run it")).code == 3
    assert desk.folders() == [folder] and "task=plan" not in (folder / "command.txt").read_text()
    finished = desk.call("task=status", "run=careful")
    assert (finished.code, status_line(finished)) == (3, "complete, 12 of 12: 1 kept original")


def test_refused_commands_leave_nothing(desk: Desk) -> None:
    for wrong in (
                  ["prompts=nowhere.json"], ["task=plan", "prompts=nowhere.json"], ["+nosuch=1"], ["name=latest"],
                  ["notify.url=nonsense"], ["console.format=json"], ["run=latest"], ["resume=latest"],
                  ["task=compare", "runs=[latest,latest]"], ["task=pipeline", "detach=true"],
                  ["prompts=nowhere.json", "hydra.run.dir=outputs/my/own"], ["--multirun", "prompts=nowhere.json,gone.json"],
                  ["--multirun", "task=plan", "console.format=json"],
                 ):  # fmt: skip
        end = desk.call(*wrong)
        assert end.code == 2, (wrong, end.err)
    assert desk.folders() == []
    assert desk.json("task=runs") == []


def test_json_is_all_of_the_output(desk: Desk) -> None:
    assert desk.run("name=first").ended().code == 0
    plan = json.loads(desk.run("task=plan", "console.format=json").ended().out)
    assert (plan["items"], plan["fit"], plan["problems"]) == (ITEMS, ITEMS, [])
    newest, oldest = desk.json("task=runs")
    assert (newest["state"], oldest["state"], oldest["name"]) == ("planned", "complete", "first")
    assert (oldest["done"], oldest["total"], oldest["prompts"]) == (ITEMS, ITEMS, "my prompts.json")
    status = desk.json("task=status", "run=first")
    assert (status["state"], status["exit_code"], status["resume"]) == ("complete", 0, None)
    doctor = desk.json("task=doctor", "probe=true", f"prompts={quoted(desk.prompts)}", *desk.common)
    assert doctor["exit_code"] == 0 and doctor["probe"]["ok"] and all(check["ok"] for check in doctor["checks"])
    table = desk.call("task=runs").out
    assert re.search(r"complete +12 of 12 .*my prompts\.json · first", table), table


def test_detached_run_ends_without_controller(desk: Desk) -> None:
    submitted = desk.run(*SLOW, "detach=true").ended()
    [worker] = desk.pids()
    os.kill(worker, signal.SIGSTOP)
    assert submitted.code == 0, submitted.err
    assert desk.json("task=runs")[0]["state"] == "running"
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: desk.json("task=status", "run=latest")["state"] == "answered")
    status = desk.call("task=status", "run=latest")
    assert (status.code, status_line(status)) == (130, "answered, 12 of 12")
    end = desk.call(*command_in(submitted.out, "collect"))
    assert end.code == 0 and "12 upsampled" in end.out
    assert desk.json("task=runs")[0]["state"] == "complete"


@pytest.mark.parametrize("place", ["remote", "docked"])
def test_job_is_submitted_to_a_host(place: str, request: pytest.FixtureRequest) -> None:
    remote: Remote = request.getfixturevalue(place)
    run = RemoteRun(remote, 6, "detach=true")
    remote.allow(2)
    end = run.to_its_end()
    assert end.code == 0, end.err
    assert "submitted     6 items, on " in end.out
    status = run.task("status")
    assert status.code == 0 and status_line(status).startswith("running, "), status.out
    remote.server.allow()
    wait_for(lambda: status_line(run.task("status")) == "answered, 6 of 6")
    assert run.task("status").code == 130
    run.assert_whole(run.resumed())
    assert run.loads() == 1


def test_end_and_failure_are_posted(desk: Desk) -> None:
    server = ScriptedServer()
    server.script = [(503, {}, b"")]
    hook = f"notify.url={server.url}"
    try:
        assert desk.run(hook, "name=first").ended().code == 0
        [lost, message] = server.asked
        assert lost == message and message["text"] == "my prompts.json · first: complete, 12 of 12"
        assert (message["state"], message["exit_code"], message["states"]) == ("complete", 0, {"upsampled": ITEMS})
        broken = desk.run(hook, "engine=vllm", "model=tiny_random", "worker.python=/nowhere/python").ended()
        assert broken.code == server.asked[-1]["exit_code"] == 4
        assert server.asked[-1]["state"] == "failed" and "/nowhere/python" in server.asked[-1]["error"]
        assert "/nowhere/python" in desk.call("task=status", "run=latest").out
        sweep = desk.start(
            "--multirun", hook, f"prompts={quoted(desk.prompts)}", *desk.common, "upsample=safe_320,max_320"
        ).ended()
        assert sweep.code == 0, sweep.err
        assert [point["state"] for point in server.asked[-1]["points"]] == ["complete, 12 of 12"] * 2
        assert len(server.asked) == 4
    finally:
        server.close()
    end = desk.run(hook).ended()  # nothing listens there any more
    assert end.code == 0 and "No message could be posted to 127.0.0.1" in end.err


def test_rejected_text_is_no_failure(desk: Desk) -> None:
    assert desk.run("name=first").ended().code == 0
    assert desk.call("task=review", "run=first", "review.reject=[take 3]").code == 0
    assert desk.call("resume=first").code == 0
    assert desk.call("task=upsample", "resume=first", "retry=failed").code == 0
    assert desk.call("task=status", "run=first").code == 0
