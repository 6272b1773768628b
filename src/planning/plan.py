"""The plan: frozen values that say everything about a run before any of it happens, and print as JSON.

`plan.json` is the same bytes for the same inputs, and is all that execution reads. Keys may be added; a key is never
renamed or removed without a new VERSION.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

from ..errors import InputError
from ..media.video import Video

VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hint:
    """What is rendered from a clip: `frames` pictures of this size, taken by `rule` at these times."""

    width_px: int
    height_px: int
    frames: int
    times_s: tuple[float, ...]
    rule: str
    fps: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """The token account of one request; `prompt` is the whole request as the engine counts it."""

    image: int
    text: int
    prompt: int
    output_reserved: int
    linear_estimate: int


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One prompt, resolved.

    id: hash of all that the answer depends on; items with the same id are asked once.
    text, system: the messages that the model is sent. problem: why the item cannot be served as asked, "" when it can.
    shrunk_from: "WxH" that the size rule asked for, when the budget made it smaller.
    source, extra: where the item came from, and the fields of it that are not ours (JSON text).
    """

    id: str
    name: str
    slug: str
    prompt: str
    text: str
    system: str
    video: Video | None
    hint: Hint | None
    tokens: Tokens
    fits: bool
    batch: int | None
    problem: str
    shrunk_from: str | None
    video_path: str | None
    source: str
    extra: str

    @property
    def runs(self) -> bool:
        """Whether the item is sent to the engine at all."""
        return self.batch is not None


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where answers come from; field by field as in the config group `engine`. Holds no secret, only where one is."""

    name: str
    max_attempts: int
    in_flight: int
    item_delay_s: float
    base_url: str
    api_key_env: str
    api_key_file: str
    start_timeout_s: float
    request_timeout_s: float
    grace_s: float
    time_limit_s: float
    offload: bool


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The checkpoint and how the engine loads it; field by field as in the config group `model`."""

    name: str
    checkpoint: str
    tiny_random: bool
    tokenizer: str
    max_images: int
    dtype: str
    load_format: str
    gpu_memory_utilization: float
    max_num_seqs: int
    tensor_parallel_size: int
    data_parallel_size: int
    prefix_caching: bool
    extra_args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Where the worker runs and how to get there; field by field as in the config group `host`. Holds no secret."""

    name: str
    kind: str
    address: str
    user: str
    port: int
    key_file: str
    password_env: str
    known_hosts: str
    root: str
    docker: tuple[str, ...]
    gpus: str
    patience_s: float
    keep_job: bool
    workers: int = 1
    price_per_gpu_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """The container around the worker; field by field as in the config group `image`. reference "": none."""

    name: str
    reference: str
    python: str
    pull: bool
    network: str
    shm_size: str
    user: str
    mounts: tuple[str, ...]
    env: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What all items of a run share.

    shrink: a prompt that the engine refuses comes again with smaller frames. believed_len: tokens of prompt and answer
    that this engine was seen to take, where that is less than max_model_len says (see `planning.observed_limits`); 0: not known.
    """

    recipe: str
    engine: EngineSettings
    model: ModelSettings
    template: str
    max_model_len: int
    max_output_tokens: int
    text_margin: int
    temperature: float
    seed: int
    check_cut_off: bool
    check_script: str
    python: str
    host: str
    image: str
    place: HostSettings
    container: ContainerSettings
    reuse: bool
    cache_dir: str
    hint_video: bool
    render_workers: int
    on_bad_video: str
    spec_output: str
    report: bool
    shrink: bool = True
    believed_len: int = 0
    exports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All of a run, or one worker's part of it (`part_of`: the run's id, see `planning.partition`).

    `batches` holds item ids in the order in which they are staged.
    """

    settings: Settings
    batches: tuple[tuple[str, ...], ...]
    items: tuple[PlanItem, ...]
    part_of: str = ""

    @property
    def run_id(self) -> str:
        """Hash of what is asked of the engine, in order."""
        return self.part_of or digest([item.id for item in self.items], _dumps(self.settings))

    @cached_property
    def by_id(self) -> dict[str, PlanItem]:
        """Items by identity; of items that are the same, the last stands for all."""
        return {item.id: item for item in self.items}


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def item_id(
    prompt: str, text: str, system: str, video: Video | None, hint: Hint | None, problem: str, settings: Settings
) -> str:
    """Identity of an item: everything that its answer depends on, and nothing else (no name, no path, no budget)."""
    pixels = (video.sha256, hint.width_px, hint.height_px, hint.rule, hint.frames, hint.fps) if video and hint else None
    s = settings
    model = (s.model.name, s.model.checkpoint, s.model.tokenizer, s.model.dtype, s.model.load_format)
    sampling = (s.max_output_tokens, s.temperature, s.seed)
    return digest(prompt, text, system, pixels, problem, s.engine.name, s.engine.base_url, model, sampling)


def write_plan(plan: Plan, out: IO[str]) -> None:
    """Write plan.json, an item a line, so that 100,000 items never stand in memory as one text."""
    budget = {"max_model_len": plan.settings.max_model_len, "max_output_tokens": plan.settings.max_output_tokens}
    head: dict[str, Any] = {
        "version": VERSION,
        "run": plan.run_id,
        "model": plan.settings.model.name,
        "engine": plan.settings.engine.name,
        "budget": budget,
        "settings": plan.settings,
        "batches": plan.batches,
    }
    out.write("{\n")
    for key, value in head.items():
        out.write(f" {json.dumps(key)}: {_dumps(value)},\n")
    out.write(' "items": [\n')
    for n, item in enumerate(plan.items):
        out.write(("  " if n == 0 else ",\n  ") + _dumps(fields_of(item) | {"extra": json.loads(item.extra)}))
    out.write("\n ]\n}\n")


def read_plan(path: Path) -> Plan:
    """The plan that `write_plan` wrote; keys that a later version added are left out.

    Raises InputError when the file is torn, of another version, or not a plan.
    """
    try:
        with open(path, encoding="utf-8") as f:
            data = json.load(f)
        if data["version"] != VERSION:
            raise InputError(f"{path}: is of version {data['version']}, this program reads {VERSION}")
        items = tuple(_item_from_json(item) for item in data["items"])
        return Plan(_settings_from_json(data["settings"]), tuple(tuple(b) for b in data["batches"]), items)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"{path}: is not a plan that can be read ({type(e).__name__}: {e})",
            hint="start the run anew; answers already paid for come from the cache with reuse=true",
        ) from e


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=fields_of)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a plan value, not copied: `dataclasses.asdict` takes most of the time of a large plan."""
    return {name: getattr(value, name) for name in value.__slots__}


