"""A server that the worker starts as its child, asks over HTTP, and starts again when it dies."""

from __future__ import annotations

import contextlib
import http.client
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ..chat import ChatClient
from ..lifecycle import LoadFailed
from ..processes import end_group, failure_reason, free_port, guard_group, kill_stale_server, read_since
from ..protocol import UpsampleJob
from ..refusals import classify
from ..signals import Signals
from .engine import Answer, ItemFailed, Phase, Refused, Request, Unavailable
from .isolation import IsolationGate

HEALTH_TIMEOUT_S = 10.0  # of a server that has just failed a request; a frozen one accepts connections and says nothing

MOST_DEATHS = 3


class ChildServer:
    """An OpenAI-compatible server as a child of the worker: what engines that start one have in common."""

    def __init__(self, job: UpsampleJob, folder: Path, environment: Mapping[str, str]) -> None:
        self.job, self.folder, self._environment = job, folder, environment
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

    def command(self, port: int) -> tuple[str, ...]:
        """What starts the server on a port."""
        raise NotImplementedError

    def ease(self, reason: str) -> str:
        """Settle for less, after the server died or ran out of memory; what was given up, "" for nothing."""
        return ""

    def load(self, phase: Phase) -> None:
        """Start it, after what an earlier worker of this folder left. Raises LoadFailed when it does not become healthy."""
        self._phase = phase
        kill_stale_server(self.folder)
        self._start()

    def _start(self) -> None:
        port = free_port()
        log_path = self.folder / "server.log"
        with open(log_path, "ab") as log:
            start = log.tell()
            self._server = subprocess.Popen(
                self.command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        self._guard = guard_group(self._server.pid)
        (self.folder / "server.pid").write_text(f"{self._server.pid}")
        self._client = ChatClient.of(self.job, f"http://127.0.0.1:{port}/v1", None, self.signals)
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
        memory ran out, the server gets less to do first (`ease`).
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
                if self._client.get("/health", HEALTH_TIMEOUT_S)[0] != 200:
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
        if fallback := self.ease(reason):
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
    given, prompt = answer.output_tokens, answer.prompt_tokens
    if answer.finish_reason == "length" and given is not None and given < request.max_tokens:
        reason = f"the engine had room for {given} of {request.max_tokens} output tokens"
        raise Refused(reason, "no_room", prompt, None if prompt is None else prompt + given)
    return answer
