"""Engine `vllm`: vLLM's OpenAI-compatible server as a child of the worker."""

from __future__ import annotations

import contextlib
import http.client
import re
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

from ..chat import ChatClient
from ..lifecycle import LoadFailed
from ..processes import end_group, failure_reason, free_port, guard_group, kill_stale_server, read_since
from ..protocol import AUTO, UpsampleJob
from ..refusals import classify
from ..signals import Signals
from ..window import Window, queue_of
from .engine import Answer, ItemFailed, Phase, Refused, Request, Unavailable
from .isolation import IsolationGate
from .tiny_models import make_tiny_model
from .vllm_server import Server, next_fallback, vllm_argv, vllm_build, vllm_environment, vllm_options

MOST_DEATHS = 3


class VllmEngine:
    """vLLM's OpenAI-compatible server as a child of the worker, started again when it dies."""

    name = "vllm"

    def __init__(self, job: UpsampleJob, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.version, self.cpu = vllm_build()
        self.settings = Server.of(job)
        self.fallbacks: list[str] = []
        self.restarts = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._client: ChatClient | None = None
        self.signals = Signals(lambda: self._client.metrics_page() if self._client else None)
        self._gate = IsolationGate()
        self._mutex = threading.Lock()
        self._closing = False
        self._eased: set[int] = set()  # servers, by their number of restarts, that were replaced by one with less to do

    def load(self, phase: Phase) -> None:
        """Start the server; when memory is short, with less and less, until it starts or nothing is left to give up."""
        self._phase = phase
        kill_stale_server(self.folder)
        if self.job.model.tiny_random:
            self.settings = replace(self.settings, checkpoint=str(make_tiny_model(self.job, self.folder / "model")))
        elif not Path(self.settings.checkpoint).is_dir():
            raise LoadFailed(f"model.checkpoint={self.settings.checkpoint}: there is no such folder on this host")
        while True:
            try:
                return self._start()
            except LoadFailed as e:
                if not self._fall_back(str(e)):
                    tried = f" (tried before: {'; '.join(self.fallbacks)})" if self.fallbacks else ""
                    raise LoadFailed(f"{e}{tried}") from None
                phase("loading", fallback=self.fallbacks[-1], reason="out of memory")

    @property
    def window(self) -> Window:
        """As many as the server has slots for and a few that wait, or fewer, where its KV cache holds less."""
        if self.job.engine.in_flight != AUTO:
            return Window(self.job.engine.in_flight, "fixed", is_fixed=True)
        slots = self.settings.max_num_seqs * self.settings.model.data_parallel_size
        metrics = None
        with contextlib.suppress(OSError):
            metrics = self.signals.metrics()
        fit = metrics.kv_tokens // max(1, self.job.needed_len) if metrics else 0
        if 0 < fit < slots:
            return Window(fit, f"the KV cache holds {fit} of the longest requests")
        return Window(slots + queue_of(slots), f"the server has {slots} slots", ramps=False)

    def _fall_back(self, error: str, *, serving: bool = False) -> bool:
        """Settle for less after an out-of-memory error; whether there was something to give up."""
        is_memory = classify(error) == "out_of_memory"
        changes = next_fallback(self.settings, self.job.needed_len, serving=serving) if is_memory else None
        if changes is None:
            return False
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.fallbacks.append(", ".join(f"{k}={v}" for k, v in changes.items()))
        return True

    def _start(self) -> None:
        port = free_port()
        argv = vllm_argv(self.settings, port, self.version, cpu=self.cpu, options=vllm_options())
        log_path = self.folder / "server.log"
        with open(log_path, "ab") as log:
            start = log.tell()
            self._server = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=vllm_environment(),
                start_new_session=True,
            )
        self._guard = guard_group(self._server.pid)
        (self.folder / "server.pid").write_text(f"{self._server.pid}")
        self._client = ChatClient(
            f"http://127.0.0.1:{port}/v1",
            self.job.model.name,
            None,
            self.job.engine.request_timeout_s,
            self.job.temperature,
            self.job.request_fields,
            self.signals,
            self.job.answer.response_format,
        )
        self._wait_until_healthy(self._server, self._client, log_path, start)

    def _wait_until_healthy(self, server: subprocess.Popen[bytes], client: ChatClient, log: Path, start: int) -> None:
        deadline = time.monotonic() + self.job.engine.start_timeout_s
        compiling = False
        while True:
            if self._closing:
                self._kill()
                raise LoadFailed("the worker ends")
            if server.poll() is not None:
                raise LoadFailed(f"the server ended with code {server.returncode}: {failure_reason(log, start)}")
            if time.monotonic() > deadline:
                self._kill()
                reason = failure_reason(log, start)
                raise LoadFailed(f"the server was not healthy in time (engine.start_timeout_s): {reason}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if client.get("/health")[0] == 200:
                    return
            if not compiling and re.search(rb"torch\.compile|[Cc]apturing CUDA graph", read_since(log, start)):
                compiling = True
                self._phase("compiling")
            time.sleep(0.2)

    def answer(self, request: Request) -> Answer:
        """Ask the server; when it dies, start it again and ask once more. An item that was there at MOST_DEATHS fails, if it was
        alone at the last of them.

        After a death the items that were in flight are suspects, and half of them are asked at a time (`IsolationGate`). Where
        memory ran out, the server gets less to do first (`next_fallback`).
        """
        item_id, deaths, broken, was_alone = request.item.id, 0, 0, False
        while True:
            if was_alone and deaths >= MOST_DEATHS:
                self._gate.clear(item_id)
                raise ItemFailed(f"the engine died {deaths} times while this item was in flight, the last time alone")
            with self._gate.passing(item_id):
                with self._mutex:  # not while the server is started again
                    epoch, client = self.restarts, self._client
                assert client is not None
                try:
                    return with_room(client.ask(request), request)
                except Unavailable as e:
                    error: Exception = e
                except (OSError, http.client.HTTPException) as e:
                    error = e
                # Still inside the gate: a request that came next would find the dead server, and count as a suspect.
                with self._mutex:
                    if self._closing:
                        raise ItemFailed("the worker ends")
                    was_alone = False
                    if self.restarts == epoch and (_is_out_of_memory(error) or not self._is_alive()):
                        self._restart(str(error))
                        was_alone = epoch not in self._eased and self._gate.died()
                    if self.restarts != epoch:
                        deaths += epoch not in self._eased  # else it was memory, and the new server has more of it left
                        continue
            if isinstance(error, TimeoutError):
                raise ItemFailed(
                    f"no answer within {self.job.engine.request_timeout_s:.0f} s (engine.request_timeout_s)"
                )
            broken += 1
            if broken == MOST_DEATHS:
                raise ItemFailed(f"the server broke off {broken} times: {error}")
            time.sleep(1.0)

    def _is_alive(self) -> bool:
        """Whether the server still serves; a moment is given to one that is just dying."""
        assert self._server is not None and self._client is not None
        for _ in range(20):
            if self._server.poll() is not None:
                return False
            try:
                if self._client.get("/health")[0] != 200:
                    return False
            except (OSError, http.client.HTTPException):
                return False
            time.sleep(0.1)
        return True

    def _restart(self, error: str) -> None:
        """Start the server again; with less, when memory ran out."""
        assert self._server is not None
        log_path = self.folder / "server.log"
        reason = failure_reason(log_path, max(0, log_path.stat().st_size - 20_000))
        if classify(error) == "out_of_memory":
            reason = error
        self._kill()
        fallback = self.fallbacks[-1] if self._fall_back(reason, serving=True) else ""
        if fallback:
            self._eased.add(self.restarts)
        self._phase("restarting", restart=self.restarts + 1, reason=reason[-300:], fallback=fallback)
        self._start()
        self.restarts += 1
        self._phase("serving", restart=self.restarts)

    def _kill(self) -> None:
        if self._server is not None:
            end_group(self._server.pid, self._server)
            if self._guard is not None:
                self._guard.kill()
                self._guard.communicate()
                self._guard = None
            with contextlib.suppress(FileNotFoundError):
                (self.folder / "server.pid").unlink()

    def close(self) -> None:
        self._closing = True
        self._kill()
        if self._mutex.acquire(timeout=10.0):  # a thread that was restarting the server has seen `_closing`
            self._mutex.release()


def _is_out_of_memory(error: Exception) -> bool:
    return classify(str(error)) == "out_of_memory"


def with_room(answer: Answer, request: Request) -> Answer:
    """The answer, unless the engine ended it before the limit that was asked for: then Refused is raised.

    vLLM takes a prompt of up to its limit less one and silently shortens what may come after it, so an engine whose
    limit is smaller than planned shows only here.
    """
    if (
        answer.finish_reason == "length"
        and answer.output_tokens is not None
        and answer.output_tokens < request.max_tokens
    ):
        limit = answer.prompt_tokens + answer.output_tokens if answer.prompt_tokens is not None else None
        raise Refused(
            f"the engine had room for {answer.output_tokens} of {request.max_tokens} output tokens",
            "no_room",
            answer.prompt_tokens,
            limit,
        )
    return answer
