"""Engine `vllm`: fallbacks while loading, restarts, requests that kill it. The server is a fake with the same interface."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.worker.engines import child_server, vllm
from src.worker.engines.child_server import with_room
from src.worker.engines.engine import Answer, ItemFailed, Refused, Request
from src.worker.engines.vllm import VllmEngine
from src.worker.engines.vllm_server import Server
from src.worker.lifecycle import LoadFailed
from src.worker.processes import _group_members
from src.worker.protocol import AUTO
from src.worker.signals import Signals
from tests.harness.records import ENGINE, JOB, MODEL, item

# Answers /health and requests. A prompt "deadly" ends it; "deadly once" only while the file `deadly` exists. For "greedy",
# memory runs out while the file `greedy` exists.
SERVER = r"""
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True
    def do_GET(self):
        self.send(b"{}")
    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
        if text == "greedy" and os.path.exists("greedy"):
            os.unlink("greedy")
            self.send(b'{"error": {"message": "CUDA out of memory"}}', 500)
            return
        once = text == "deadly once" and os.path.exists("deadly")
        if once:
            os.unlink("deadly")
        if once or text == "deadly":
            print("EngineDeadError: the engine died", flush=True)
            os._exit(1)
        events = [{"choices": [{"delta": {"content": "a long boat"}, "finish_reason": "stop"}]},
                  {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]
        self.send(b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n")
    def send(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
OUT_OF_MEMORY = ("sh", "-c", "echo 'torch.OutOfMemoryError: CUDA out of memory'; exit 1")
Phases = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def phases() -> Phases:
    return []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., VllmEngine]]:
    """A function from a command, which may depend on what the server would be started with, to the engine."""
    made: list[VllmEngine] = []
    quick = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(seconds / 40))
    monkeypatch.setattr(child_server, "time", quick)
    monkeypatch.setattr(vllm, "vllm_build", lambda: ("0.32.0", False))
    monkeypatch.chdir(tmp_path)

    def engine(command: Callable[[Server], tuple[str, ...] | None] = lambda server: None, **fields: Any) -> VllmEngine:
        def argv(server: Server, port: int, version: str, **given: object) -> tuple[str, ...]:
            return command(server) or (sys.executable, "-I", "-S", "-c", SERVER, str(port))

        monkeypatch.setattr(vllm, "vllm_argv", argv)
        job = replace(JOB, model=replace(MODEL, checkpoint=str(tmp_path)), engine=replace(ENGINE, **fields))
        made.append(VllmEngine(job, tmp_path))
        return made[-1]

    yield engine
    for one in made:
        one.close()


def load(engine: VllmEngine, phases: Phases) -> VllmEngine:
    engine.load(lambda name, **facts: phases.append((name, facts)))
    return engine


def request(text: str, item_id: str = "a") -> Request:
    return Request(item(item_id, text=text), (), 1, 20)


# ----------------------------------------------------------------------------------------------------------- loading


def test_short_memory_is_answered_with_fallbacks(make: Callable[..., VllmEngine], phases: Phases) -> None:
    engine = make(lambda server: OUT_OF_MEMORY if server.gpu_memory_utilization > 0.75 else None)
    load(engine, phases)
    assert engine.fallbacks == ["gpu_memory_utilization=0.82", "gpu_memory_utilization=0.72"]
    assert phases == [("loading", {"fallback": f, "reason": "out of memory"}) for f in engine.fallbacks]
    assert engine.answer(request("a boat")).text == "a long boat"


def test_exhausted_fallbacks_are_listed(make: Callable[..., VllmEngine], phases: Phases) -> None:
    engine = make(lambda server: OUT_OF_MEMORY)
    with pytest.raises(
        LoadFailed, match=r"CUDA out of memory \(tried before: .*max_model_len=1835; .*max_num_seqs=1\)"
    ):
        load(engine, phases)


def test_other_failures_are_final(make: Callable[..., VllmEngine], phases: Phases) -> None:
    engine = make(lambda server: ("sh", "-c", "echo 'ValueError: no such architecture'; exit 3"))
    with pytest.raises(LoadFailed, match="ended with code 3: ValueError: no such architecture"):
        load(engine, phases)
    assert engine.fallbacks == [] and phases == []


