"""The engines of the worker, against servers and packages small enough to hold in the hand.

The server here is a fake that speaks the OpenAI protocol, and NVIDIA's package is a stand-in with the same signature: its
weights and its GPU cannot be had where tests run. The real vLLM is in test_vllm.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from src.worker import upsample
from src.worker.checks import failed_check
from src.worker.engines.cosmos import CosmosEngine
from src.worker.engines.endpoint import EndpointEngine
from src.worker.engines.isolation import IsolationGate
from src.worker.engines.vllm import with_room
from src.worker.engines.vllm_server import next_fallback, vllm_argv, vllm_environment
from src.worker.processes import _group_members
from src.worker.protocol import Answer, Item, ItemFailed, LoadFailed, Picture, Refused, Request
from src.worker.refusals import classify, message_of

MODEL: dict[str, Any] = {
    "name": "pixtral", "checkpoint": "/models/it's", "dtype": "bfloat16", "load_format": "auto", "max_model_len": 4096,
    "max_num_seqs": 64, "gpu_memory_utilization": 0.92, "images": 2, "prefix_caching": True, "tensor_parallel_size": 2,
    "data_parallel_size": 1, "extra_args": ["--enforce-eager"],
}  # fmt: skip


def item(name: str = "a", **fields: Any) -> Item:
    known: dict[str, Any] = {
        "id": name, "prompt": "a boat", "text": "a boat", "system": "", "frames": (), "predicted": 7,
        "max_tokens": 20, "seed": 1, "step": 0, "note": "",
    }  # fmt: skip
    return Item(**known | fields)


def request(name: str = "a", **fields: Any) -> Request:
    return Request(item(name, **fields), (), 1, 20)


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("... your prompt contains 4687 input tokens ...", "too_long"),
        ("The decoder prompt (length 4685) plus the number of requested output tokens (300) is longer than the "
         "maximum model length of 4096", "too_long"),
        ("Prompt length of 4687 is longer than the maximum model length of 4096.", "too_long"),
        ("Token id 131073 is out of vocabulary", "tokenizer"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("ValueError: Free memory on device (10.1/22.3 GiB) on startup is less than desired", "out_of_memory"),
        ("ValueError: No available memory for the cache blocks.", "out_of_memory"),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", "engine_dead"),
        ("everything is fine", None),
    ],
)  # fmt: skip
def test_an_engines_complaint_is_recognised(text: str, kind: str | None) -> None:
    assert classify(text) == kind
    assert classify(json.dumps({"error": {"message": text}})) == kind


def test_the_sentence_is_taken_out_of_an_error_body() -> None:
    assert message_of('{"error": {"message": "too\\n long", "param": "x"}}') == "too long"
    assert message_of("<html>bad gateway</html>") == "<html>bad gateway</html>"


# -------------------------------------------------------------------------------------------------------- the command


def test_server_command_is_the_known_one() -> None:
    assert vllm_argv(MODEL, 8001, "0.32.0", cpu=False) == (
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", "/models/it's", "--served-model-name", "pixtral", "--host", "127.0.0.1", "--port", "8001",
        "--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral",
        "--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "64",
        "--gpu-memory-utilization", "0.92", "--limit-mm-per-prompt", '{"image": 2}', "--enable-prefix-caching",
        "--disable-uvicorn-access-log", "--enable-per-request-metrics", "--tensor-parallel-size", "2", "--enforce-eager",
    )  # fmt: skip


def test_old_versions_get_their_own_spelling_and_no_prefix_cache() -> None:
    argv = vllm_argv(MODEL, 1, "0.8.1", cpu=False)
    assert argv[argv.index("--limit-mm-per-prompt") + 1] == "image=2"
    assert "--no-enable-prefix-caching" in argv
    assert "--enable-prefix-caching" not in argv


def test_memory_ladder_ends_and_gives_up_one_thing_at_a_time() -> None:
    settings, rungs = dict(MODEL), []
    while (rung := next_fallback(settings, needed_len=1835)) is not None:
        assert len(rung) == 1
        settings |= rung
        rungs.append(next(iter(rung)))
    assert rungs == ["gpu_memory_utilization"] * 2 + ["max_model_len"] + ["max_num_seqs"] * 2
    assert settings["max_model_len"] == 1835
    assert settings["max_num_seqs"] == 2


def test_engine_processes_die_with_a_worker_that_is_killed() -> None:
    script = (
        "import subprocess, sys, time; from launchers import worker; "
        "engine = subprocess.Popen(['sleep', '300'], start_new_session=True); worker._guard(engine.pid); "
        "print(engine.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    assert _group_members(group)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while _group_members(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _group_members(group) == []


def test_who_must_be_alone_is_alone() -> None:
    gate, inside, seen = IsolationGate(), 0, []
    lock = threading.Lock()

    def pass_through(alone: bool) -> None:
        nonlocal inside
        with gate.passing(alone=alone):
            with lock:
                inside += 1
            time.sleep(0.005)
            with lock:
                if alone:
                    seen.append(inside)
                inside -= 1

    threads = [threading.Thread(target=pass_through, args=(n % 4 == 0,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert seen == [1] * 6


# -------------------------------------------------------------------------------------------------------- the endpoint


class FakeServer(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that answers from a script; a fake, not an engine."""

    protocol_version = "HTTP/1.1"
    script: ClassVar[list[tuple[int, dict[str, str], bytes]]] = []
    asked: ClassVar[list[dict[str, Any]]] = []
    headers_seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self._send(200, {}, json.dumps({"data": [{"id": "pixtral"}], "version": "0.0.fake"}).encode())

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.headers_seen.append(self.headers.get("Authorization"))
        status, headers, body = self.script.pop(0) if self.script else (200, {}, stream("a long boat", 7))
        self._send(status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def stream(text: str, prompt_tokens: int, finish: str = "stop", done: bool = True) -> bytes:
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"content": word + " "}}]} for word in text.split(" ")]
    events += [{"choices": [{"delta": {}, "finish_reason": finish}]}]
    events += [{"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": len(text.split())}}]
    lines = [f"data: {json.dumps(e)}\n\n" for e in events] + (["data: [DONE]\n\n"] if done else [])
    return "".join(lines).encode()


