"""Runs on another machine, from end to end: a real sshd on the loopback, the program in a process of its own, and an
OpenAI-compatible server that is not real. Links break, machines fill up, and each part is killed in turn."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.errors import LinkLost
from src.hosts.ssh import SshHost
from src.planning.plan_file import read_plan
from src.planning.settings import HostSettings, digest
from src.runs.staging import job_id
from src.worker.journal import read_records
from tests.conftest import Configure
from tests.harness import sshd
from tests.harness.openai_server import FakeOpenAI
from tests.harness.program import Ended, quoted
from tests.harness.proxy import Proxy
from tests.harness.sshd import Sshd

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(bool(sshd.missing()), reason=sshd.missing())]

ROOT = Path(__file__).resolve().parents[2]
CLIPS = ("wide", "other", "hd", "portrait", "square")
TAKES = 80  # prompts that there are; a run takes some of them
QUIET = ("hints.video=false", "output.report=false", "console.progress=lines")


def wait_for(what: Callable[[], object], seconds: float = 60.0, step_s: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(step_s)


def take(number: int, clips: Path) -> dict[str, str]:
    clip = clips / f"{CLIPS[number % len(CLIPS)]}.mp4"
    return {"name": f"take {number}", "prompt": f"A boat, take {number}.", "video_path": str(clip)}


class Rig:
    """A machine reached by SSH, a server of answers, and the program that uses both."""

    def __init__(self, folder: Path, cache: Path, tokenizer: str, clips: Path) -> None:
        self.folder, self.clips, self.root = folder, clips, folder / "root"
        self.given = [f"cache_dir={quoted(cache)}", f"model.tokenizer={quoted(tokenizer)}", *QUIET]
        self.home = folder / "home"  # nobody's ssh configuration, keys or known hosts
        self.home.mkdir()
        self.desk = folder / "desk"  # where the program is started
        self.desk.mkdir()
        self.known_hosts = folder / "known_hosts"
        self.fake, self.sshd = FakeOpenAI(), Sshd(folder / "sshd")
        self.port = self.sshd.port
        self.trust(self.port)
        self.proxies: list[Proxy] = []
        self.processes: list[subprocess.Popen[str]] = []

    def trust(self, port: int) -> None:
        line = self.sshd.known_hosts_line.replace(f":{self.sshd.port} ", f":{port} ")
        self.known_hosts.write_text((self.known_hosts.read_text() if self.known_hosts.exists() else "") + line)

    def line_of(self, delay_s: float = 0.0) -> Proxy:
        """A line between the program and the machine, which the test can make worse."""
        proxy = Proxy(self.sshd.port, delay_s)
        self.proxies.append(proxy)
        self.port = proxy.port
        self.trust(proxy.port)
        return proxy

    @property
    def host(self) -> tuple[str, ...]:
        fields = {
            "address": "127.0.0.1", "user": "root", "port": self.port, "key_file": self.sshd.key,
            "known_hosts": self.known_hosts, "root": self.root,
        }  # fmt: skip
        return ("host=ssh", *(f"host.{name}={quoted(str(value))}" for name, value in fields.items()))

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if k != "SSH_AUTH_SOCK"}
        environment |= {"HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "src.run", *overrides], cwd=self.desk, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in the background it is ignored
        )  # fmt: skip
        self.processes.append(process)
        return process

    def program(self, *overrides: str) -> Ended:
        return ended(self.start(*overrides))

    def jobs(self) -> list[Path]:
        """The job folders on the machine."""
        return [p for p in (self.root / "jobs").glob("*") if re.fullmatch("[0-9a-f]{16}", p.name)]

    def frames(self) -> dict[str, tuple[int, int]]:
        """The frames that the machine keeps, with what changes when one is written again."""
        found = ((p.name, p.stat()) for p in (self.root / "frames").glob("*.png"))
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}

    def answered(self) -> list[str]:
        """Ids that the workers on the machine have written down."""
        return [r["id"] for job in self.jobs() for r in read_records(job / "results.jsonl")]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        for proxy in self.proxies:
            proxy.close()
        self.sshd.kill()
        self.fake.close()

    def workers(self) -> list[int]:
        """Every worker process below the machine's root."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue  # it ended while we looked
            if any(w.startswith(os.fsencode(self.root)) and w.endswith(b"/worker.py") for w in words[:2]):
                found.append(int(entry.parent.name))
        return found


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie without a thread left: only then are its sockets closed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "ZX" and int(fields[17]) <= 1