def test_slow_server_is_given_up(
    make: Callable[..., VllmEngine], phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(lambda server: ("sh", "-c", "echo torch.compile takes long; sleep 60"))
    clock = SimpleNamespace(monotonic=lambda: 1e9 if phases else 0.0, sleep=lambda seconds: time.sleep(0.005))
    monkeypatch.setattr(child_server, "time", clock)  # it is much later once the server compiles
    with pytest.raises(LoadFailed, match=r"not healthy in time \(engine.start_timeout_s\): torch.compile takes long"):
        load(engine, phases)
    assert phases == [("compiling", {})]


def test_missing_checkpoint_is_named(make: Callable[..., VllmEngine], phases: Phases) -> None:
    engine = make()
    engine.settings = replace(engine.settings, checkpoint="/no/such/folder")
    with pytest.raises(LoadFailed, match=r"model\.checkpoint=/no/such/folder: there is no such folder"):
        load(engine, phases)


@pytest.mark.parametrize(
    ("in_flight", "kv_tokens", "size"), [(AUTO, 0, 68), (AUTO, 10**6, 68), (AUTO, 18_350, 10), (7, 0, 7)]
)
def test_window_starts_at_what_is_known(
    make: Callable[..., VllmEngine], in_flight: int, kv_tokens: int, size: int
) -> None:
    engine = make(in_flight=in_flight)
    page = "vllm:num_requests_running 0.0\nvllm:generation_tokens_total 0.0\n"
    engine.signals = Signals(lambda: f'{page}vllm:cache_config_info{{kv_cache_size_tokens="{kv_tokens}"}} 1.0')
    assert engine.window.size == size


# ----------------------------------------------------------------------------------------------------------- serving


def test_dead_server_is_restarted(make: Callable[..., VllmEngine], phases: Phases, tmp_path: Path) -> None:
    (tmp_path / "deadly").touch()
    engine = load(make(), phases)
    assert engine.answer(request("deadly once")).text == "a long boat"
    (restarting, facts), serving = phases
    assert (restarting, facts["restart"]) == ("restarting", 1)
    assert "EngineDeadError" in facts["reason"]
    assert serving == ("serving", {"restart": 1})


def test_deadly_item_fails_alone(make: Callable[..., VllmEngine], phases: Phases) -> None:
    engine = load(make(), phases)
    others: list[str] = []

    def ask_others() -> None:
        others.extend(engine.answer(request("a boat", f"b{n}")).text for n in range(20))

    thread = threading.Thread(target=ask_others)
    thread.start()
    with pytest.raises(ItemFailed, match="the engine died 3 times while this item was in flight, the last time alone"):
        engine.answer(request("deadly"))
    thread.join(20)
    assert others == ["a long boat"] * 20
    assert engine.restarts == 3


def test_memory_that_runs_out_is_no_death(make: Callable[..., VllmEngine], phases: Phases, tmp_path: Path) -> None:
    (tmp_path / "greedy").touch()
    engine = load(make(), phases)
    assert engine.answer(request("greedy")).text == "a long boat"
    assert engine.fallbacks == ["max_num_seqs=8"]
    assert [name for name, _ in phases] == ["restarting", "serving"]
    assert phases[0][1]["fallback"] == "max_num_seqs=8"


def test_close_ends_the_server(make: Callable[..., VllmEngine], phases: Phases, tmp_path: Path) -> None:
    engine = load(make(), phases)
    group = int((tmp_path / "server.pid").read_text())
    assert _group_members(group)
    engine.close()
    assert not _group_members(group)
    assert not (tmp_path / "server.pid").exists()


@pytest.mark.parametrize(
    ("finish", "output_tokens", "is_refused"), [("length", 19, True), ("length", 20, False), ("stop", 3, False)]
)
def test_answer_cut_before_its_limit_is_refused(finish: str, output_tokens: int, is_refused: bool) -> None:
    answer = Answer("a long", finish, 7, output_tokens)
    if is_refused:
        with pytest.raises(Refused, match="room for 19 of 20") as error:
            with_room(answer, request("a boat"))
        assert (error.value.kind, error.value.prompt_tokens, error.value.limit) == ("no_room", 7, 26)
    else:
        assert with_room(answer, request("a boat")) is answer
