"""Runs on a real Ray of this machine: an actor and a controller are killed, and nothing is lost or asked in vain."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.worker.processes import free_port
from tests.harness.openai_server import FakeOpenAI, counted_by_frames, text_of
from tests.harness.processes import command_lines, wait_for_build
from tests.harness.program import Ended, Program, journal_ids, plan_of, quoted, results_of, start, wait_for
from tests.harness.remote import QUIET, take

ITEMS = 48
PATIENCE_S = 300.0  # Ray takes long to start on a busy machine


class RayRun:
    """A run of prompts over a few clips, with a server that answers, refuses wide frames, and keeps what it was asked."""

    def __init__(self, folder: Path, common: tuple[str, ...], clips: Path) -> None:
        self.folder, self.run, self.server = folder, folder / "run", FakeOpenAI(0.01)
        self.server.count = lambda body: self._tokens()[text_of(body)]
        prompts = folder / "prompts.json"
        prompts.write_text(json.dumps([take(n, clips) for n in range(ITEMS)]))
        self._planned: dict[str, int] = {}
        self._programs: list[Program] = []
        self.overrides = (
            *common, *QUIET, f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(self.run)}", "host=ray", "reuse=false",
            "engine=endpoint", f"engine.base_url={self.server.url}", "engine.in_flight=2", "budget.max_batch_size=4",
        )  # fmt: skip

    def _tokens(self) -> dict[str, int]:
        self._planned = self._planned or {i["text"]: i["tokens"]["prompt"] for i in plan_of(self.run)["items"]}
        return self._planned

    def _started(self, *overrides: str) -> Program:
        self._programs.append(program := start(*overrides, cwd=self.folder, fresh=True))
        return program

    def start(self, *overrides: str) -> Program:
        return self._started(*self.overrides, *overrides)

    def resume(self) -> Program:
        return self._started(f"resume={quoted(self.run)}")

    def actors(self) -> list[int]:
        return [pid for pid, words in command_lines() if b"MapBatches(Worker)" in words[0]]

    def workers(self) -> list[int]:
        return [pid for pid, words in command_lines() if len(words) > 1 and words[1].endswith(b"worker.pyz")
                and b"/upsample-" in words[1]]  # fmt: skip

    def assert_whole(self, end: Ended) -> None:
        assert end.code == 0, end.err
        assert not re.search("raylet|core_worker|Deprecation|Traceback", end.out + end.err)
        assert {row["state"] for row in results_of(self.run)} == {"upsampled"}
        assert Counter(journal_ids(self.run)) == Counter(item["id"] for item in plan_of(self.run)["items"])
        assert all(row["frames"] for row in results_of(self.run))
        wait_for(lambda: not self.workers())

    def close(self) -> None:
        self.server.close()
        for program in self._programs:
            program.kill()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def ray() -> None:
    wait_for_build("RAY_BUILD_PID")
    importlib.invalidate_caches()
    pytest.importorskip("ray.data", reason="no ray here: pip install .[ray]")


@pytest.fixture(scope="module")
def cluster(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a cluster of one node, without tokens, which several runs share."""
    port = free_port()
    argv = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--port={port}", "--num-cpus=2"),
        *("--include-dashboard=false", "--disable-usage-stats"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with open(tmp_path_factory.mktemp("ray") / "log", "wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        yield port
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)


@pytest.fixture
def on_own_ray(ray: None, tmp_path: Path, common: tuple[str, ...], small: str, clips: Path) -> Iterator[RayRun]:
    """A run that starts a Ray of its own."""
    run = RayRun(tmp_path, (*common, f"model.tokenizer={quoted(small)}"), clips)
    yield run
    run.close()


@pytest.fixture
def on_ray(on_own_ray: RayRun, cluster: int) -> RayRun:
    """A run on the cluster."""
    wait_for(lambda: is_open(cluster), PATIENCE_S)
    on_own_ray.overrides = (*on_own_ray.overrides, "host.address=127.0.0.1", f"host.port={cluster}")
    return on_own_ray


def test_lost_actor_is_replaced(on_ray: RayRun) -> None:
    on_ray.server.allow(12)
    process = on_ray.start("host.workers=2", "host.workers_min=2")
    wait_for(lambda: len(on_ray.server.asked) == 12 and len(on_ray.workers()) == 2, PATIENCE_S)
    lost, worker = on_ray.actors()[0], set(on_ray.workers())
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: len(set(on_ray.workers()) & worker) == 1)  # its worker ends with it
    on_ray.server.allow(math.inf)
    on_ray.assert_whole(process.ended(PATIENCE_S))
    assert max(on_ray.server.times_asked().values()) <= 2


def test_killed_controller_is_resumed(on_ray: RayRun) -> None:
    process = on_ray.start()
    wait_for(lambda: len(journal_ids(on_ray.run)) >= 8, PATIENCE_S)
    process.kill()
    known = journal_ids(on_ray.run)
    wait_for(lambda: not on_ray.workers())
    again = on_ray.resume()
    wait_for(lambda: len(journal_ids(on_ray.run)) > len(known), PATIENCE_S)
    began = time.monotonic()
    again.interrupt()
    assert again.ended(PATIENCE_S).code == 130 and time.monotonic() - began < 10
    on_ray.assert_whole(on_ray.resume().ended(PATIENCE_S))
    texts = {item["id"]: item["text"] for item in plan_of(on_ray.run)["items"]}
    asked = on_ray.server.times_asked()
    assert {asked[texts[item_id]] for item_id in known} == {1}


def test_refused_items_come_again_smaller(on_own_ray: RayRun) -> None:
    on_own_ray.server.limit = 700
    on_own_ray.server.refusal = (
        "This model's maximum context length is {limit} tokens; your prompt contains {counted} input tokens"
    )
    texts: dict[str, int] = {}

    def count(body: dict[str, Any]) -> int:
        texts.update({i["text"]: i["tokens"]["text"] for i in plan_of(on_own_ray.run)["items"]} if not texts else {})
        return counted_by_frames(body, texts[text_of(body)])

    on_own_ray.server.count = count
    on_own_ray.assert_whole(on_own_ray.start().ended(PATIENCE_S))
    assert max(on_own_ray.server.times_asked().values()) == 2
