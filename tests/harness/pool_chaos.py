"""Random faults on the workers of host=pool: `python -m tests.harness.pool_chaos --runs 200 --seed 7`.

Each run has a controller in this process and three real workers, which launchers/pool_worker.sh starts in job folders on a
"shared disk". Workers are killed, frozen for a while, told to end, taken away with their launcher as with a lost node, or
started with a disk that is full, and started again later. Whatever happens, each item is in the journal once, upsampled; the
controller gives no worker an item that has ended; every launcher ends by itself. The server that answers is a fake.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from src import log
from src.files import bundled
from src.hosts.job_folder import JobPaths
from src.planning.partition import places
from src.planning.plan import Plan
from src.planning.plan_file import read_plan
from src.run_folder import RunPaths
from src.runs import fleet, staging, supervisor
from src.runs.dealer import Items
from src.runs.pool import Pool
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from tests.conftest import small_tokenizer
from tests.harness.clips import make_clip
from tests.harness.openai_server import FakeOpenAI
from tests.harness.processes import command_lines
from tests.harness.program import program, quoted, write_prompts

ITEMS, WORKERS, SILENT_S = 40, 3, 3.0
LIMIT_S = 90.0  # for a run, and for what is left to end


class Workers:
    """The launchers of a run and what they started, in sessions of their own, as on nodes of their own."""

    def __init__(self, root: Path, jobs: list[str]) -> None:
        self.root, self.jobs = root, jobs
        self.launchers = [self._start(n) for n in range(len(jobs))]

    def _start(self, number: int, blocks: str = "unlimited") -> subprocess.Popen[bytes]:
        words = ("sh", "-c", f'ulimit -f {blocks}; exec sh "$0" "$@"', str(bundled("launchers/pool_worker.sh")))
        with open(self.root / f"launcher{number}.log", "ab") as out:
            return subprocess.Popen(
                (*words, str(self.root), sys.executable, *self.jobs),
                env={**os.environ, "WORKER": str(number)}, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def start(self, number: int, blocks: str = "unlimited") -> None:
        """Start a launcher again, in place of the one before."""
        self.take_away(number)
        self.launchers[number] = self._start(number, blocks)

    def take_away(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.launchers[number].pid, signal.SIGKILL)
        self.launchers[number].wait()

    def send(self, number: int, sign: int) -> None:
        program = os.fsencode(self.root / "jobs" / self.jobs[number] / "worker.pyz")
        for pid in [pid for pid, words in command_lines() if program in words]:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)

    def codes(self) -> list[int]:
        """How the launchers ended, which they do by themselves."""
        until = time.monotonic() + LIMIT_S
        return [launcher.wait(max(1.0, until - time.monotonic())) for launcher in self.launchers]


Fault = Callable[[Workers, int, random.Random], None]


def kill(workers: Workers, number: int, chosen: random.Random) -> None:
    workers.send(number, signal.SIGKILL)


def freeze(workers: Workers, number: int, chosen: random.Random) -> None:
    workers.send(number, signal.SIGSTOP)
    time.sleep(chosen.uniform(0.5, 2.5 * SILENT_S))
    workers.send(number, signal.SIGCONT)


def tell_to_end(workers: Workers, number: int, chosen: random.Random) -> None:
    """As Kubernetes and Slurm do before they take a place away; the next one comes later."""
    workers.launchers[number].terminate()
    time.sleep(chosen.uniform(0.5, 4))
    workers.start(number)


def lose_node(workers: Workers, number: int, chosen: random.Random) -> None:
    workers.take_away(number)
    time.sleep(chosen.uniform(0.5, 2.5 * SILENT_S))
    workers.start(number)


def fill_disk(workers: Workers, number: int, chosen: random.Random) -> None:
    workers.start(number, str(chosen.randint(0, 30)))  # blocks of 512 bytes a file
    time.sleep(chosen.uniform(1, 5))
    workers.start(number)


FAULTS: tuple[Fault, ...] = (kill, freeze, tell_to_end, lose_node, fill_disk)


class Chaos:
    """The runs, what was done in them, and what was violated, by run."""

    def __init__(self, seed: int) -> None:
        self.seed, self.done, self.violations = seed, Counter[str](), dict[int, list[str]]()
        self.twice = Counter[int]()
        self.base = Path(tempfile.mkdtemp(prefix="pool-chaos-"))
        make_clip(self.base / "clip.mp4", size=(96, 64), fps=8, seconds=0.5)
        small_tokenizer(self.base / "own.json")
        self.plan = self._plan()

    def _plan(self) -> Plan:
        prompts = write_prompts(self.base / "prompts.json", self.base / "clip.mp4", ITEMS)
        end = program(
            "task=plan", "host=pool", f"host.workers={WORKERS}", f"host.silent_s={SILENT_S}", f"prompts={quoted(prompts)}",
            "engine=endpoint", "engine.base_url=http://127.0.0.1:1/v1", "engine.in_flight=2", "engine.grace_s=1",
            "budget.max_batch_size=3", "model.family=unverified", f"cache_dir={quoted(self.base / 'cache')}",
            f"hydra.run.dir={quoted(self.base / 'plan')}", f"worker.python={quoted(sys.executable)}", "hints.video=false",
        )  # fmt: skip
        assert end.code == 0, end.err
        return read_plan(self.base / "plan" / "plan.json")

    def run(self, number: int) -> None:
        chosen, folder, server = random.Random(f"{self.seed}/{number}"), self.base / str(number), FakeOpenAI(0.4)
        server.count = lambda body: 1
        host = replace(self.plan.settings.host, root=str(folder / "root"))
        engine = replace(self.plan.settings.engine, base_url=server.url)
        plan = replace(self.plan, settings=replace(self.plan.settings, host=host, engine=engine))
        paths = RunPaths(folder / "run")
        (folder / "root").mkdir(parents=True)
        paths.jobs.mkdir(parents=True)
        jobs = [staging.job_folder(plan, paths.jobs, place.name).root.name for place in places(plan)]
        workers = Workers(folder / "root", jobs)
        faults = [chosen.choice(FAULTS) for _ in range(chosen.randint(1, 4))]
        wrong = self.violations.setdefault(number, [])
        breaker = threading.Thread(target=self._break, args=(workers, faults, server, chosen, threading.Event()))
        breaker.start()
        try:
            self._execute(plan, paths, wrong)
            breaker.join()
            if any(codes := workers.codes()):
                wrong.append(f"launchers ended with {codes}")
        except Exception as e:
            wrong.append(f"{type(e).__name__}: {e}")
        finally:
            breaker.join()
            for n in range(WORKERS):
                workers.take_away(n)
                workers.send(n, signal.SIGKILL)
            server.close()
        self.twice[sum(server.times_asked().values()) - ITEMS] += 1
        if wrong:
            print(
                f"--seed {self.seed} --first {number}: {[f.__name__ for f in faults]}: {wrong}  [{folder}]", flush=True
            )
        else:
            del self.violations[number]
            shutil.rmtree(folder)

    def _break(
        self, workers: Workers, faults: list[Fault], server: FakeOpenAI, chosen: random.Random, never: threading.Event
    ) -> None:
        """Each fault once the server was asked for so many items, one after another."""
        until = time.monotonic() + LIMIT_S
        for fault, moment in zip(faults, sorted(chosen.randint(1, ITEMS - 5) for _ in faults), strict=True):
            while len(server.asked) < moment and time.monotonic() < until:
                never.wait(0.02)
            self.done[fault.__name__] += 1
            fault(workers, chosen.randrange(WORKERS), chosen)

    def _execute(self, plan: Plan, paths: RunPaths, wrong: list[str]) -> None:
        dealt = Pool._copy

        def watched(pool: Pool, items: Items, job: JobPaths) -> None:
            if ended := [item_id for item_id in items if item_id in pool.journal.outcomes]:
                wrong.append(f"{len(ended)} items that had ended were given out")
            dealt(pool, items, job)

        Pool._copy = watched  # type: ignore[method-assign, assignment]
        try:
            execute(plan, paths, Quiet())
        finally:
            Pool._copy = dealt  # type: ignore[method-assign, assignment]
        lines = [json.loads(line) for line in paths.journal.read_text().splitlines()]
        if Counter(line["id"] for line in lines) != Counter(dict.fromkeys(plan.distinct_ids, 1)):
            wrong.append(f"the journal has {len(lines)} lines for {ITEMS} items")
        if others := [line["reason"] for line in lines if line["state"] != "upsampled"]:
            wrong.append(f"not upsampled: {others}")

    def table(self) -> str:
        rows = [f"{name:<14}{count:>6}" for name, count in sorted(self.done.items())]
        asked = sorted(count for twice, runs in self.twice.items() for count in [twice] * runs)
        middle = f"asked twice a run: median {asked[len(asked) // 2]}, most {asked[-1]} of {ITEMS}" if asked else ""
        return "\n".join([*rows, f"{len(asked)} runs, {len(self.violations)} with violations", middle])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    given = parser.parse_args()
    fleet.RETRY_S = supervisor.QUEUE_POLL_S = 0.5
    log.configure(Console(quiet=True), None, "error")
    chaos = Chaos(given.seed)
    print(f"--seed {given.seed}", flush=True)
    try:
        for number in range(given.first, given.first + given.runs):
            chaos.run(number)
    finally:
        print(chaos.table(), flush=True)
    if not chaos.violations:
        shutil.rmtree(chaos.base, ignore_errors=True)
    return bool(chaos.violations)


if __name__ == "__main__":
    sys.exit(main())