class Run:
    """A run of some of the takes: its folder here, and what came of it."""

    def __init__(self, rig: Rig, count: int = 10, *overrides: str, first: int = 0, name: str = "run") -> None:
        self.rig, self.folder = rig, rig.folder / name
        prompts = rig.folder / f"{name}.json"
        prompts.write_text(json.dumps([take(n, rig.clips) for n in range(first, first + count)]))
        self.overrides = (
            f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(self.folder)}",
            "engine=endpoint", f"engine.base_url={rig.fake.url}", "engine.in_flight=3", "engine.grace_s=1",
            *rig.given, *rig.host, *overrides,
        )  # fmt: skip

    def start(self) -> subprocess.Popen[str]:
        return self.rig.start(*self.overrides)

    def to_its_end(self) -> Ended:
        return ended(self.start())

    def resumed(self) -> Ended:
        return self.rig.program(f"resume={quoted(self.folder)}")

    def task(self, name: str) -> Ended:
        return self.rig.program(f"task={name}", f"run={quoted(self.folder)}")

    @property
    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads((self.folder / "plan.json").read_text())["items"]
        return items

    def journalled(self) -> list[str]:
        return [r["id"] for r in read_records(self.folder / "journal.jsonl")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in read_records(self.folder / "log.jsonl") if line["event"] == event]

    def loads(self) -> int:
        """How many workers began, as far as we have heard."""
        events = [e for file in self.folder.glob("job/*/events.jsonl") for e in read_records(file)]
        return len({e["time"] for e in events if e["event"] == "phase" and e["phase"] == "loading"})

    def assert_whole(self, end: Ended, *, asked_once: bool = True) -> None:
        """It ended well: every item answered, each once in the journal, and each asked once."""
        assert end.code == 0, end.err
        ids = [item["id"] for item in self.items]
        rows = json.loads((self.folder / "results.json").read_text())
        assert [row["id"] for row in rows] == ids
        assert {row["state"] for row in rows} == {"upsampled"}
        assert Counter(self.journalled()) == Counter(ids)
        copies = [r["id"] for file in self.folder.glob("job/*/results.jsonl") for r in read_records(file)]
        assert Counter(copies) == Counter(ids)
        asked = self.rig.fake.times_asked()
        assert not asked_once or all(asked[item["text"]] == 1 for item in self.items), asked


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out, err)


