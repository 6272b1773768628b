"""The worker against vLLM's own calls, with the real engine; and the worker's own cost, without one.

Needs VLLM_PYTHON, as the tests with the real vLLM do; without it only the worker's own cost is measured. The model is
the tiny random Pixtral: it costs next to nothing, so that every overhead shows.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, shown
from src.hosts.bundle import worker_bundle
from src.worker.engines.vllm_server import vllm_environment
from src.worker.job_settings import EngineSettings, ModelSettings
from src.worker.protocol import PROTOCOL, Checks, Item, UpsampleJob
from src.worker.records import to_json, to_line

PROMPTS = 64
PASSES = 4  # of which the first is not counted
OUTPUT_TOKENS = 32
SIZE = (320, 180)
ROOT = Path(__file__).resolve().parent.parent


def rows() -> list[Row]:
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        print("VLLM_PYTHON names no interpreter with vLLM: the comparison with vLLM's own calls is left out")
    return [*(_against_vllm(python) if python else []), *_own_cost()]


# ------------------------------------------------------------------------------------------------- with the real engine


def _against_vllm(python: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _stage_frames(folder)
        one_by_one = _chat(python, folder, max_num_seqs=2, one_call=False)
        all_at_once = _chat(python, folder, max_num_seqs=PROMPTS, one_call=True)
        ours = _worker(python, folder)
    what = f"worker, {PROMPTS} prompts"
    times = "{} / {} a pass"
    return [
        Row(what, "one LLM.chat each, max_num_seqs=2", ours / one_by_one, "≤ 0.33", ours / one_by_one <= 1 / 3,
            times.format(shown(ours), shown(one_by_one))),
        Row(what, "one LLM.chat for all", ours / all_at_once, "≤ 1.15", ours / all_at_once <= 1.15,
            times.format(shown(ours), shown(all_at_once))),
    ]  # fmt: skip


def _stage_frames(folder: Path) -> None:
    """Two frames an item and pass, no two alike, so that no cache of the engine answers."""
    from PIL import Image

    (folder / "frames").mkdir()
    gradient = Image.linear_gradient("L").resize(SIZE)
    for number in range(PASSES * PROMPTS * 2):
        plain = Image.new("L", SIZE, number % 251)
        picture = Image.merge("RGB", (gradient, plain, gradient.rotate(number % 360)))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        (folder / "frames" / f"{number}.png").write_bytes(buffer.getvalue())


def _item(number: int) -> Item:
    text = f"prompt number {number}: a boat on a calm sea at dusk"
    return Item(
        id=str(number), step=0, prompt=text, text=text, system="", predicted=None, seed=number, note="",
        frames=(f"frames/{2 * number}.png", f"frames/{2 * number + 1}.png"), max_tokens=OUTPUT_TOKENS,
    )  # fmt: skip


def model_settings(checkpoint: str) -> ModelSettings:
    return ModelSettings(
        name="tiny", checkpoint=checkpoint, tiny_random=True, tokenizer="mistral", max_images=2, dtype="bfloat16",
        load_format="dummy", gpu_memory_utilization=0.9, max_num_seqs=PROMPTS, tensor_parallel_size=1,
        data_parallel_size=1, prefix_caching=True, extra_args=("--enforce-eager",),
    )  # fmt: skip


def engine_settings(name: str, url: str = "") -> EngineSettings:
    return EngineSettings(
        name=name, max_attempts=1, in_flight=0, item_delay_s=0.0, base_url=url, api_key_env="", api_key_file="",
        start_timeout_s=600.0, request_timeout_s=600.0, grace_s=30.0, time_limit_s=0.0, offload=False,
    )  # fmt: skip


_CHAT = """
import base64, json, sys, time
from pathlib import Path
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    asked = json.loads(sys.stdin.read())
    folder, items = Path(asked["folder"]), asked["items"]
    def conversation(item):
        url = lambda n: "data:image/png;base64," + base64.b64encode((folder / n).read_bytes()).decode()
        images = [{"type": "image_url", "image_url": {"url": url(n)}} for n in item["frames"]]
        return [{"role": "user", "content": [*images, {"type": "text", "text": item["text"]}]}]
    def sampling(item):
        return SamplingParams(temperature=0.6, max_tokens=item["max_tokens"], seed=item["seed"])
    llm = LLM(**asked["arguments"])
    times = []
    for one_pass in items:
        started = time.perf_counter()
        if asked["one_call"]:
            llm.chat([conversation(i) for i in one_pass], [sampling(i) for i in one_pass], use_tqdm=False)
        else:
            for item in one_pass:
                llm.chat(conversation(item), sampling(item), use_tqdm=False)
        times.append(time.perf_counter() - started)
    print("TIMES", json.dumps(times))
