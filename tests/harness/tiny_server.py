"""A real vLLM server with a tiny random model of a family, as engine=endpoint meets one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from src.config import Config
from src.models.families import TOKENIZERS
from src.models.tokenizer import packed
from src.planning.configure import model_settings
from src.worker.answer_form import AnswerForm
from src.worker.chat import ChatClient, chat_body
from src.worker.job_settings import ModelSettings
from src.worker.processes import free_port
from src.worker.records import to_json
from tests.harness.processes import has_ended
from tests.harness.program import ROOT, journal_ids, results_of, wait_for
from tests.harness.records import JOB

PATIENCE_S = 900.0  # with a loaded machine; a quiet one needs about a minute to load the engine
# What servers of tests run with, beside others on the same cores: threads that wait for each other spin, and twice as many as
# there are cores take twice the CPU time.
LIGHT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "PYTHONPATH": str(Path(__file__).with_name("light_vllm")),
}
# Imports vLLM once, which takes 10 CPU seconds, and forks a server for each line "PORT FOLDER"; answers with its pid.
FORK_SERVERS = """
import contextlib, gc, os, runpy, sys
from pathlib import Path
from src.worker.engines.tiny_models import make_tiny_model
from src.worker.engines.vllm_server import Server, vllm_argv, vllm_build, vllm_environment, vllm_options
from src.worker.protocol import UpsampleJob
from src.worker.records import from_line

os.environ.update(vllm_environment(), VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
import vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.cpu_worker
def serve(port, folder):
    os.setsid()
    job = from_line(UpsampleJob, (folder / "job.json").read_bytes())
    checkpoint = str(make_tiny_model(job, folder / "model"))
    server = Server(job.model, checkpoint, job.images, job.max_model_len, 64, 0.9, job.clips, job.answer.is_guided)
    options = vllm_options() if server.guided else ""
    _, _, module, *sys.argv[1:] = vllm_argv(server, port, vllm_build()[0], cpu=True, options=options)
    del sys.modules[module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

gc.freeze()
for line in sys.stdin:
    port, folder = line.rstrip().split(" ", 1)
    if (pid := os.fork()) == 0:
        log = os.open(Path(folder, "log"), os.O_WRONLY | os.O_CREAT)
        for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(fd, number)
        sys.exit(serve(int(port), Path(folder)))
    print(pid, flush=True)
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()
"""


@dataclass(frozen=True)
class TinyServer:
    """Where it listens, and what it serves, from which folder."""

    url: str
    model: ModelSettings
    checkpoint: Path

    def tokens(self, system: str, text: str, media: list[bytes]) -> int | None:
        """Tokens of a request as the server counts them (`/tokenize`); None where it refuses the request."""
        body = {"model": self.model.name, **chat_body(system, text, media), **self.model.request_fields}
        request = Request(
            f"{self.url.removesuffix('/v1')}/tokenize", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urlopen(request, timeout=120) as response:
                return int(json.loads(response.read())["count"])
        except OSError:
            return None


class TinyServers:
    """Starts servers, by an interpreter that has vLLM."""

    def __init__(self, python: str, log: Path) -> None:
        with open(log, "wb") as stderr:
            self._forks = subprocess.Popen(
                [python, "-c", FORK_SERVERS], cwd=ROOT, env=os.environ | LIGHT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
            )  # fmt: skip

    @contextmanager
    def serve(
        self, config: Config, folder: Path, max_model_len: int = 4096, *, guided: bool = False
    ) -> Iterator[TinyServer]:
        """Serve the config's tiny model; at most 4 images or a clip per prompt. guided: as for a target whose answers follow a
        schema."""
        model = model_settings(config.model)
        ranks = "" if model.is_mistral else packed(TOKENIZERS[model.family])
        answer = AnswerForm(form="json", schema="{}") if guided else AnswerForm()
        job = replace(
            JOB,
            answer=answer,
            model=model,
            max_model_len=max_model_len,
            images=4,
            clips=int(not model.is_mistral),
            tokenizer=ranks,
        )
        (folder / "job.json").write_text(json.dumps(to_json(job)))
        port = free_port()
        assert self._forks.stdin and self._forks.stdout
        print(port, folder, file=self._forks.stdin, flush=True)
        pid = int(self._forks.stdout.readline())
        url = f"http://127.0.0.1:{port}/v1"
        client = ChatClient(url, "", None, 5.0, 0.0)

        def is_healthy() -> bool:
            assert not has_ended(pid), (folder / "log").read_text()[-3000:]
            try:
                return client.get("/health")[0] == 200
            except OSError:
                return False

        try:
            wait_for(is_healthy, PATIENCE_S, 0.2)
            yield TinyServer(url, model, folder / "model")
        finally:
            with suppress(ProcessLookupError):  # it did not start
                os.killpg(pid, signal.SIGTERM)
            wait_for(lambda: has_ended(pid), 60)

    def close(self) -> None:
        assert self._forks.stdin
        self._forks.stdin.close()
        self._forks.wait(60)


def write_prompts(folder: Path, count: int) -> Path:
    """A list of distinct prompts, of seven lengths, over the example clips."""
    clips = sorted((ROOT / "examples" / "clips").iterdir())
    items = [
        {
            "name": f"item-{n:03}",
            "prompt": f"Prompt number {n} {'with more words ' * (n % 7)}",
            "video_path": str(clips[n % 7]),
        }
        for n in range(count)
    ]
    path = folder / "prompts.json"
    path.write_text(json.dumps(items))
    return path


def assert_all_answered(run: Path, count: int) -> list[dict[str, Any]]:
    """Every item once, in order, with the tokens that the plan predicted."""
    rows = results_of(run)
    assert [row["name"] for row in rows] == [f"item-{n:03}" for n in range(count)]
    assert {row["state"] for row in rows} == {"upsampled"}
    assert all(row["tokens"]["predicted"] == row["tokens"]["measured"] for row in rows)
    ids = journal_ids(run)
    assert len(ids) == len(set(ids)) == count
    return rows
