"""Files over SSH against `rsync -a`, to a real sshd on the loopback, as it is and 20 ms of round trip away.

Needs root, sshd and rsync; without them it says so. The proxy that makes the line long is a process of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Row, shown
from src.hosts import transfer
from src.hosts.ssh import SshHost
from src.planning.settings import HostSettings
from tests.harness import sshd

ROOT = Path(__file__).resolve().parent.parent
DELAY_S = 0.010  # each way
RUNS = 3
# kind -> (files, bytes of each, goal up, goal down)
KINDS = {"1,000 files of 30 kB": (1000, 30_000, 0.7, 0.8), "one file of 200 MB": (1, 200_000_000, 0.8, 1.1)}


def rows() -> list[Row]:
    why = sshd.missing() or ("" if shutil.which("rsync") else "no rsync here")
    if why:
        print(f"transfer is left out: {why}")
        return []
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = sshd.Sshd(folder / "sshd")
        try:
            with _proxy(server.port) as far:
                for line, port in (("loopback", server.port), ("20 ms away", far)):
                    for kind, (count, size, up, down) in KINDS.items():
                        table += _compare(folder, server, port, f"{kind}, {line}", count, size, up, down)
        finally:
            server.kill()
    return table


@contextmanager
def _proxy(target: int) -> Iterator[int]:
    code = (
        "import sys, time; from tests.harness.proxy import Proxy; "
        "print(Proxy(int(sys.argv[1]), float(sys.argv[2])).port, flush=True); time.sleep(1e6)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(target), str(DELAY_S)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def _compare(
    folder: Path, server: sshd.Sshd, port: int, what: str, count: int, size: int, goal_up: float, goal_down: float
) -> list[Row]:
    here = folder / "here"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    files = {f"{n}.bin": here / f"{n}.bin" for n in range(count)}
    for path in files.values():
        path.write_bytes(os.urandom(size))
    known = folder / "known_hosts"
    known.write_text(server.known_hosts_line.replace(str(server.port), str(port)))
    host = SshHost(
        HostSettings(
            "bench", "ssh", "127.0.0.1", "root", port, str(server.key), "", str(known), "", (), "none", 60.0, False
        )
    )
    host.run(("true",))  # connected before the clock starts; rsync opens a connection of its own each time
    remote = f"ssh -p {port} -i {server.key} -o UserKnownHostsFile={known} -o LogLevel=ERROR"
    there, back = folder / "there", folder / "back"
    sizes = {name: file.stat().st_size for name, file in files.items()}

    def rsync(source: str, target: str) -> None:
        subprocess.run(["rsync", "-a", "-e", remote, source, target], check=True)

    try:
        ours_up = _seconds(lambda: transfer.send(host, files, str(there), "bench"), there, is_there=True)
        ours_down = _seconds(lambda: transfer.fetch(host, str(here), sizes, back), back)
    finally:
        host.close()
    theirs_up = _seconds(lambda: rsync(f"{here}/", f"root@127.0.0.1:{there}/"), there)
    theirs_down = _seconds(lambda: rsync(f"root@127.0.0.1:{here}/", f"{back}/"), back)
    opening = _seconds(lambda: subprocess.run([*remote.split(), "root@127.0.0.1", "true"], check=True), there)
    times = f"{{}} / {{}} (of which {shown(opening)} for its connection)"
    return [
        Row(f"up, {what}", "rsync -a", ours_up / theirs_up, f"≤ {goal_up}", ours_up / theirs_up <= goal_up,
            times.format(shown(ours_up), shown(theirs_up))),
        Row(f"down, {what}", "rsync -a", ours_down / theirs_down, f"≤ {goal_down}", ours_down / theirs_down <= goal_down,
            times.format(shown(ours_down), shown(theirs_down))),
    ]  # fmt: skip


def _seconds(work: Callable[[], object], target: Path, *, is_there: bool = False) -> float:
    """Median seconds of `work` into a folder that is not there yet, or is empty."""
    times = []
    for _ in range(RUNS):
        shutil.rmtree(target, ignore_errors=True)
        if is_there:
            target.mkdir()
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