"""


def _passes() -> list[list[Item]]:
    return [[_item(p * PROMPTS + n) for n in range(PROMPTS)] for p in range(PASSES)]


def _chat(python: str, folder: Path, *, max_num_seqs: int, one_call: bool) -> float:
    """Median seconds a pass of vLLM's own offline call, the engine loaded before."""
    subprocess.run(
        [python, "-c", "import sys; from pathlib import Path; from src.worker.engines.tiny_models import make_tiny_pixtral; "
         "make_tiny_pixtral(Path(sys.argv[1]))", str(folder / "model")], check=True, cwd=ROOT,
    )  # fmt: skip
    arguments = {
        "model": str(folder / "model"), "tokenizer_mode": "mistral", "config_format": "mistral", "load_format": "dummy",
        "dtype": "bfloat16", "enforce_eager": True, "max_model_len": 4096, "max_num_seqs": max_num_seqs,
        "limit_mm_per_prompt": {"image": 2}, "enable_prefix_caching": True,
        "enable_chunked_prefill": False, "max_num_batched_tokens": 32768,
    }  # fmt: skip
    asked = {"folder": str(folder), "items": to_json(_passes()), "one_call": one_call, "arguments": arguments}
    script = folder / "chat.py"  # a file: the engine's own processes import it again
    script.write_text(_CHAT)
    done = subprocess.run(
        [python, str(script)], input=json.dumps(asked), env=vllm_environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    line = next((line for line in done.stdout.splitlines() if line.startswith("TIMES ")), None)
    if line is None:
        raise RuntimeError(f"vLLM's own call failed: {done.stderr[-2000:]}")
    times: list[float] = json.loads(line[6:])
    return statistics.median(times[1:])


def _worker(python: str, folder: Path) -> float:
    """Median seconds a pass of the worker, from a batch's appearance to its last answer on disk."""
    worker = write_job(folder, engine_settings("vllm"), model_settings(str(folder / "model")))
    process = subprocess.Popen([python, worker, str(folder)])
    times = []
    try:
        for number, items in enumerate(_passes()):
            started = time.perf_counter()
            stage(folder, number, items)
            _wait_for_results(folder, (number + 1) * PROMPTS, process)
            times.append(time.perf_counter() - started)
    finally:
        (folder / "closed").touch()
        process.wait()
    return statistics.median(times[1:])


def write_job(folder: Path, engine: EngineSettings, model: ModelSettings) -> str:
    """A job folder without batches; returns the worker to run in it."""
    job = UpsampleJob(
        protocol=PROTOCOL, engine=engine, model=model, max_model_len=4096, max_output_tokens=OUTPUT_TOKENS,
        needed_len=4096, images=2, temperature=0.6, checks=Checks(cut_off=False, script=""), linger_s=600.0,
    )  # fmt: skip
    (folder / "batches").mkdir(exist_ok=True)
    (folder / "job.json").write_text(to_line(job))
    worker = folder / "worker.pyz"
    worker.write_bytes(worker_bundle())
    return str(worker)


def stage(folder: Path, number: int, items: list[Item]) -> None:
    aside = folder / "batches" / f"{number:05d}.part"
    aside.write_text("".join(to_line(item) + "\n" for item in items))
    aside.rename(aside.with_suffix(".jsonl"))


def _wait_for_results(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    results = folder / "results.jsonl"
    while not results.exists() or results.read_bytes().count(b"\n") < count:
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended: {(folder / 'exit.json').read_text()}")
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------------- the worker's own cost


class _Instant(BaseHTTPRequestHandler):
    """A stand-in for a server: answers at once, another text each time."""

    protocol_version = "HTTP/1.1"
    answered = 0
    first_ask = threading.Event()

    def do_GET(self) -> None:
        self._send(b'{"data": []}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).answered += 1
        self.first_ask.set()
        events: list[dict[str, Any]] = [
            {
                "choices": [
                    {"delta": {"content": f"answer number {self.answered} of the stand-in"}, "finish_reason": "stop"}
                ]
            },
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 6}},
        ]
        self._send(b"".join(f"data: {json.dumps(e)}\n\n".encode() for e in events) + b"data: [DONE]\n\n")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _own_cost() -> list[Row]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Instant)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        small, large = (_peak_and_resume(url, count) for count in (1_000, 10_000))
    finally:
        server.shutdown()
    return [
        Row("worker's memory at 10,000 items", "at 1,000", large[0] / small[0], "≤ 1.25 (flat)",
            large[0] / small[0] <= 1.25, f"{large[0] / 1024:.0f} / {small[0] / 1024:.0f} MiB"),
        Row("resuming after 10,000 answers", "after 1,000", large[1] / small[1], "", None,
            f"{shown(large[1])} / {shown(small[1])} to the first request"),
    ]  # fmt: skip


def _peak_and_resume(url: str, count: int) -> tuple[int, float]:
    """Peak memory of a worker over `count` items in KiB, and seconds from its start anew to its next request."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "frames").mkdir()
        Image.effect_noise((224, 224), 64).save(folder / "frames" / "one.png")  # 50 kB
        worker = write_job(folder, engine_settings("endpoint", url), model_settings("tiny"))
        items = [replace(_item(n), frames=("frames/one.png",)) for n in range(count + 1)]
        stage(folder, 0, items[:count])
        process = subprocess.Popen([sys.executable, worker, str(folder)])
        _wait_for_results(folder, count, process)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
        (folder / "closed").touch()
        process.wait()
        stage(folder, 1, items[count:])
        _Instant.first_ask.clear()
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, worker, str(folder)])
        _Instant.first_ask.wait()
        resumed_s = time.perf_counter() - started
        process.wait()
        return peak, resumed_s
