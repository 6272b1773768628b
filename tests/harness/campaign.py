"""Random faults on whole runs: `python -m tests.harness.campaign --seconds 60 --seed 7`.

Each trial draws a place, a moment and a fault from its seed, breaks a run with it, resumes it, and checks what must hold
whatever happened: every item is in the journal once, with the very text that the server sent; nothing that was answered is
asked again; nothing is written outside of the run; no secret is in any file; the program ends in time, and never with a
traceback. It prints a table of faults by place, and each violation with the seed that repeats it. The server is a fake; the
program, its workers and sshd are real.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import small_tokenizer
from tests.harness import sshd
from tests.harness.clips import make_clip
from tests.harness.processes import command_lines
from tests.harness.program import Ended, Program, journal_lines, plan_of, quoted, results_of
from tests.harness.remote import CLIPS, Remote, take

ITEMS, LIMIT_S = 8, 60.0
SECRET = "swordfish-8c1f0e"
STATES = {"upsampled", "kept", "failed"}
REPLIES = (
    (200, b"data: {"), (200, b"<html></html>"), (200, b'data: {"choices": 3}\n\ndata: [DONE]\n\n'), (503, b"busy"),
    (200, b'data: {"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'),
    (500, b"\xff\xfe"), (429, b'{"error": 3}'), (200, b""),
)  # fmt: skip


@dataclass
class Trial:
    """One run that is broken and resumed. damages: whether the fault may cost answers, which are then asked again."""

    random: random.Random
    remote: Remote
    place: str
    run: Path
    violations: list[str] = field(default_factory=list)
    damages: bool = False
    restore: Callable[[], object] | None = None

    def start(self, *overrides: str, limit_bytes: int | None = None) -> Program:
        return self.remote.start(*overrides, limit_bytes=limit_bytes)

    def overrides(self) -> tuple[str, ...]:
        host = self.remote.host if self.place == "ssh" else ("engine.grace_s=1",)
        return (
            f"prompts={quoted(self.remote.folder / 'prompts.json')}", f"hydra.run.dir={quoted(self.run)}",
            *self.remote.engine, *self.remote.common, *host, "host.silent_s=4",
            f"engine.api_key_file={quoted(self.remote.folder.parent / 'key')}",
            "budget.max_batch_size=3", "reuse=false",
        )  # fmt: skip

    def workers(self) -> list[int]:
        ours = os.fsencode(self.remote.folder)
        return [
            pid
            for pid, words in command_lines()
            if any(w.startswith(ours) and w.endswith(b"worker.pyz") for w in words)
        ]

    def files(self) -> list[Path]:
        """The files of the run, here and on the host, that a disk may damage."""
        found = [*self.run.rglob("*"), *(self.remote.root / "jobs").rglob("*")]
        return sorted(f for f in found if f.is_file() and not f.is_symlink() and f.stat().st_size)


Fault = Callable[[Trial, Program], None]


def kill_controller(trial: Trial, program: Program) -> None:
    program.kill()


def interrupt_controller(trial: Trial, program: Program) -> None:
    program.interrupt()


def terminate_controller(trial: Trial, program: Program) -> None:
    program.terminate()


def _signal_workers(trial: Trial, number: int) -> None:
    for pid in trial.workers():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def kill_worker(trial: Trial, program: Program) -> None:
    _signal_workers(trial, signal.SIGKILL)


def freeze_worker(trial: Trial, program: Program) -> None:
    _signal_workers(trial, signal.SIGSTOP)


def terminate_worker(trial: Trial, program: Program) -> None:
    _signal_workers(trial, signal.SIGTERM)


def kill_both(trial: Trial, program: Program) -> None:
    program.kill()
    _signal_workers(trial, signal.SIGKILL)


def cut_link(trial: Trial, program: Program) -> None:
    for proxy in trial.remote._proxies:
        proxy.cut()


def spoil_replies(trial: Trial, program: Program) -> None:
    trial.remote.server.spoiled += [trial.random.choice(REPLIES) for _ in range(trial.random.randint(1, 3))]


def fill_disk(trial: Trial, program: Program) -> None:
    """It was started with a limit on the size of its files; see `perform`."""


def _damage(trial: Trial, program: Program, change: Callable[[Path], bytes]) -> None:
    kill_both(trial, program)
    trial.damages = True
    if files := trial.files():
        file = trial.random.choice(files)
        was = file.read_bytes()
        file.write_bytes(change(file))
        trial.restore = lambda: file.write_bytes(was) if file.name.endswith((".json", ".yaml", ".seal")) else None


def flip_a_byte(trial: Trial, program: Program) -> None:
    def flipped(file: Path) -> bytes:
        data = bytearray(file.read_bytes())
        data[trial.random.randrange(len(data))] ^= 1 << trial.random.randrange(8)
        return bytes(data)

    _damage(trial, program, flipped)


def cut_a_file(trial: Trial, program: Program) -> None:
    _damage(trial, program, lambda file: file.read_bytes()[: trial.random.randrange(file.stat().st_size)])


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    fault.__name__.replace("_", " "): (fault, places)
    for fault, places in {
        kill_controller: ("local", "ssh"), interrupt_controller: ("local", "ssh"), terminate_controller: ("local", "ssh"),
        kill_worker: ("local", "ssh"), freeze_worker: ("local", "ssh"), terminate_worker: ("local", "ssh"),
        kill_both: ("local", "ssh"), cut_link: ("ssh",), spoil_replies: ("local", "ssh"), flip_a_byte: ("local", "ssh"),
        cut_a_file: ("local", "ssh"), fill_disk: ("local", "ssh"),
    }.items()
}  # fmt: skip


def perform(trial: Trial, fault: Fault) -> None:
    """Start a run, break it at a random moment, bring it to its end, and check it."""
    answers = trial.random.randint(-2, ITEMS)  # how many are written down before the fault; below 0: at any time before
    server = trial.remote.server
    server.pause_s = trial.random.choice((0.0, 0.02, 0.1))
    if answers >= 0:
        server.allow(max(answers, 1))
    full_at = trial.random.randint(0, 40_000) if fault is fill_disk else None
    program = trial.start(*trial.overrides(), limit_bytes=full_at)
    deadline = time.monotonic() + (LIMIT_S / 2 if answers >= 0 else trial.random.random() * 3)
    while time.monotonic() < deadline and (answers < 0 or len(_journal(trial)) < answers) and program.poll() is None:
        time.sleep(0.005)
    before = set() if trial.damages else {line["id"] for line in _journal(trial)}
    asked_before = server.times_asked()
    fault(trial, program)
    server.allow()
    ends = [*_to_the_end(trial, program)]
    _check(trial, ends, before, asked_before)


def _journal(trial: Trial) -> list[dict[str, object]]:
    with suppress(ValueError):
        return journal_lines(trial.run / "journal.jsonl")
    return []


def _to_the_end(trial: Trial, program: Program) -> Iterator[Ended]:
    """How the broken run ends, and those that resume it, until one is complete."""
    yield (end := _ended(trial, program))
    for _ in range(4):
        if end.code in (0, 3) and len(_journal(trial)) >= ITEMS:
            break
        resume = (f"resume={quoted(trial.run)}",) if (trial.run / "plan.json").exists() else trial.overrides()
        yield (end := _ended(trial, trial.start(*resume)))
        if end.code == 2 and trial.restore:  # it says what was changed; whoever knows better puts it back
            trial.restore()
            trial.restore = None
    yield _ended(trial, trial.start(f"resume={quoted(trial.run)}"))


def _ended(trial: Trial, program: Program) -> Ended:
    try:
        return program.ended(LIMIT_S)
    except AssertionError as e:
        trial.violations.append(f"no end within {LIMIT_S:.0f} s: {str(e)[-300:]}")
        return Ended(-9, "", "")


def _check(trial: Trial, ends: list[Ended], before: set[object], asked_before: Counter[str]) -> None:
    wrong = trial.violations.append
    if any("Traceback" in end.err + end.out or end.code == 1 for end in ends):
        wrong(
            "a traceback, or exit 1: " + next(e.err[-400:] for e in ends if "Traceback" in e.err + e.out or e.code == 1)
        )
    if ends[-1].code not in (0, 3):
        wrong(f"the last resume ended with {ends[-1].code}: {ends[-1].err[-400:]}")
        return
    items = {item["id"]: item for item in plan_of(trial.run)["items"]}
    counts = Counter(str(line["id"]) for line in _journal(trial))
    if counts != Counter(dict.fromkeys(items, 1)):
        wrong(
            f"the journal has {len(counts)} of {len(items)} items, the most often {max(counts.values(), default=0)} times"
        )
    rows = results_of(trial.run)
    if [row["name"] for row in rows] != [item["name"] for item in items.values()] or {
        r["state"] for r in rows
    } - STATES:
        wrong("results.json does not have each item once, in a known state")
    texts = re.compile(r"A long answer, number \d+\.")
    if changed := [
        row["upsampled_prompt"]
        for row in rows
        if row["state"] == "upsampled" and not texts.fullmatch(row["upsampled_prompt"])
    ]:
        wrong(f"a text that nobody sent: {changed[0]!r}")
    again = trial.remote.server.times_asked() - asked_before
    if not trial.damages and (twice := [i for i in before if again[items[str(i)]["text"]]]):
        wrong(f"{len(twice)} answered items were asked again")
    leaks = subprocess.run(["grep", "-rlF", SECRET, str(trial.remote.folder)], capture_output=True, text=True).stdout
    if leaks:
        wrong(f"the secret is in {leaks.split()}")
    known = {"home", "desk", "known_hosts", "root", "run", "prompts.json", "cache"}
    if strange := {path.name for path in trial.remote.folder.iterdir()} - known | {
        p.name for p in trial.remote.desk.iterdir()
    }:
        wrong(f"files outside of the run: {sorted(strange)}")


def trial_of(number: int, seed: int, base: Path, ssh: sshd.Sshd) -> tuple[str, str, list[str]]:
    """The fault, the place and the violations of one trial."""
    chosen = random.Random(f"{seed}/{number}")
    name = chosen.choice([*FAULTS])
    fault, places = FAULTS[name]
    place = chosen.choice(places)
    folder = base / f"{number}"
    folder.mkdir()
    remote = Remote(folder, ssh, folder / "cache", str(base / "own.json"), base / "clips")
    remote.server.count = lambda body: remote._prompt_tokens(body) if (folder / "run" / "plan.json").exists() else 1
    if place == "ssh":
        remote.proxied()
    trial = Trial(chosen, remote, place, folder / "run")
    prompts = [take(n, remote.clips) for n in range(ITEMS)]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    try:
        perform(trial, fault)
    finally:
        for pid in trial.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        remote.close()
        if not trial.violations:
            shutil.rmtree(folder, ignore_errors=True)
    return name, place, trial.violations


def campaign(
    seconds: float, seed: int, first: int = 0
) -> tuple[Counter[tuple[str, str]], dict[tuple[str, str, int], list[str]]]:
    """Trials for so long: how many of each fault and place, and the violations by fault, place and number."""
    base = Path(tempfile.mkdtemp(prefix="campaign-"))
    (base / "clips").mkdir()
    for clip in CLIPS:
        make_clip(base / "clips" / f"{clip}.mp4", size=(96, 64), fps=8, seconds=0.5)
    small_tokenizer(base / "own.json")
    (base / "key").touch(0o600)
    (base / "key").write_text(SECRET)
    ssh = sshd.Sshd(base / "sshd")
    tried: Counter[tuple[str, str]] = Counter()
    violations: dict[tuple[str, str, int], list[str]] = {}
    until, number = time.monotonic() + seconds, first
    try:
        while time.monotonic() < until:
            name, place, found = trial_of(number, seed, base, ssh)
            tried[name, place] += 1
            if found:
                violations[name, place, number] = found
                print(
                    f"--seed {seed} --first {number}: {name}, {place}: {'; '.join(found)}  [{base / str(number)}]",
                    flush=True,
                )
            number += 1
    finally:
        ssh.kill()
        if not violations:
            shutil.rmtree(base, ignore_errors=True)
    return tried, violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    given = parser.parse_args()
    if reason := sshd.missing():
        print(f"the campaign needs a host to log in to: {reason}")
        return 77
    print(f"--seed {given.seed}", flush=True)
    tried, violations = campaign(given.seconds, given.seed, given.first)
    print(f"{'fault':<22}{'place':<8}{'runs':>6}{'violations':>12}")
    for (name, place), count in sorted(tried.items()):
        print(f"{name:<22}{place:<8}{count:>6}{sum(v[:2] == (name, place) for v in violations):>12}")
    print(f"{'all':<30}{tried.total():>6}{len(violations):>12}")
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