@pytest.fixture
def server() -> Iterator[str]:
    FakeServer.script, FakeServer.asked, FakeServer.headers_seen = [], [], []
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    httpd.shutdown()
    httpd.server_close()


def endpoint(url: str, monkeypatch: pytest.MonkeyPatch, **engine: Any) -> EndpointEngine:
    monkeypatch.setattr(EndpointEngine, "BACK_OFF_S", (0.01, 0.02))
    known = {"base_url": url, "in_flight": 0, "request_timeout_s": 5.0, "api_key_file": "", "api_key_env": ""}
    job = {"engine": known | engine, "model": {"name": "pixtral"}, "temperature": 0.6}
    return EndpointEngine(job, Path())


def test_endpoint_answers_with_tokens_finish_reason_and_first_token_time(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = endpoint(server, monkeypatch)
    engine.load(lambda name, **facts: None)
    answer = engine.answer(request())
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.output_tokens) == (
        "a long boat ",
        "stop",
        7,
        3,
    )
    assert answer.first_token_s is not None
    assert engine.version == "0.0.fake"


def test_endpoint_sends_images_before_the_text_and_the_seed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Picture(b"png", "0" * 64, "1x1")
    endpoint(server, monkeypatch).answer(Request(item(system="be brief"), (picture, picture), 99, 20))
    asked = FakeServer.asked[0]
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert [c["type"] for c in asked["messages"][1]["content"]] == ["image_url", "image_url", "text"]
    assert (asked["seed"], asked["max_tokens"], asked["temperature"]) == (99, 20, 0.6)


