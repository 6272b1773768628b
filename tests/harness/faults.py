"""Faults that a run may meet, each with the places where it can happen; `campaign` draws from them."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.harness.docked import Docked
from tests.harness.gathered import Clustered
from tests.harness.processes import command_lines
from tests.harness.program import Program, quoted
from tests.harness.remote import Remote

FAILING = Path(__file__).with_name("failing")
CALLS = {"write": 150, "fsync": 40, "replace": 25}  # about as many of each as a process of a small run makes
LOCAL, SSH, DOCKER, ENDPOINT, FLEET, SLURM = "local", "ssh", "docker", "endpoint", "fleet", "slurm"
PLACES = (LOCAL, SSH, DOCKER, ENDPOINT, FLEET, SLURM)


@dataclass
class Trial:
    """One run that is broken and resumed.

    damages: whether the fault may cost answers, which are then asked again. options: of the first start, as of
    `program.start`. happened: whether the fault took place at all.
    """

    random: random.Random
    remote: Remote
    place: str
    run: Path
    violations: list[str] = field(default_factory=list)
    damages: bool = False
    restore: Callable[[], object] | None = None
    limit_bytes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    happened: Callable[[], bool] = lambda: True

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        own = ("engine.grace_s=1",) if self.place in (LOCAL, ENDPOINT) else self.remote.host
        if self.place in (SSH, FLEET, SLURM):
            own = (*own, f"worker.python={quoted(self.python)}")
        if self.place == ENDPOINT:
            own = (*own, "engine.request_timeout_s=2", f"engine.patience_s={self.random.choice((0, 2, 60))}")
        return (
            f"prompts={quoted(self.remote.folder / 'prompts.json')}", f"hydra.run.dir={quoted(self.run)}",
            *self.remote.engine, *self.remote.common, f"host.workers={self.random.choice((1, 1, 2))}", *own, "host.gpus=none",
            "host.silent_s=4", f"engine.api_key_file={quoted(self.remote.folder.parent / 'key')}",
            "budget.max_batch_size=3", "reuse=false",
        )  # fmt: skip

    @property
    def python(self) -> Path:
        """The interpreter on the host, which may be told to fail."""
        return self.remote.folder.with_suffix(".python")

    def write_python(self, **variables: str) -> None:
        exports = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
        self.python.write_text(f'#!/bin/sh\n{exports}exec {sys.executable} "$@"\n')
        self.python.chmod(0o755)

    def workers(self) -> list[int]:
        ours = os.fsencode(self.remote.folder)
        return [
            pid
            for pid, words in command_lines()
            if any(w.startswith(ours) and w.endswith(b"worker.pyz") for w in words)
        ]

    def files(self) -> list[Path]:
        """The files of the run and the cache, here and on the host, that a disk may damage."""
        folders = (self.run, self.remote.folder / "cache", self.remote.root)
        found = (file for folder in folders for file in folder.rglob("*"))
        return sorted(f for f in found if f.is_file() and not f.is_symlink() and f.stat().st_size)


Fault = Callable[[Trial, Program], None]


def kill_controller(trial: Trial, program: Program) -> None:
    program.kill()


def interrupt_controller(trial: Trial, program: Program) -> None:
    program.interrupt()


def interrupt_controller_twice(trial: Trial, program: Program) -> None:
    program.interrupt()
    time.sleep(trial.random.random())
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


def lose_a_host(trial: Trial, program: Program) -> None:
    """Its link is down for good, or silent; its worker goes on."""
    lost = trial.random.choice(trial.remote._proxies)
    trial.random.choice((lost.close, lost.freeze))()


def restart_dockerd(trial: Trial, program: Program) -> None:
    assert isinstance(trial.remote, Docked)
    trial.remote.daemon.restart()


def requeue_jobs(trial: Trial, program: Program) -> None:
    assert isinstance(trial.remote, Clustered)
    trial.remote.slurm.run("scontrol", "requeue", ",".join(trial.remote.jobs_in_queue()))


def cancel_jobs(trial: Trial, program: Program) -> None:
    assert isinstance(trial.remote, Clustered)
    trial.remote.slurm.run("scancel", *trial.remote.jobs_in_queue())


def restart_slurmctld(trial: Trial, program: Program) -> None:
    assert isinstance(trial.remote, Clustered)
    trial.remote.slurm.restart(trial.random.uniform(0, 4))


# ------------------------------------------------------------------------------------------------ a server's replies


REPLIES = (
    (200, b"data: {"), (200, b"<html></html>"), (200, b'data: {"choices": 3}\n\ndata: [DONE]\n\n'), (503, b"busy"),
    (200, b'data: {"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'),
    (500, b"\xff\xfe"), (429, b'{"error": 3}'), (200, b""), (200, b"data: " + b"[" * 5000), (200, b"data: " + b"9" * 5000),
    (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n'), (418, b"\x00"), (200, b"data: [DONE]\n\n"),
    (200, b'data: {"choices": [{"delta": {"content": "  "}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'),
)  # fmt: skip
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


def _closes(handler: BaseHTTPRequestHandler) -> None:
    """Without a word."""


def _closes_in_its_body(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(HEAD + b"data: {")


def _drips(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(HEAD)
    for _ in range(50):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def _hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(5)


def _asks_to_wait(handler: BaseHTTPRequestHandler) -> None:
    value = random.choice((b"2", b"-1", b"nan", b"Wed, 21 Oct 2099 07:28:00 GMT", b"1e-3", b"\xff"))
    handler.wfile.write(b"HTTP/1.1 429 Full\r\nRetry-After: " + value + b"\r\nContent-Length: 0\r\n\r\n")


def _lies_about_its_length(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n")


WAYS = (_closes, _closes_in_its_body, _drips, _hangs, _asks_to_wait, _lies_about_its_length)


def spoil_replies(trial: Trial, program: Program) -> None:
    trial.remote.server.spoiled += [trial.random.choice(REPLIES) for _ in range(trial.random.randint(1, 6))]


def break_replies_off(trial: Trial, program: Program) -> None:
    trial.remote.server.spoiled += [trial.random.choice(WAYS) for _ in range(trial.random.randint(1, 6))]


def refuse_requests(trial: Trial, program: Program) -> None:
    trial.remote.server.busy_until = time.monotonic() + trial.random.uniform(0.5, 6)


# ------------------------------------------------------------------------------------------------ disks and files


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


def fill_disk(trial: Trial, program: Program) -> None:
    """It was started with a limit on the size of its files; see `prepare`."""


@dataclass(frozen=True)
class FailingCall:
    """The n-th call of a kind fails, once or from then on, small numbers as often as large ones. The run is started like that."""

    kind: str
    of_worker: bool

    def __call__(self, trial: Trial, program: Program) -> None: ...

    def prepare(self, trial: Trial) -> None:
        number = round(math.exp(trial.random.uniform(0, math.log(CALLS[self.kind])))) * trial.random.choice((1, -1))
        mark = trial.remote.folder.with_suffix(".failed")
        trial.happened = mark.exists
        variables = {
            "FAIL_CALL": f"{self.kind} {number} {trial.random.choice(('ENOSPC', 'EIO'))} {trial.remote.folder} {mark}",
            "FAIL_ROLE": "worker" if self.of_worker else "controller",
            "PYTHONPATH": str(FAILING),
        }
        if trial.place in (SSH, FLEET) and self.of_worker:
            trial.write_python(**variables)
        else:
            trial.env = variables


def prepare(trial: Trial, fault: Fault) -> None:
    """What must be done before the run starts."""
    trial.write_python()
    if trial.place == ENDPOINT and trial.random.random() < 0.5:
        trial.remote.server.spoiled += [trial.random.choice((*REPLIES, *WAYS)) for _ in range(3)]
    if fault is fill_disk:
        trial.limit_bytes = trial.random.randint(0, 40_000)
    elif isinstance(fault, FailingCall):
        fault.prepare(trial)


def acts_by_itself(fault: Fault) -> bool:
    return fault is fill_disk or isinstance(fault, FailingCall)


EVERYWHERE = (
    kill_controller, interrupt_controller, interrupt_controller_twice, terminate_controller, kill_worker, freeze_worker,
    terminate_worker, kill_both, spoil_replies, flip_a_byte, cut_a_file, fill_disk,
)  # fmt: skip
FAULTS: dict[Fault, tuple[str, ...]] = {
    **dict.fromkeys(EVERYWHERE, PLACES),
    **{FailingCall(kind, of_worker=False): PLACES for kind in CALLS},
    **{FailingCall(kind, of_worker=True): (LOCAL, SSH, FLEET, SLURM) for kind in CALLS},
    cut_link: (SSH, FLEET),
    lose_a_host: (FLEET,),
    restart_dockerd: (DOCKER,),
    **dict.fromkeys((requeue_jobs, cancel_jobs, restart_slurmctld), (SLURM,)),
    break_replies_off: (ENDPOINT,),
    refuse_requests: (ENDPOINT,),
}


def name_of(fault: Fault) -> str:
    if isinstance(fault, FailingCall):
        return f"n-th {fault.kind} of {'worker' if fault.of_worker else 'controller'}"
    return fault.__name__.replace("_", " ")
