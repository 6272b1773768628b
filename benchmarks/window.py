"""The window that finds itself against the best fixed one, on a simulated engine; and what a request costs the worker.

    python -m benchmarks window                     # all cells, an hour
    python -m benchmarks.window 30 "64 thrashing"   # 30 s of the cells with these names

Each cell is a server whose best number in flight is known. What is compared is the answers of `engine.in_flight=auto`
within the seconds of a cell with those of the best fixed window: as a whole, and after the first 20 s. With SATURATE
naming an interpreter that has saturate 0.2.0, in an environment of its own, that client runs on each cell too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.engines import ROOT, engine_settings, model_settings, stage, write_job
from benchmarks.measure import Row
from src.worker.protocol import AUTO, Item
from src.worker.window import queue_of

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cell:
    """A server and what is sent to it. shape: of its engine. server: further arguments. frame_bytes: of each of two frames,
    0: none."""

    name: str
    shape: dict[str, Any]
    server: tuple[str, ...] = ()
    frame_bytes: int = 0


@dataclass(frozen=True)
class Ran:
    """What came of a client on a cell. done_at: seconds of each answer after the first request. late_s: how far the server
    fell behind the engine that it plays. windows: time, size and reason."""

    done_at: list[float]
    late_s: float
    windows: list[tuple[float, int, str]] = field(default_factory=list)

    def answers(self, since_s: float, until_s: float) -> int:
        return sum(since_s <= at < until_s for at in self.done_at)


CELLS = (
    *(
        Cell(f"{best} {queue}", {"best": best, "queue": queue})
        for best in (16, 64, 300)
        for queue in ("unbounded", "bounded", "thrashing")
    ),
    Cell("64 without metrics", {"best": 64}, ("--no-metrics",)),
    Cell("300 without metrics", {"best": 300}, ("--no-metrics",)),
    Cell("64 bounded, Retry-After", {"best": 64, "queue": "bounded"}, ("--retry-after", "1")),
    Cell("64, KV cache nearly full", {"best": 64, "kv_at_full": 0.95}),
    Cell("64 thrashing, KV cache named too large", {"best": 64, "queue": "thrashing"}, ("--kv-tokens", "100000")),
    Cell("64, an event a token", {"best": 64, "chunk": 1}),
    Cell("300 without metrics, an event a token", {"best": 300, "chunk": 1}, ("--no-metrics",)),
    Cell("64 with frames", {"best": 64}, frame_bytes=40_000),
)
# What a request costs: a fast engine, and a busy one that sends an event a token.
TEXT = Cell("text", {"best": 64, "tokens": 30, "step_ms": 5.0, "request_ms": 0.02, "prefill_ms": 0.1})
FRAMES = replace(TEXT, name="two frames of 40 KB", frame_bytes=40_000)
TOKENS = Cell("an event a token", {"best": 512, "tokens": 300, "chunk": 1, "step_ms": 20.0, "prefill_ms": 0.1})


def rows() -> list[Row]:
    return [*(row for cell in CELLS for row in cell_rows(cell, 60.0)), *cost_rows()]


def cell_rows(cell: Cell, seconds: float) -> list[Row]:
    """One cell: the best fixed window, the one that finds itself and, where there is one, saturate; one after another."""
    best = cell.shape["best"]
    extra = 0 if cell.shape.get("queue") == "thrashing" else queue_of(best)
    fixed, auto = (run_worker(cell, in_flight, seconds) for in_flight in (best + extra, AUTO))
    shares = [auto.answers(since, seconds) / max(1, fixed.answers(since, seconds)) for since in (0.0, 20.0)]
    slow = f", server late by {max(fixed.late_s, auto.late_s):.1f} s" if max(fixed.late_s, auto.late_s) > 1 else ""
    times = f"{auto.answers(0, seconds)} / {fixed.answers(0, seconds)} answers in {seconds:.0f} s{slow}"
    against = f"fixed at {best + extra}"
    table = [
        Row(cell.name, against, shares[0], "≥ 0.95", shares[0] >= 0.95, times),
        Row(f"{cell.name}, after 20 s", against, shares[1], "≥ 0.98", shares[1] >= 0.98, last_window(auto)),
    ]
    if python := os.environ.get("SATURATE"):
        other = run_saturate(cell, python, seconds)
        ratio = auto.answers(0, seconds) / max(1, other.answers(0, seconds))
        times = f"{auto.answers(0, seconds)} / {other.answers(0, seconds)} answers"
        table.append(Row(cell.name, "saturate 0.2.0", ratio, "≥ 1", ratio >= 1, times))
    return table


def last_window(ran: Ran) -> str:
    return f"at last {ran.windows[-1][1]}: {ran.windows[-1][2]}" if ran.windows else ""


def cost_rows() -> list[Row]:
    """CPU of the worker, against the goal of 0.5 ms a request and 5 us a token. Not a ratio of two programs: the share of a
    core is what a busy machine changes least."""
    table = []
    for cell, in_flight in ((TEXT, 72), (FRAMES, 72), (TOKENS, 512)):
        answers, tokens, cpu_s = cost(cell, in_flight)
        goal_s = 0.0005 * answers + 5e-6 * tokens
        each = f"{1000 * cpu_s / answers:.2f} ms an answer of {tokens / answers:.0f} tokens"
        met = None if cell is FRAMES else cpu_s <= goal_s
        table.append(Row(f"worker's CPU, {cell.name}", "0.5 ms + 5 µs a token", cpu_s / goal_s, "≤ 1", met, each))
    return table


@contextmanager
def server_of(cell: Cell) -> Iterator[str]:
    argv = [sys.executable, "-m", "benchmarks.simulated_server", json.dumps(cell.shape), *cell.server]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def items_of(cell: Cell, count: int) -> list[Item]:
    frames = ("frames/0.png", "frames/1.png") if cell.frame_bytes else ()
    return [
        Item(
            id=str(n), step=0, prompt=f"prompt {n}", text=f"prompt number {n}: a boat", system="", frames=frames,
            predicted=12, max_tokens=4000, seed=n, note="",
        )
        for n in range(count)
    ]  # fmt: skip


@contextmanager
def worker_of(cell: Cell, in_flight: int, url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with more items than it can answer, from its first request on."""
    (folder / "frames").mkdir()
    for n in range(2):
        (folder / "frames" / f"{n}.png").write_bytes(os.urandom(cell.frame_bytes))
    engine = replace(engine_settings("endpoint", f"{url}/v1"), in_flight=in_flight)
    worker = write_job(folder, engine, model_settings("tiny"))
    stage(folder, 0, items_of(cell, 100_000))
    process = subprocess.Popen([sys.executable, worker, str(folder)])
    try:
        wait_for_first(url, process)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_first(url: str, process: subprocess.Popen[bytes]) -> None:
    while not stats_of(url)["first"]:
        if process.poll() is not None:
            raise RuntimeError(f"the client ended with {process.returncode}")
        time.sleep(0.05)