def test_busy_server_is_asked_again_after_what_it_asks_for(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServer.script = [(429, {"Retry-After": "0.3"}, b"busy"), (503, {}, b"away")]
    started = time.monotonic()
    assert endpoint(server, monkeypatch).answer(request()).text == "a long boat "
    assert time.monotonic() - started >= 0.3
    assert len(FakeServer.asked) == 3


def test_server_that_stays_away_fails_the_item_and_says_so(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServer.script = [(500, {}, b'{"error": {"message": "no"}}')] * 9
    with pytest.raises(ItemFailed, match="3 times: HTTP 500: no"):
        endpoint(server, monkeypatch).answer(request())


def test_prompt_too_long_is_refused_and_not_tried_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServer.script = [(400, {}, b'{"error": {"message": "your prompt contains 4687 input tokens"}}')]
    with pytest.raises(Refused, match="4687"):
        endpoint(server, monkeypatch).answer(request())
    assert len(FakeServer.asked) == 1


def test_answer_that_breaks_off_is_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServer.script = [(200, {}, stream("half an", 7, done=False))]
    assert endpoint(server, monkeypatch).answer(request()).text == "a long boat "
    assert len(FakeServer.asked) == 2


def test_answer_that_the_server_aborted_is_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeServer.script = [(200, {}, stream("half an", 7, finish="abort"))]
    assert endpoint(server, monkeypatch).answer(request()).text == "a long boat "
    assert len(FakeServer.asked) == 2


def test_key_comes_from_the_environment_or_a_file_and_is_sent(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    endpoint(server, monkeypatch, api_key_env="MY_KEY").answer(request())
    (tmp_path / "key").write_text("fromfile\n")
    endpoint(server, monkeypatch, api_key_file=str(tmp_path / "key")).answer(request())
    assert FakeServer.headers_seen == ["Bearer s3cret", "Bearer fromfile"]


def test_missing_key_is_a_load_failure_that_names_the_variable(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(LoadFailed, match="MY_KEY"):
        endpoint(server, monkeypatch, api_key_env="MY_KEY")


def test_wrong_model_name_is_a_load_failure_that_names_the_served_ones(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = endpoint(server, monkeypatch)
    engine.client.model = "other"
    with pytest.raises(LoadFailed, match="serves pixtral, not other"):
        engine.load(lambda name, **facts: None)


@pytest.mark.parametrize(
    ("finish", "output_tokens", "is_refused"), [("length", 19, True), ("length", 20, False), ("stop", 3, False)]
)
def test_answer_that_ends_before_the_limit_asked_for_shows_an_engine_with_less_room_than_planned(
    finish: str, output_tokens: int, is_refused: bool
) -> None:
    answer = Answer("a long", finish, 7, output_tokens)
    if is_refused:
        with pytest.raises(Refused, match="room for 19 of 20"):
            with_room(answer, request())
    else:
        assert with_room(answer, request()) is answer


# ------------------------------------------------------------------------------------------------------ NVIDIA's class

STAND_IN = '''
"""A stand-in for NVIDIA's package: the same names and signature, no model."""
import os
assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn", "the environment must be set before the import"

class PixtralPromptUpsampler:
    def __init__(self, checkpoint_dir, offload_prompt_upsampler=False):
        self.made_with = (checkpoint_dir, offload_prompt_upsampler)

    def _prompt_upsample(self, prompt, video_path):
        if "4687" in prompt:
            raise ValueError("Prompt length of 4687 is longer than the maximum model length of 4096.")
        assert isinstance(video_path, list), "a path would be read with its own frames"
        return f"{prompt} at length, from {len(video_path)} frames, {self.made_with}"
'''


@pytest.fixture
def cosmos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CosmosEngine:
    package = tmp_path / "site" / "cosmos_transfer1" / "auxiliary" / "upsampler" / "model"
    package.mkdir(parents=True)
    (package / "upsampler.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in [m for m in sys.modules if m.startswith("cosmos_transfer1")]:
        monkeypatch.delitem(sys.modules, name)
    for name in vllm_environment(tmp_path):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(upsample, "vllm_build", lambda: ("0.8.1", False))
    engine = CosmosEngine({"engine": {"offload": False}, "model": {"checkpoint": "/ckpt"}}, tmp_path)
    engine.load(lambda name, **facts: None)
    return engine


def test_cosmos_gets_the_frames_of_the_item_as_a_list(cosmos: CosmosEngine) -> None:
    answer = cosmos.answer(request(frames=("frames/1.png", "frames/2.png")))
    assert answer.text == "a boat at length, from 2 frames, ('/ckpt', False)"
    assert answer.prompt_tokens is None  # NVIDIA's class does not say


def test_cosmos_refusal_is_recognised(cosmos: CosmosEngine) -> None:
    with pytest.raises(Refused):
        cosmos.answer(request(text="4687"))


# ------------------------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize(
    ("text", "finish", "checks", "wrong"),
    [
        ("A long boat on a calm sea.", "stop", {"cut_off": True, "script": "latin"}, None),
        ("  \n", "stop", {"cut_off": True, "script": ""}, "empty answer"),
        ("A long", "length", {"cut_off": True, "script": ""}, "cut off at the token limit"),
        ("A long", "length", {"cut_off": False, "script": ""}, None),
        ("A  BOAT", "stop", {"cut_off": True, "script": ""}, "echo of the prompt"),
        ("一艘船在海上", "stop", {"cut_off": True, "script": "latin"}, "not in latin script"),
        ("一艘船在海上", "stop", {"cut_off": True, "script": ""}, None),
    ],
)
def test_answer_is_checked(text: str, finish: str, checks: dict[str, Any], wrong: str | None) -> None:
    assert failed_check(Answer(text, finish, 7, 3), item(), checks) == wrong
