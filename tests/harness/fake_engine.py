"""A fake engine for the worker, and workers that run with it in this process or in a forked one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from src.worker import lifecycle
from src.worker.engines.engine import Answer, Request
from src.worker.journal import write_json
from src.worker.protocol import Item, UpsampleJob
from src.worker.records import from_line
from src.worker.upsample import Worker
from src.worker.window import Window
from tests.harness.records import JOB, journal_lines, write_lines

Answering = Callable[[Request], Answer]


def reply(text: str, finish_reason: str = "stop", prompt_tokens: int | None = None) -> Answer:
    """An answer of one token per character."""
    return Answer(text, finish_reason, prompt_tokens, len(text))


def distinct_reply(request: Request) -> Answer:
    """A different answer for each item."""
    return reply(f"A long and faithful prompt for {request.item.id}.")


class FakeEngine:
    """Answers with the result of a function and records each request."""

    name, version = "fake", "1"

    def __init__(
        self, answering: Answering = distinct_reply, concurrency: int = 1, load: Callable[[], None] = lambda: None
    ) -> None:
        self.answering, self._load = answering, load
        self.window, self.signals = Window(concurrency, "fixed", is_fixed=True), None
        self.fallbacks: list[str] = []
        self.requests: list[Request] = []
        self.closed = 0

    def load(self, phase: Callable[..., None]) -> None:
        self._load()

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answering(request)

    def close(self) -> None:
        self.closed += 1

    @property
    def asked(self) -> list[str]:
        """Ids of the items that were asked, in order."""
        return [request.item.id for request in self.requests]


def write_job(folder: Path, job: UpsampleJob = JOB) -> None:
    write_json(folder / "job.json", job)


def stage(folder: Path, items: Iterable[Item], name: str = "00000", *, closed: bool = True) -> None:
    """Add a batch to a job folder, and close the job unless more will come."""
    write_lines(folder / "batches" / f"{name}.jsonl", items)
    if closed:
        (folder / "closed").touch()


def prepare_with(engine: FakeEngine) -> Callable[[Path, lifecycle.Control], Worker]:
    """What a worker with this engine does with its job folder."""

    def prepare(folder: Path, control: lifecycle.Control) -> Worker:
        return Worker(folder, from_line(UpsampleJob, (folder / "job.json").read_bytes()), engine, control)

    return prepare


def serve(folder: Path, engine: FakeEngine) -> int:
    """Run a worker in this process; returns its exit code."""
    return lifecycle.run(folder, prepare_with(engine))


def results(folder: Path) -> list[dict[str, Any]]:
    return journal_lines(folder / "results.jsonl")


def only_result(folder: Path) -> dict[str, Any]:
    [result] = results(folder)
    return result


def exit_record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "exit.json").read_text())
    return record


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.002)


class Child:
    """A worker in a forked process, with an engine of this one."""

    def __init__(self, folder: Path, engine: FakeEngine) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
            code = 99
            with contextlib.suppress(BaseException):
                code = serve(folder, engine)
            os._exit(code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