def is_held(job: Path) -> bool:
    """Whether a worker lives in a job folder."""
    try:
        with open(job / "lock") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, small: str, clips: Path) -> dict[str, int]:
    """Prompt tokens of each take, as a plan counts them."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "prompts.json").write_text(json.dumps([take(n, clips) for n in range(TAKES)]))
    return planned(
        folder / "run", f"prompts={quoted(folder / 'prompts.json')}", f"cache_dir={quoted(cache_dir)}",
        f"model.tokenizer={quoted(small)}",
    )  # fmt: skip


def planned(run: Path, *overrides: str) -> dict[str, int]:
    """Prompt tokens by text, from a plan made in a folder of its own."""
    command = [sys.executable, "-m", "src.run", "task=plan", f"hydra.run.dir={quoted(run)}", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return {item["text"]: item["tokens"]["prompt"] for item in json.loads((run / "plan.json").read_text())["items"]}


@pytest.fixture
def rig(tmp_path: Path, cache_dir: Path, small: str, clips: Path, expected: dict[str, int]) -> Iterator[Rig]:
    made = Rig(tmp_path, cache_dir, small, clips)
    made.fake.expected = dict(expected)
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------------- a plain run


def test_a_run_over_ssh_answers_every_item_and_leaves_only_frames_behind(rig: Rig) -> None:
    run = Run(rig)
    run.assert_whole(run.to_its_end())
    assert list((rig.root / "jobs").iterdir()) == []
    assert len(rig.frames()) == len(
        {f["sha256"] for r in read_records(run.folder / "journal.jsonl") for f in r["frames"]}
    )
    assert rig.workers() == []
    [start] = json.loads((run.folder / "timings.json").read_text())["starts"]
    sent = sum(file.stat().st_size for file in run.folder.glob("job/*/frames/*"))
    phases = start["phases"]
    assert list(phases) == [
        "worker starts", "hints", "sending", "loading", "first answer", "answers", "fetching",
    ]  # fmt: skip
    assert phases["sending"]["amount"] >= sent > 0  # the stream has headers
    assert phases["answers"]["amount"] == 10
    assert all(0 <= p["begin_s"] <= p["end_s"] <= start["seconds"] for p in phases.values())


def test_another_run_over_the_same_clips_sends_no_frame_again(rig: Rig) -> None:
    Run(rig, name="first").to_its_end()
    frames = rig.frames()
    second = Run(rig, first=10, name="second")
    second.assert_whole(second.to_its_end())
    assert frames and rig.frames() == frames


# -------------------------------------------------------------------------------------------------------- who is that


def test_an_unknown_machine_gets_nothing_until_its_key_is_trusted(rig: Rig) -> None:
    rig.known_hosts.unlink()
    run = Run(rig)
    end = run.to_its_end()
    shown = subprocess.run(["ssh-keygen", "-lf", rig.sshd.host_key], capture_output=True, text=True, check=True).stdout
    assert end.code == 5, end.err
    assert shown.split()[1].startswith("SHA256:") and shown.split()[1] in end.err
    assert "task=trust host=ssh" in end.err
    assert not rig.root.exists()
    trusted = rig.program("task=trust", *rig.host, "yes=true")
    assert trusted.code == 0 and shown.split()[1] in trusted.out, trusted.err
    run.assert_whole(run.resumed())


def test_without_a_terminal_and_without_yes_no_key_is_trusted(rig: Rig) -> None:
    rig.known_hosts.unlink()
    assert rig.program("task=trust", *rig.host).code == 2
    assert not rig.known_hosts.exists()


def test_a_changed_key_is_refused_and_cannot_be_trusted_away(rig: Rig) -> None:
    known = rig.known_hosts.read_text()
    rig.sshd.kill()
    Sshd.new_key(rig.sshd.host_key)
    rig.sshd.start()
    for end in (Run(rig).to_its_end(), rig.program("task=trust", *rig.host, "yes=true")):
        assert end.code == 5, end.err
        assert "CHANGED" in end.err
    assert rig.known_hosts.read_text() == known
    assert not rig.root.exists()


# ------------------------------------------------------------------------------------------------- it does not let us in


def test_a_key_that_is_not_authorized_is_5_at_once(rig: Rig) -> None:
    stranger = rig.folder / "stranger"
    Sshd.new_key(stranger)
    started = time.monotonic()
    end = Run(rig, 10, f"host.key_file={quoted(stranger)}").to_its_end()
    assert end.code == 5, end.err
    assert "does not let us in" in end.err
    assert time.monotonic() - started < 30
    log = (rig.sshd.folder / "sshd.log").read_text()
    assert log.count("authenticating user") == 1, log  # it did not come back


@pytest.mark.parametrize("content", [None, "no key at all\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_key_file_that_holds_no_key_is_5_and_names_the_file(rig: Rig, content: str | None) -> None:
    file = rig.folder / "key of mine"
    if content is not None:
        file.write_text(content)
    end = Run(rig, 10, f"host.key_file={quoted(file)}").to_its_end()
    assert end.code == 5, end.err
    assert "Traceback" not in end.err


def test_a_name_that_nobody_knows_is_4(rig: Rig) -> None:
    started = time.monotonic()
    end = Run(rig, 10, "host.address=no-such-host.invalid").to_its_end()
    assert end.code == 4, end.err
    assert "no-such-host.invalid" in end.err
    assert time.monotonic() - started < 30


def test_a_machine_where_nobody_listens_is_said_at_once(rig: Rig) -> None:
    rig.sshd.kill()
    started = time.monotonic()
    end = Run(rig).to_its_end()
    assert end.code in (4, 6), end.err
    assert "cannot be reached" in end.err
    assert time.monotonic() - started < 30


# ---------------------------------------------------------------------------------------------------- the link breaks


def away(rig: Rig, line: Proxy, seconds: float = 2.0) -> None:
    """The machine goes from the net, with every session and every word on its way, and comes back."""
    rig.sshd.kill()
    line.cut()
    time.sleep(seconds)
    rig.sshd.start()


def test_a_link_that_breaks_while_files_are_sent_is_taken_up_again(rig: Rig) -> None:
    line = rig.line_of(delay_s=0.1)  # so that sending takes long enough to be hit
    run = Run(rig)
    process = run.start()
    wait_for(lambda: any(rig.root.glob("**/.incoming-*")), step_s=0.002)
    away(rig, line)
    run.assert_whole(ended(process))
    assert run.logged("link_lost")
    assert not list(rig.root.glob("**/.incoming-*"))


def test_a_link_that_breaks_while_the_job_folder_is_made_is_taken_up_again(rig: Rig) -> None:
    line = rig.line_of(delay_s=0.2)  # the folder is made, and the word of it is still on its way
    run = Run(rig)
    process = run.start()
    wait_for(rig.jobs, step_s=0.002)
    away(rig, line)
    run.assert_whole(ended(process))


def test_a_link_that_breaks_is_told_in_our_words_only(rig: Rig) -> None:
    rig.line_of()
    run = Run(rig, 20)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5)
    rig.sshd.kill()
    wait_for(lambda: len(run.logged("link_lost")) > 1)
    rig.sshd.start()
    rig.fake.allow()
    end = ended(process)
    run.assert_whole(end)
    assert "Traceback" not in end.err


def test_a_link_that_breaks_while_the_worker_answers_costs_it_nothing(rig: Rig) -> None:
    run = Run(rig, 20)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5)
    rig.sshd.kill()
    rig.fake.allow()
    wait_for(lambda: len(rig.answered()) == 20)  # nobody watches
    wait_for(lambda: run.logged("link_lost"))
    rig.sshd.start()
    end = ended(process)
    run.assert_whole(end)
    assert "link lost" in end.err
    assert run.loads() == 1


def test_a_line_that_goes_dead_is_noticed_and_the_run_goes_on_when_it_is_back(rig: Rig) -> None:
    line = rig.line_of()
    run = Run(rig, 20)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5)
    wait_for(lambda: line.idle_s > 0.2)  # between two looks
    line.freeze()
    wait_for(lambda: run.logged("link_lost"), seconds=20)
    rig.fake.allow()
    line.thaw()
    wait_for(lambda: len(run.journalled()) == 20, seconds=30)
    run.assert_whole(ended(process))


def test_a_line_that_goes_dead_while_a_command_runs_is_noticed(rig: Rig, configure: Configure) -> None:
    line = rig.line_of()
    from src.planning.configure import host_settings

    settings: HostSettings = host_settings(configure(*rig.host))
    said: list[BaseException] = []

    def work() -> None:
        try:
            SshHost(settings).run(("sh", "-c", 'touch "$1"; sleep 60', "sh", str(rig.folder / "began")))
        except BaseException as e:
            said.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wait_for((rig.folder / "began").exists)
    line.freeze()
    thread.join(20)
    assert [type(e) for e in said] == [LinkLost]


# ------------------------------------------------------------------------------------------------------ who is killed


MOMENTS: dict[str, Callable[[Rig, Run], object]] = {
    "before staging": lambda rig, run: (run.folder / "plan.json").exists(),
    "while staging": lambda rig, run: rig.jobs(),
    "while running": lambda rig, run: len(rig.answered()) >= 5,
    "after the last answer": lambda rig, run: len(rig.fake.asked) == 20,
}


@pytest.mark.parametrize(("moment", "seed"), [(m, s) for m in MOMENTS for s in (1, 2)])
def test_a_controller_that_is_killed_takes_the_job_up_again(rig: Rig, moment: str, seed: int) -> None:
    run = Run(rig, 20, "budget.max_batch_size=5")
    process = run.start()
    wait_for(lambda: MOMENTS[moment](rig, run), step_s=0.002)
    time.sleep(random.Random(f"{moment} {seed}").uniform(0, 0.6))
    process.kill()
    run.assert_whole(run.resumed())
    assert run.loads() == 1
    assert rig.workers() == []


def test_a_controller_that_is_killed_while_it_tidies_up_leaves_nothing_behind(rig: Rig) -> None:
    rig.line_of(delay_s=0.1)  # so that tidying up takes long enough to be hit
    run = Run(rig)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 10)
    process.kill()
    run.assert_whole(run.resumed())
    assert not rig.jobs() and not rig.workers()


def test_a_worker_that_is_killed_is_started_again_and_asks_nothing_twice(rig: Rig) -> None:
    run = Run(rig, 20)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(rig.answered()) == 5)
    [worker] = rig.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: has_ended(worker))
    rig.fake.allow()
    end = ended(process)
    run.assert_whole(end)
    assert run.loads() == 2
    assert "worker restarted" in end.err


# ------------------------------------------------------------------------------------------------- left and come back


def left(rig: Rig, run: Run) -> Ended:
    """A run after five answers and Ctrl-C, while the server of answers keeps the others waiting."""
    rig.fake.allow(len(rig.fake.asked) + 5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5)
    process.send_signal(signal.SIGINT)
    return ended(process)


def test_ctrl_c_leaves_a_job_that_goes_on_and_attach_brings_it_home(rig: Rig) -> None:
    run = Run(rig, 20)
    end = left(rig, run)
    assert end.code == 130, end.err
    assert f"task=attach run={run.folder}" in end.err
    assert f"task=cancel run={run.folder}" in end.err
    [job] = rig.jobs()
    assert is_held(job)
    status = run.task("status")
    assert status.code == 0, status.err
    assert re.search(r"^state +running$", status.out, re.MULTILINE), status.out
    assert re.search(r"^answered +5 of 20$", status.out, re.MULTILINE), status.out
    rig.fake.allow()
    run.assert_whole(run.task("attach"))
    assert run.loads() == 1


def test_a_second_ctrl_c_stops_the_worker(rig: Rig) -> None:
    run = Run(rig, 20)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: run.logged("leaving"))
    process.send_signal(signal.SIGINT)
    end = ended(process)
    assert end.code == 130, end.err
    assert "Traceback" not in end.err
    [job] = rig.jobs()
    assert not is_held(job)
    assert json.loads((job / "exit.json").read_text())["state"] == "cancelled"
    rig.fake.allow()
    run.assert_whole(run.resumed())


def test_cancel_ends_a_job_that_was_left_and_resume_finishes_it(rig: Rig) -> None:
    run = Run(rig, 20)
    left(rig, run)
    cancelled = run.task("cancel")
    assert cancelled.code == 0, cancelled.err
    assert rig.workers() == []
    assert re.search(r"^state +ended: cancelled", run.task("status").out, re.MULTILINE)
    rig.fake.allow()
    run.assert_whole(run.resumed())


# --------------------------------------------------------------------------------------------------- several workers


TWO = ("host.workers=2", 'host.gpus="device=3,5"')


def two_at_work(run: Run) -> subprocess.Popen[str]:
    """A run with two workers that both hold their job, after five answers."""
    run.rig.fake.allow(len(run.rig.fake.asked) + 5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5 and sum(map(is_held, run.rig.jobs())) == 2)
    return process


def two_left(run: Run) -> None:
    """A run that was left with Ctrl-C while its two workers go on."""
    process = two_at_work(run)
    process.send_signal(signal.SIGINT)
    assert ended(process).code == 130


def test_two_workers_see_their_own_gpus_and_share_the_items(rig: Rig) -> None:
    run = Run(rig, 20, *TWO)
    process = two_at_work(run)
    seen = [Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in rig.workers()]
    shown = {v for variables in seen for v in variables if v.startswith(b"CUDA_VISIBLE_DEVICES=")}
    assert shown == {b"CUDA_VISIBLE_DEVICES=3", b"CUDA_VISIBLE_DEVICES=5"}
    rig.fake.allow()
    end = ended(process)
    run.assert_whole(end)
    assert run.loads() == 2
    shares = [len(list(read_records(file))) for file in run.folder.glob("job/*/results.jsonl")]
    assert sorted(shares) == [10, 10]  # takes of one length
    assert "done=20/20" in end.err
    assert list((rig.root / "jobs").iterdir()) == []


def test_one_of_two_workers_that_is_killed_is_started_again_alone(rig: Rig) -> None:
    run = Run(rig, 20, *TWO)
    process = two_at_work(run)
    worker = rig.workers()[0]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: has_ended(worker))
    rig.fake.allow()
    run.assert_whole(ended(process))
    assert run.loads() == 3


def test_two_workers_are_left_looked_at_and_brought_home_together(rig: Rig) -> None:
    run = Run(rig, 20, *TWO)
    two_left(run)
    assert all(map(is_held, rig.jobs()))
    status = run.task("status")
    assert len(re.findall(r"^state +running$", status.out, re.MULTILINE)) == 2, status.out
    assert re.search(r"^answered +5 of 20$", status.out, re.MULTILINE), status.out
    rig.fake.allow()
    run.assert_whole(run.task("attach"))
    assert run.loads() == 2


def test_cancel_ends_both_workers(rig: Rig) -> None:
    run = Run(rig, 20, *TWO)
    two_left(run)
    cancelled = run.task("cancel")
    assert cancelled.code == 0, cancelled.err
    assert rig.workers() == []
    assert cancelled.out.count("ended: cancelled") == 2
    rig.fake.allow()
    run.assert_whole(run.resumed())


def test_looking_at_a_run_that_somebody_follows_disturbs_nothing(rig: Rig) -> None:
    rig.line_of(delay_s=0.1)  # so that looks overlap
    rig.fake.pause_s = 0.2
    run = Run(rig, 40, "budget.max_batch_size=40", "engine.in_flight=1")
    process = run.start()
    wait_for(run.journalled)
    looks = [rig.start("task=status", f"run={run.folder}") for _ in range(2)]
    assert [ended(look).code for look in looks] == [0, 0]
    run.assert_whole(ended(process))


def test_looking_at_a_job_adds_nothing_to_what_we_have_of_it(rig: Rig) -> None:
    run = Run(rig, 20)
    left(rig, run)
    [events] = run.folder.glob("job/*/events.jsonl")
    for _ in range(2):
        assert run.task("status").code == 0
    times = [e["time"] for e in read_records(events) if e["event"] == "phase"]
    assert len(times) == len(set(times))


def test_two_controllers_of_one_job_share_its_worker_and_both_end_well(rig: Rig) -> None:
    runs = [Run(rig, 20, name="one"), Run(rig, 20, name="two")]
    rig.fake.allow(5)
    processes = [run.start() for run in runs]
    wait_for(lambda: all(len(run.journalled()) == 5 for run in runs))
    assert len(rig.jobs()) == 1
    wait_for(lambda: len(rig.workers()) == 1)  # a second one sees that the job is taken, and ends
    rig.fake.allow()
    for run, end in zip(runs, [ended(process) for process in processes], strict=True):
        run.assert_whole(end)
    assert not rig.jobs()


def test_a_controller_that_was_away_while_another_one_finished_its_job_still_ends_well(rig: Rig) -> None:
    stays = Run(rig, 20, name="stays")
    line = rig.line_of()
    away = Run(rig, 20, name="away")
    rig.fake.allow(5)
    processes = [run.start() for run in (stays, away)]
    wait_for(lambda: all(len(run.journalled()) == 5 for run in (stays, away)))
    line.freeze()
    rig.fake.allow()
    stays.assert_whole(ended(processes[0]))
    line.thaw()
    away.assert_whole(ended(processes[1]), asked_once=False)  # the other one took the answers with it


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[Callable[[str], None]]:
    """A function that gives the machine's root a disk of its own of some size, or changes its size."""
    rig.root.mkdir()

    def sized(size: str) -> None:
        remount = (
            ["-o", f"remount,size={size}"] if rig.root.is_mount() else ["-t", "tmpfs", "-o", f"size={size}", "none"]
        )
        done = subprocess.run(["mount", *remount, str(rig.root)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")

    yield sized
    if rig.root.is_mount():
        subprocess.run(["umount", "-l", str(rig.root)], check=True)


def fill(folder: Path) -> Path:
    """Use up the disk of a folder with one file."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):  # no space left
        while True:
            f.write(b"\0" * 4096)
    return filler


def test_a_disk_that_is_full_at_the_start_is_4_and_resume_goes_on_when_there_is_room(
    rig: Rig, small_disk: Callable[[str], None]
) -> None:
    small_disk("512k")
    run = Run(rig)
    end = run.to_its_end()
    assert end.code == 4, end.err
    assert "full" in end.err or "No space" in end.err
    small_disk("64m")
    run.assert_whole(run.resumed())


def test_a_disk_that_fills_up_while_files_are_sent_is_4_and_resume_goes_on_when_there_is_room(
    rig: Rig, small_disk: Callable[[str], None]
) -> None:
    small_disk("8m")
    rig.line_of(delay_s=0.1)
    run = Run(rig)
    process = run.start()
    wait_for(rig.jobs, step_s=0.002)
    filler = fill(rig.root)
    end = ended(process)
    assert end.code == 4, end.err
    assert "full" in end.err or "No space" in end.err
    filler.unlink()
    run.assert_whole(run.resumed())


def test_a_disk_that_fills_up_under_the_worker_is_4_and_resume_goes_on_when_there_is_room(
    rig: Rig, small_disk: Callable[[str], None]
) -> None:
    small_disk("8m")
    run = Run(rig, 40)
    rig.fake.allow(5)
    process = run.start()
    wait_for(lambda: len(run.journalled()) == 5 and any(e["done"] == "40/40" for e in run.logged("hints")))
    filler = fill(rig.root)
    rig.fake.allow()
    end = ended(process)
    assert end.code == 4, end.err
    assert "full" in end.err or "no space" in end.err.lower()
    filler.unlink()
    assert run.resumed().code == 0
    assert Counter(run.journalled()) == Counter(item["id"] for item in run.items)


# --------------------------------------------------------------------------------------------- what others left there


def planned_job(run: Run) -> tuple[Path, str]:
    """The job folder that a run will have on the machine, and its controller's name for what it sends."""
    assert run.rig.program("task=plan", *run.overrides).code == 0
    plan = read_plan(run.folder / "plan.json")
    name = job_id(plan.items, plan.settings)
    return run.rig.root / "jobs" / name, digest("controller", str(run.folder / "job" / name), os.uname().nodename)


def test_a_half_staged_job_is_staged_to_its_end(rig: Rig) -> None:
    Run(rig, first=10, name="before").to_its_end()
    kept = {p.name: p.read_bytes() for p in (rig.root / "frames").glob("*.png")}
    shutil.rmtree(rig.root)
    run = Run(rig)
    job, key = planned_job(run)
    for folder in (job / f".incoming-{key}", job / ".incoming-of-somebody-else", job / "batches", job / "frames"):
        folder.mkdir(parents=True)
    (job / f".incoming-{key}" / "worker.py").write_text("print('half a wor")
    (job / f".incoming-{key}" / "batches").mkdir()
    (job / f".incoming-{key}" / "batches" / "00000-0.jsonl").write_text('{"id": "')
    incoming = rig.root / "frames" / f".incoming-{key}"
    incoming.mkdir(parents=True)
    whole, *torn = kept
    (incoming / whole).write_bytes(kept[whole])
    for name in torn:
        (incoming / name).write_bytes(kept[name][:100])
    run.assert_whole(run.resumed())
    assert {p.name: p.read_bytes() for p in (rig.root / "frames").glob("*.png")} == kept
    assert not rig.jobs()


def test_a_frame_that_arrived_wrong_is_sent_again(rig: Rig) -> None:
    Run(rig, first=10, name="before").to_its_end()
    kept = {p.name: p.read_bytes() for p in (rig.root / "frames").glob("*.png")}
    shutil.rmtree(rig.root)
    run = Run(rig)
    _, key = planned_job(run)
    incoming = rig.root / "frames" / f".incoming-{key}"
    incoming.mkdir(parents=True)
    for name, data in kept.items():
        (incoming / name).write_bytes(b"\0" * len(data))  # as a machine that lost its power may leave it
    run.assert_whole(run.resumed())
    assert {p.name: p.read_bytes() for p in (rig.root / "frames").glob("*.png")} == kept


def test_a_frame_in_the_store_that_is_not_what_it_is_named_is_never_shown_to_the_engine(rig: Rig) -> None:
    Run(rig, first=10, name="before").to_its_end()
    for frame in (rig.root / "frames").glob("*.png"):
        frame.write_bytes(frame.read_bytes()[:1000])  # as a machine that lost its power may leave it
    run = Run(rig)
    run.to_its_end()
    sent = {f["sha256"] for r in read_records(run.folder / "journal.jsonl") for f in r["frames"]}
    staged = {f for line in _staged(run) for f in line["frames"]}
    assert {f"frames/{sha}.png" for sha in sent} <= staged


def _staged(run: Run) -> Iterator[dict[str, Any]]:
    for batch in run.folder.glob("job/*/batches/*.jsonl"):
        yield from read_records(batch)


def test_clean_removes_ended_jobs_and_leaves_running_ones_and_what_is_not_ours(rig: Rig) -> None:
    assert Run(rig, 5, "host.keep_job=true", name="done", first=40).to_its_end().code == 0
    [done] = rig.jobs()
    left(rig, Run(rig, 20))
    [running] = set(rig.jobs()) - {done}
    foreign = [rig.root / "jobs" / name for name in ("mine", "my notes", "-rf", "0123456789ABCDEF", "0" * 17)]
    for folder in foreign:
        folder.mkdir()
        (folder / "job.json").write_text("{}")
    end = rig.program("task=clean", *rig.host, "yes=true")
    assert end.code == 0, end.err
    assert rig.jobs() == [running] and is_held(running)
    assert all((folder / "job.json").exists() for folder in foreign)


def test_a_folder_that_only_begins_like_a_job_is_left_alone(rig: Rig) -> None:
    copy = rig.root / "jobs" / "0123456789abcdef copy of it"
    copy.mkdir(parents=True)
    end = rig.program("task=clean", *rig.host, "yes=true")
    assert end.code == 0, end.err
    assert copy.exists()


def test_tasks_that_make_no_run_leave_no_run_folder(rig: Rig) -> None:
    assert rig.program("task=trust", *rig.host).code == 0
    assert rig.program("task=clean", *rig.host).code == 0
    assert rig.program("task=status", *rig.host).code == 0
    assert {p.name for p in (rig.desk / "outputs").iterdir()} <= {".tasks", ".cache"}


# ---------------------------------------------------------------------------------------------------- words of others


def test_no_word_of_others_ever_reaches_a_shell(rig: Rig) -> None:
    touched = rig.folder / "touched"
    words = [
        f"$(touch {touched})", f"`touch {touched}`", f"'; touch {touched}; '", f'"; touch {touched}; "', f"a\n touch {touched}",
        "-rf", "--checkpoint-action=exec=id", "../../../etc/passwd", "läuft 雨 \u202e", "*", "%s%n", "~", "a\\' \"b",
    ]  # fmt: skip
    rig.root = rig.folder / f"root with 'quotes' $(touch {touched}) `id`; -x" / "-n"
    rig.root.mkdir(parents=True)
    run = Run(rig, 0, f"host.name={quoted(words[0])}", name="-run 'it' $(id)")
    items = []
    for n, word in enumerate(words):
        clip = rig.folder / f"-clip {n} $(id) 'x'; .mp4"
        shutil.copy(rig.clips / "wide.mp4", clip)
        items.append({"name": word, "prompt": f"{word} {n}", "video_path": str(clip)})
    prompts = rig.folder / "words.json"
    prompts.write_text(json.dumps(items))
    overrides = (*run.overrides, f"prompts={quoted(prompts)}", f"model.name={quoted(words[2])}")
    rig.fake.expected = planned(rig.folder / "plan", f"prompts={quoted(prompts)}", *rig.given)
    run.assert_whole(rig.program(*overrides))
    assert len(run.items) == len(words)
    assert not touched.exists()
    assert list((rig.root / "jobs").iterdir()) == []
