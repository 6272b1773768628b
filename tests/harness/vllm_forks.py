"""Imports vLLM once, which takes 10 CPU seconds, and forks a server for each message "PORT FOLDER", whose pid is the answer.

    python -m tests.harness.vllm_forks SOCKET    # by an interpreter that has vLLM

Ends when nobody is connected any more.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import selectors
import socket
import sys
from pathlib import Path

from src.worker.engines.tiny_models import make_tiny_model
from src.worker.engines.vllm_server import Server, vllm_argv, vllm_build, vllm_environment, vllm_options
from src.worker.protocol import UpsampleJob
from src.worker.records import from_line


def fork(address: str) -> tuple[int, Path]:
    """Returns in each child, with its port and its folder; exits in the parent."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen()
    clients = list[socket.socket]()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is listener:
                    clients.append(client := listener.accept()[0])
                    selector.register(client, selectors.EVENT_READ, client)
                    continue
                client = key.data
                if not (message := client.recv(10_000)):
                    selector.unregister(client)
                    clients.remove(client)
                    client.close()
                elif (pid := os.fork()) == 0:
                    for other in (listener, *clients):
                        other.close()
                    port, folder = message.decode().split(" ", 1)
                    return int(port), Path(folder)
                else:
                    client.send(str(pid).encode())
            if not clients:
                with contextlib.suppress(ChildProcessError):
                    while True:
                        os.wait()
                sys.exit()


def serve(port: int, folder: Path) -> None:
    """Serve the tiny model of the job in a folder; the log is there too."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(fd, number)
    os.setsid()
    job = from_line(UpsampleJob, (folder / "job.json").read_bytes())
    checkpoint = str(make_tiny_model(job, folder / "model"))
    server = Server(job.model, checkpoint, job.images, job.max_model_len, 64, 0.9, job.clips, job.answer.is_guided)
    options = vllm_options() if server.guided else ""
    _, _, module, *sys.argv[1:] = vllm_argv(server, port, vllm_build()[0], cpu=True, options=options)
    del sys.modules[module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    os.environ.update(vllm_environment(), VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    for module in ("vllm.entrypoints.openai.api_server", "vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"):
        importlib.import_module(module)
    gc.freeze()
    serve(*fork(sys.argv[1]))
