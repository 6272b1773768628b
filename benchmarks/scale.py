"""What a run costs an item as lists grow: CPU of the controller by phase, memory, files, syncs, and the waits of a user.

    python -m benchmarks scale                                     1,000, 10,000 and 100,000 items over 7 clips
    python -m benchmarks.scale --items 1000000 [--clips 1000] [--folder /dev/shm] [--engine offline]
                               [--resume] [--stop] [--override KEY=VALUE ...]

The program runs as a user starts it, in a process that counts its fsync calls; it is watched from outside, through /proc. Its
worker is another process, whose CPU is shown apart. Answers come from a simulated server, in a process of its own, that
is faster than any worker; hints are small, so that what the worker sends does not set the pace.
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
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Row, shown
from benchmarks.window import Cell, server_of

CLIPS = Path("examples/clips")
SENTENCE = "a slow pan over wet streets at night with neon light on glass while people walk home under umbrellas"
PHASES = ("plan", "first batch", "answers", "end")
COUNTS = (1_000, 10_000, 100_000)
FAST = Cell("fast", {"best": 64, "tokens": 4, "step_ms": 1.0, "request_ms": 0.0, "prefill_ms": 0.0})
SMALL = ("upsample.width_px=64",)
STOPS = {"plan": 10.0, "answers": 20.0, "end": 15.0}  # seconds after the beginning of a phase until it is interrupted
# Runs the program with its fsync calls counted; the counts go into a file at its end.
COUNTED = """
import atexit, json, os, runpy, sys
file, counts, real = sys.argv.pop(1), {"syncs": 0}, os.fsync
def fsync(fd):
    counts["syncs"] += 1
    return real(fd)