def run_worker(cell: Cell, in_flight: int, seconds: float) -> Ran:
    """The worker on a fresh server, for so many seconds."""
    with tempfile.TemporaryDirectory() as name, server_of(cell) as url:
        folder = Path(name)
        with worker_of(cell, in_flight, url, folder):
            time.sleep(seconds)
            stats = stats_of(url)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        traced = [event for event in events if event["event"] == "window"]
        windows = [(round(e["time"] - stats["first"], 2), e["window"], e.get("reason", "")) for e in traced]
        return Ran(stats["done_at"], stats["late_s"], windows)


def cost(cell: Cell, in_flight: int, warm_s: float = 6.0, seconds: float = 12.0) -> tuple[int, int, float]:
    """Answers, tokens and CPU seconds of a worker that has been running for a while."""
    folder = tempfile.TemporaryDirectory()
    with folder as name, server_of(cell) as url, worker_of(cell, in_flight, url, Path(name)) as process:
        time.sleep(warm_s * (3 if cell is TOKENS else 1))
        before, cpu_before = stats_of(url), cpu_of(process.pid)
        time.sleep(seconds)
        after, cpu_s = stats_of(url), cpu_of(process.pid) - cpu_before
    return len(after["done_at"]) - len(before["done_at"]), after["generated"] - before["generated"], cpu_s


_SATURATE = """
import base64, os, sys
from saturate import Auto, pump
url, out, frame_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3])
image = "data:image/png;base64," + base64.b64encode(os.urandom(frame_bytes)).decode()
def body(row):
    parts = [{"type": "image_url", "image_url": {"url": image}}] * 2 + [{"type": "text", "text": row["text"]}]
    content = parts if frame_bytes else row["text"]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 4000}
pump(({"text": f"prompt number {n}: a boat"} for n in range(100_000)), body,
     lambda row, answer: {"text": answer["choices"][0]["message"]["content"]}, url + "/v1", out, window=Auto())
"""


def run_saturate(cell: Cell, python: str, seconds: float) -> Ran:
    """saturate as it comes on a fresh server, for so many seconds."""
    with tempfile.TemporaryDirectory() as name, server_of(cell) as url:
        argv = [python, "-c", _SATURATE, url, f"{name}/out", str(cell.frame_bytes)]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_first(url, process)
            time.sleep(seconds)
            stats = stats_of(url)
        finally:
            process.kill()
            process.wait()
    return Ran(stats["done_at"], stats["late_s"])


def stats_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stats") as response:
        stats: dict[str, Any] = json.load(response)
    return stats


def cpu_of(pid: int) -> float:
    """CPU seconds that a living process and its threads have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main(seconds: float, names: list[str]) -> None:
    for row in (row for cell in CELLS if cell.name in names or not names for row in cell_rows(cell, seconds)):
        print(f"{row.what} | {row.against} | {row.ratio:.3f} | {row.goal} | {row.met} | {row.times}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
