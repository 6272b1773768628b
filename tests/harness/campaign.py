"""Random faults on whole runs: `python -m tests.harness.campaign --seconds 60 --seed 7`.

Each trial draws a place, a moment and a fault from its seed, breaks a run with it, resumes it, and checks what must hold
whatever happened: every item is in the journal once, with the very text that the server sent; nothing that was answered is
asked again; nothing is written outside of the run; no secret is in any file, output, command line or container; the program
ends in time, and never with a traceback. It prints a table of faults by place, and each violation with the seed that repeats
it. The server is a fake; the program, its workers, sshd, dockerd and Slurm are real.
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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.conftest import small_tokenizer
from tests.harness import dockerd, slurm, sshd
from tests.harness.clips import make_clip
from tests.harness.docked import Docked
from tests.harness.faults import (
    DOCKER,
    FAULTS,
    FLEET,
    PLACES,
    SLURM,
    SSH,
    Fault,
    Trial,
    acts_by_itself,
    name_of,
    prepare,
)
from tests.harness.gathered import Clustered, Linked
from tests.harness.processes import command_lines
from tests.harness.program import Ended, Program, journal_lines, plan_of, quoted, results_of
from tests.harness.remote import CLIPS, Remote, take

ITEMS, LIMIT_S = 8, 60.0
SECRET = "swordfish-8c1f0e"
STATES = {"upsampled", "kept", "failed"}


def perform(trial: Trial, fault: Fault) -> None:
    """Start a run, break it at a random moment, bring it to its end, and check it."""
    answers = trial.random.randint(-2, ITEMS)  # how many are written down before the fault; below 0: at any time before
    server = trial.remote.server
    server.pause_s = trial.random.choice((0.0, 0.02, 0.1))
    prepare(trial, fault)
    if acts_by_itself(fault):
        program = trial.remote.start(*trial.overrides, limit_bytes=trial.limit_bytes, more_env=trial.env)
        ends = [_ended(trial, program)]
        trial.write_python()
    else:
        if answers >= 0:
            server.allow(max(answers, 1))
        program, ends = trial.remote.start(*trial.overrides), []
        deadline = time.monotonic() + (LIMIT_S / 2 if answers >= 0 else trial.random.random() * 3)
        while (
            time.monotonic() < deadline and (answers < 0 or len(_journal(trial)) < answers) and program.poll() is None
        ):
            time.sleep(0.005)
    _look_for_the_secret(trial)
    before = {line["id"] for line in _journal(trial)}
    asked_before = server.times_asked()
    if not ends:
        fault(trial, program)
        server.allow()
        ends = [_ended(trial, program)]
    if trial.damages:
        ends += _read(trial)
    ends += _to_the_end(trial, ends[-1])
    _check(trial, ends, before, asked_before)


def _look_for_the_secret(trial: Trial) -> None:
    """In the command lines of all processes, and in what Docker says of the containers."""
    seen = [b" ".join(words).decode(errors="replace") for _, words in command_lines()]
    if isinstance(trial.remote, Docked):
        seen += [trial.remote.daemon.attempt("inspect", name).stdout for name in trial.remote.daemon.names()]
    if found := [line[:200] for line in seen if SECRET in line]:
        trial.violations.append(f"the secret is on a command line or in a container: {found[0]}")


def _journal(trial: Trial) -> list[dict[str, object]]:
    with suppress(ValueError):
        return journal_lines(trial.run / "journal.jsonl")
    return []


def _read(trial: Trial) -> Iterator[Ended]:
    """How one of the tasks ends that read a run folder as it is."""
    run, copy = f"run={quoted(trial.run)}", trial.remote.folder / "copy"
    if trial.run.exists():
        shutil.copytree(trial.run, copy)
    tasks = {
        "status": [run], "report": [run], "verify": [run], "runs": [], "compare": [f"runs=[{quoted(trial.run)},{quoted(copy)}]"],
        "review": [run, "review.all=accepted"], "cancel": [run],
    }  # fmt: skip
    name = trial.random.choice([*tasks])
    yield _ended(
        trial, trial.remote.start(f"task={name}", *tasks[name], f"hydra.run.dir={quoted(trial.remote.folder / 'read')}")
    )


def _to_the_end(trial: Trial, end: Ended) -> Iterator[Ended]:
    """How those end that resume the broken run, until one is complete."""
    for _ in range(4):
        if end.code in (0, 3) and len(_journal(trial)) >= ITEMS:
            break
        resume = (f"resume={quoted(trial.run)}",) if (trial.run / "plan.json").exists() else trial.overrides
        yield (end := _ended(trial, trial.remote.start(*resume)))
        if end.code == 2 and trial.restore:  # it says what was changed; whoever knows better puts it back
            trial.restore()
            trial.restore = None
    yield _ended(trial, trial.remote.start(f"resume={quoted(trial.run)}"))


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
    if any(SECRET in end.out + end.err for end in ends):
        wrong("the program printed the secret")
    folders = [trial.remote.folder, *([trial.remote.slurm.folder] if isinstance(trial.remote, Clustered) else [])]
    leaks = subprocess.run(["grep", "-rlF", SECRET, *folders], capture_output=True, text=True).stdout
    if leaks:
        wrong(f"the secret is in {leaks.split()}")
    known = {"home", "desk", "known_hosts", "root", "run", "prompts.json", "cache", "copy", "read"}
    if strange := {path.name for path in trial.remote.folder.iterdir()} - known | {
        p.name for p in trial.remote.desk.iterdir()
    }:
        wrong(f"files outside of the run: {sorted(strange)}")


class Campaign:
    """Trials in one folder: how many there were of each fault and place, how often the fault did not come about, and what was
    violated."""

    def __init__(self, seed: int, places: tuple[str, ...]) -> None:
        self.seed, self.places = seed, places
        self.tried: Counter[tuple[str, str]] = Counter()
        self.missed: Counter[tuple[str, str]] = Counter()
        self.violations: dict[tuple[str, str, int], list[str]] = {}
        self.base = Path(tempfile.mkdtemp(prefix="campaign-"))
        (self.base / "clips").mkdir()
        for clip in CLIPS:
            make_clip(self.base / "clips" / f"{clip}.mp4", size=(96, 64), fps=8, seconds=0.5)
        small_tokenizer(self.base / "own.json")
        (self.base / "key").touch(0o600)
        (self.base / "key").write_text(SECRET)
        self.sshd = sshd.Sshd(self.base / "sshd")
        self.daemon: dockerd.Dockerd | None = None
        self.slurm: slurm.Slurm | None = None

    def run(self, seconds: float, first: int = 0) -> None:
        until, number = time.monotonic() + seconds, first
        try:
            while time.monotonic() < until:
                self._try(number)
                number += 1
        finally:
            self.sshd.kill()
            if self.daemon:
                self.daemon.stop()
            if self.slurm:
                self.slurm.stop()
            if not self.violations:
                shutil.rmtree(self.base, ignore_errors=True)

    def _try(self, number: int) -> None:
        chosen = random.Random(f"{self.seed}/{number}")
        place = chosen.choice(self.places)
        fault = chosen.choice([fault for fault, places in FAULTS.items() if place in places])
        trial = Trial(chosen, self._remote(number, place), place, self.base / f"{number}" / "run")
        prompts = [take(n, trial.remote.clips) for n in range(ITEMS)]
        (trial.remote.folder / "prompts.json").write_text(json.dumps(prompts))
        try:
            perform(trial, fault)
        finally:
            for pid in trial.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            trial.remote.close()
            if not trial.violations:
                shutil.rmtree(trial.remote.folder, ignore_errors=True)
        kind = name_of(fault), place
        self.tried[kind] += trial.happened()
        self.missed[kind] += not trial.happened()
        if trial.violations:
            self.violations[*kind, number] = trial.violations
            found = "; ".join(trial.violations)
            print(f"--seed {self.seed} --first {number}: {' at '.join(kind)}: {found}  [{trial.run}]", flush=True)

    def _remote(self, number: int, place: str) -> Remote:
        folder = self.base / f"{number}"
        folder.mkdir()
        given = (folder, self.sshd, folder / "cache", str(self.base / "own.json"), self.base / "clips")
        remote: Remote
        if place == DOCKER:
            self.daemon = self.daemon or dockerd.Dockerd(self.base / "dockerd")
            remote = Docked(*given, self.daemon)
        elif place == SLURM:
            self.slurm = self.slurm or slurm.Slurm(self.base / "slurm")
            remote = Clustered(*given, self.slurm)
        else:
            remote = Linked(*given) if place == FLEET else Remote(*given)
        remote.server.count = lambda body: remote._prompt_tokens(body) if (folder / "run" / "plan.json").exists() else 1
        if place == SSH:
            remote.proxied()
        return remote

    def table(self) -> str:
        lines = [f"{'fault':<28}{'place':<10}{'runs':>6}{'not reached':>13}{'violations':>12}"]
        for kind in sorted(self.tried):
            wrong = sum(v[:2] == kind for v in self.violations)
            lines.append(f"{kind[0]:<28}{kind[1]:<10}{self.tried[kind]:>6}{self.missed[kind]:>13}{wrong:>12}")
        lines.append(f"{'all':<38}{self.tried.total():>6}{self.missed.total():>13}{len(self.violations):>12}")
        return "\n".join(lines)


def usable(places: tuple[str, ...]) -> tuple[str, ...]:
    """The places that this machine has; those that it has not are named."""
    missing = {place: why for place, why in ((DOCKER, dockerd.missing()), (SLURM, slurm.missing())) if why}
    for place in places:
        if place in missing:
            print(f"without {place}: {missing[place]}")
    return tuple(place for place in places if place not in missing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--places", default=",".join(PLACES), help="of the trials; a seed repeats with the same ones")
    given = parser.parse_args()
    if reason := sshd.missing():
        print(f"the campaign needs a host to log in to: {reason}")
        return 77
    campaign = Campaign(given.seed, usable(tuple(given.places.split(","))))
    print(f"--seed {given.seed} --places {','.join(campaign.places)}", flush=True)
    try:
        campaign.run(given.seconds, given.first)
    finally:
        print(campaign.table(), flush=True)
    return bool(campaign.violations)


if __name__ == "__main__":
    sys.exit(main())
