"""A simulated engine behind an OpenAI-compatible server, in a process of its own:

    python -m benchmarks.simulated_server '{"best": 64, "queue": "bounded"}' [--retry-after S] [--no-metrics] [--kv-tokens N]

Prints its port. GET /stats answers how many seconds after the first request each answer was complete, and how far the
server fell behind the engine that it plays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import zlib
from typing import Any

from tests.harness.simulated_engine import Shape, SimulatedEngine

PROMPT_TOKENS = 12


class Server:
    """One engine, many connections."""

    def __init__(self, shape: Shape, retry_after: str, kv_tokens: int, *, has_metrics: bool) -> None:
        self.engine, self.shape = SimulatedEngine(shape), shape
        self.retry_after, self.has_metrics = retry_after, has_metrics
        self.cache = f'vllm:cache_config_info{{engine="0",kv_cache_size_tokens="{kv_tokens}"}} 1.0\n' * bool(kv_tokens)
        self.first, self.late_s = 0.0, 0.0
        self.done_at: list[float] = []
        self._work = asyncio.Event()

    async def run(self) -> None:
        deadline = time.monotonic()
        while True:
            if self.engine.is_idle:
                self._work.clear()
                await self._work.wait()
                deadline = time.monotonic()
            now = time.monotonic()
            if now - deadline > 0.2:  # this machine is too slow for this engine
                self.late_s, deadline = self.late_s + now - deadline, now
            deadline += self.engine.begin_step()
            await asyncio.sleep(deadline - now)
            self.engine.end_step()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = head.partition("content-length:")[2].partition("\r")[0]
                body = await reader.readexactly(int(length or 0))
                if head.startswith("post"):
                    await self._chat(json.loads(body), writer)
                elif head.startswith("get /metrics"):
                    page = self.engine.metrics() + self.cache
                    writer.write(response(200, page) if self.has_metrics else response(404, ""))
                elif head.startswith("get /stats"):
                    writer.write(response(200, json.dumps(self._stats())))
                else:
                    writer.write(response(200, '{"data": []}'))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _stats(self) -> dict[str, Any]:
        return {**self.engine.count, "late_s": self.late_s, "done_at": self.done_at, "first": self.first}

    async def _chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        self.first = self.first or time.time()
        seed = zlib.crc32(text.encode())
        told: asyncio.Queue[tuple[int, bool]] = asyncio.Queue()
        length = self.shape.length(seed)
        if not self.engine.submit(length, PROMPT_TOKENS, lambda so_far, last: told.put_nowait((so_far, last))):
            writer.write(response(429, "{}", f"Retry-After: {self.retry_after}\r\n" if self.retry_after else ""))
            return
        self._work.set()
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": length, "total_tokens": PROMPT_TOKENS + length}
        parts, before, is_last = [], 0, False
        while not is_last:
            so_far, is_last = await told.get()
            piece = " and" * (so_far - before) if before else f"A long and detailed answer, number {seed}."
            if body.get("stream"):
                writer.write(streamed(piece, usage, is_first=not before, is_last=is_last))
            else:
                parts.append(piece)
            before = so_far
        if parts:
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(parts)}, "finish_reason": "stop"}
            writer.write(response(200, json.dumps({"choices": [choice], "usage": usage})))
        self.done_at.append(round(time.time() - self.first, 3))


def streamed(piece: str, usage: dict[str, int], *, is_first: bool, is_last: bool) -> bytes:
    """One event as a chunk, with what begins and ends a response."""
    choice = {"index": 0, "delta": {"content": piece}, "logprobs": None, "finish_reason": "stop" if is_last else None}
    event = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    data = f"data: {json.dumps(event)}\n\n"
    if is_last:
        data += f"data: {json.dumps({**event, 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
    head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if is_first else ""
    return f"{head}{len(data):x}\r\n{data}\r\n".encode() + b"0\r\n\r\n" * is_last


def response(status: int, body: str, extra: str = "") -> bytes:
    return f"HTTP/1.1 {status} -\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", type=json.loads)
    parser.add_argument("--retry-after", default="")
    parser.add_argument("--no-metrics", action="store_true")
    parser.add_argument("--kv-tokens", type=int, default=0, help="the size of the KV cache that it names")
    given = parser.parse_args()
    server = Server(Shape(**given.shape), given.retry_after, given.kv_tokens, has_metrics=not given.no_metrics)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await server.run()


if __name__ == "__main__":
    asyncio.run(main())
