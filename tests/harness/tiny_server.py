"""A real vLLM server with a tiny random model of a family, as engine=endpoint meets one."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
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
    """Starts servers, by an interpreter that has vLLM. All processes of a test run share what imports vLLM. folder: theirs."""

    def __init__(self, python: str, folder: Path) -> None:
        address = folder / "socket"
        self._forks = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        with open(folder / "lock", "wb") as lock, open(folder / "log", "ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._forks.connect_ex(str(address)):
                address.unlink(missing_ok=True)
                argv = [python, "-m", "tests.harness.vllm_forks", str(address)]
                self._process = process = subprocess.Popen(
                    argv, cwd=ROOT, env=os.environ | LIGHT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
                wait_for(
                    lambda: process.poll() is not None or not self._forks.connect_ex(str(address)), PATIENCE_S, 0.2
                )
                assert process.poll() is None, (folder / "log").read_text()[-3000:]

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
        self._forks.send(f"{port} {folder}".encode())
        pid = int(self._forks.recv(100))
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
        self._forks.close()
        if self._process:
            self._process.wait(PATIENCE_S)  # until others have closed theirs


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