os.fsync = fsync
atexit.register(lambda: open(file, "w").write(json.dumps(counts)))
sys.argv[0] = "src.run"
runpy.run_module("src.run", run_name="__main__", alter_sys=True)
"""


@dataclass
class Run:
    """One run as seen from outside. wall_s and cpu_s: by phase; peak_mb: of the controller's memory; worker_s: CPU of the
    worker; stopped_s: from a signal to the end of the process, NaN where its phase was over before."""

    items: int
    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    files: int = 0
    megabytes: float = 0.0
    syncs: int = 0
    worker_s: float = 0.0
    stopped_s: float = float("nan")

    @property
    def cpu_ms_an_item(self) -> float:
        return 1e3 * sum(self.cpu_s.values()) / self.items

    def lines(self) -> Iterator[str]:
        for phase in self.wall_s:
            yield self._line(phase, self.wall_s[phase], self.cpu_s[phase])
        yield self._line("in all", sum(self.wall_s.values()), sum(self.cpu_s.values()))
        yield self._line("worker", self.wall_s.get("answers", 0.0), self.worker_s)
        yield f"{self.peak_mb:.0f} MB of memory, {self.files:,} files of {self.megabytes:.0f} MB, {self.syncs:,} syncs"

    def _line(self, name: str, wall_s: float, cpu_s: float) -> str:
        return f"{name:<12} {wall_s:8.1f} s  {cpu_s:8.1f} s of CPU  {1e3 * cpu_s / self.items:6.3f} ms of CPU an item"


def rows() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        runs = {count: measure(Path(folder), count, 7) for count in COUNTS}
        again = measure(Path(folder), COUNTS[-1], 7, resume=True)
        stops = dict(stopped(Path(folder), COUNTS[-1], 7))
    large, base = runs[COUNTS[-1]], runs[COUNTS[1]]
    growth = sum(large.cpu_s.values()) / sum(base.cpu_s.values())
    return [
        _row(f"CPU ms an item at {large.items:,}", "0.5 ms", large.cpu_ms_an_item, 0.5, large),
        _row(f"memory in MB at {large.items:,}", "400 MB", large.peak_mb, 400, large),
        _row("plan to first staged batch", "10 s", large.wall_s["first batch"], 10, large),
        _row("last answer to the end", "30 s", large.wall_s["end"], 30, large),
        _row(f"CPU at {large.items:,}", f"11 times that at {base.items:,}", growth, 11, large),
        _row("CPU seconds of a resume of a finished run", "20 s", sum(again.cpu_s.values()), 20, again),
        *(_row(f"{name}, seconds to the end", "5 s", run.stopped_s, 5, run) for name, run in stops.items()),
    ]


def _row(what: str, against: str, value: float, goal: float, run: Run) -> Row:
    return Row(
        what, against, value / goal, "≤ 1", value <= goal, f"{value:.3g}; {shown(sum(run.wall_s.values()))} in all"
    )


@contextmanager
def overrides_for(engine: str) -> Iterator[list[str]]:
    """The overrides of a run with this engine, whose server runs within the block."""
    with server_of(FAST) if engine == "endpoint" else nullcontext() as url:
        yield [f"engine={engine}", *([f"engine.base_url={url}/v1", *SMALL] if url else [])]


def measure(
    folder: Path,
    count: int,
    clips: int,
    overrides: Sequence[str] = (),
    *,
    engine: str = "endpoint",
    resume: bool = False,
) -> Run:
    """Run `count` items to their end below a folder, or resume such a run that has ended, and watch it."""
    if resume:
        return _measured(folder, count, clips, None)
    with overrides_for(engine) as needed:
        return _measured(folder, count, clips, [*needed, *overrides])


def stopped(
    folder: Path, count: int, clips: int, overrides: Sequence[str] = (), engine: str = "endpoint"
) -> Iterator[tuple[str, Run]]:
    """A run that is interrupted in each of STOPS, by Ctrl-C and by SIGTERM, and resumed each time."""
    given: Sequence[str] | None
    with overrides_for(engine) as needed:
        given = [*needed, *overrides]
        for phase in STOPS:
            for which in (signal.SIGINT, signal.SIGTERM):
                yield f"{which.name} in {phase}", _measured(folder, count, clips, given, (phase, which))
                given = None if phase != PHASES[0] else given


def _measured(
    folder: Path,
    count: int,
    clips: int,
    overrides: Sequence[str] | None,
    stop: tuple[str, signal.Signals] | None = None,
) -> Run:
    """A run that begins, or goes on where there are no overrides. stop: the phase that is interrupted, and how."""
    out = folder / f"run-{count}-{clips}"
    if overrides is None:
        arguments = [f'resume="{out}"']
    else:
        shutil.rmtree(out, ignore_errors=True)
        _counted.clear()
        prompts = prompts_file(folder, count, clips)
        arguments = [f'prompts="{prompts}"', f'hydra.run.dir="{out}"', f'cache_dir="{folder / "cache"}"', *overrides]
    counts = folder / "counts.json"
    counts.unlink(missing_ok=True)
    with open(folder / "console.log", "w") as console:
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTED, str(counts), *arguments], stdout=console, stderr=console
        )
        run = _watch(process, out, count, stop)
    if process.returncode not in (0, 3) and not stop:
        raise RuntimeError(f"exit code {process.returncode}: {(folder / 'console.log').read_text()[-2000:]}")
    run.syncs = json.loads(counts.read_text())["syncs"] if counts.exists() else 0
    files = [Path(parent, name) for parent, _, names in os.walk(out) for name in names]
    run.files, run.megabytes = len(files), sum(file.stat().st_size for file in files) / 1e6
    return run


def prompts_file(folder: Path, count: int, clips: int) -> Path:
    """A file of distinct prompts of 60 words over so many clips; beyond the bundled ones, copies that differ in their tail."""
    chance = random.Random(count)
    bundled = sorted(path.resolve() for path in CLIPS.iterdir())
    paths = [*bundled[:clips]]
    for n in range(len(bundled), clips):
        copy = folder / "clips" / f"{n}-{bundled[n % len(bundled)].name}"
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            # A free box at the end of an MP4 changes its content hash, and nothing that is seen.
            copy.write_bytes(
                bundled[n % len(bundled)].read_bytes() + (16).to_bytes(4, "big") + b"free" + n.to_bytes(8, "big")
            )
        paths.append(copy)
    file = folder / f"{count}-{clips}.jsonl"
    with open(file, "w") as f:
        for n in range(count):
            prompt = " ".join(chance.choices(SENTENCE.split(" "), k=60))
            item = {"name": f"item-{n}", "prompt": f"{prompt} {n}", "video_path": str(paths[n % len(paths)])}
            f.write(json.dumps(item) + "\n")
    return file


def _watch(process: subprocess.Popen[bytes], out: Path, count: int, stop: tuple[str, signal.Signals] | None) -> Run:
    """Follow a process until it ends; a phase ends when its file is there, or when the journal has all items."""
    run, phase, asked, phases = Run(count), 0, 0.0, PHASES
    began, cpu_before, cpu = time.monotonic(), 0.0, 0.0
    while True:
        ended = process.poll() is not None
        if not ended:
            cpu, run.worker_s = _cpu_s(process.pid) or (cpu, run.worker_s)
            run.peak_mb = max(run.peak_mb, _peak_mb(process.pid))
        while phase < len(phases) and (ended or (phase < len(phases) - 1 and _is_over(phases[phase], out, count))):
            now = time.monotonic()
            run.wall_s[phases[phase]], run.cpu_s[phases[phase]] = now - began, cpu - cpu_before
            began, cpu_before, phase = now, cpu, phase + 1
        if ended:
            run.stopped_s = time.monotonic() - asked if asked else float("nan")
            return run
        if stop and not asked and phases[phase] == stop[0] and time.monotonic() - began > STOPS[stop[0]]:
            asked = time.monotonic()
            process.send_signal(stop[1])
        time.sleep(0.05)


def _is_over(phase: str, out: Path, count: int) -> bool:
    if phase == "plan":
        return (out / "plan.json").exists()
    if phase == "first batch":
        return any(out.glob("job/*/batches/*.jsonl"))
    return _lines(out / "journal.jsonl") >= count


_counted: dict[Path, tuple[int, int]] = {}


def _lines(file: Path) -> int:
    """Lines of a growing file; only what is new is read."""
    at, lines = _counted.get(file, (0, 0))
    if not file.exists():
        return 0
    with open(file, "rb") as f:
        f.seek(at)
        new = f.read()
    _counted[file] = at + len(new), lines + new.count(b"\n")
    return _counted[file][1]


def _cpu_s(pid: int) -> tuple[float, float] | None:
    """Of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    own, children = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return own / os.sysconf("SC_CLK_TCK"), children / os.sysconf("SC_CLK_TCK")


def _peak_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


@contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=given) as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--clips", type=int, default=7)
    parser.add_argument("--folder", help="where the run and its cache go: /dev/shm for memory")
    parser.add_argument("--engine", default="endpoint")
    parser.add_argument("--resume", action="store_true", help="resume the run after its end, too")
    parser.add_argument("--stop", action="store_true", help="interrupt it in each phase instead")
    parser.add_argument("--override", action="append", default=[], help="further overrides, such as upsample=head_2")
    arguments = parser.parse_args()
    with _folder(arguments.folder) as folder:
        given, engine = (folder, arguments.items, arguments.clips, arguments.override), arguments.engine
        if arguments.stop:
            for name, run in stopped(*given, engine=engine):
                print(f"{name}: {run.stopped_s:.1f} s", flush=True)
            return
        print(*measure(*given, engine=engine).lines(), sep="\n", flush=True)
        if arguments.resume:
            print("resumed after its end:")
            print(*measure(folder, arguments.items, arguments.clips, resume=True).lines(), sep="\n")


if __name__ == "__main__":
    main()