def _known(kind: type[T], data: dict[str, Any], **made: Any) -> T:
    """A plan value from JSON: the fields that it has, `made` in place of those that need making; a field with a default
    may be missing, for plans that were written before it came."""
    given = data | made
    wanted = (f for f in fields(kind) if f.name in given or f.default is MISSING)  # type: ignore[arg-type]
    return kind(**{f.name: given[f.name] for f in wanted})


def _settings_from_json(data: dict[str, Any]) -> Settings:
    model = _known(ModelSettings, data["model"], extra_args=tuple(data["model"]["extra_args"]))
    place, container = place_from_json(data["place"]), container_from_json(data["container"])
    engine = _known(EngineSettings, data["engine"])
    exports = tuple(data.get("exports", ()))  # a plan of an older version has none
    return _known(Settings, data, engine=engine, model=model, place=place, container=container, exports=exports)


def place_from_json(data: dict[str, Any]) -> HostSettings:
    """As `write_plan` writes it."""
    return _known(HostSettings, data, docker=tuple(data["docker"]))


def container_from_json(data: dict[str, Any]) -> ContainerSettings:
    """As `write_plan` writes it."""
    return _known(ContainerSettings, data, mounts=tuple(data["mounts"]), env=tuple(data["env"]))


def _item_from_json(data: dict[str, Any]) -> PlanItem:
    hint = data["hint"] and _known(Hint, data["hint"], times_s=tuple(data["hint"]["times_s"]))
    return _known(
        PlanItem,
        data,
        video=data["video"] and _known(Video, data["video"]),
        hint=hint,
        tokens=_known(Tokens, data["tokens"]),
        extra=json.dumps(data["extra"], ensure_ascii=False),
    )


def with_batches(items: tuple[PlanItem, ...], batches: tuple[tuple[str, ...], ...]) -> tuple[PlanItem, ...]:
    """Items that know the number of their batch."""
    number = {item_id: n for n, batch in enumerate(batches) for item_id in batch}
    return tuple(replace(item, batch=number.get(item.id)) for item in items)
