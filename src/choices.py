"""What fields of the config may be, where they are one of a few words."""

from __future__ import annotations

from enum import Enum


class TaskName(Enum):
    upsample = "upsample"
    plan = "plan"
    pipeline = "pipeline"
    spec = "spec"
    attach = "attach"
    status = "status"
    runs = "runs"
    report = "report"
    cancel = "cancel"
    clean = "clean"
    trust = "trust"
    doctor = "doctor"
    stage = "stage"
    manifest = "manifest"
    collect = "collect"
    compare = "compare"
    review = "review"
    limits = "limits"
    verify = "verify"
    init = "init"


class SizeRule(Enum):
    fixed_width = "fixed_width"
    native = "native"
    category = "category"
    best_fit = "best_fit"


class FrameRule(Enum):
    head = "head"
    ends = "ends"
    uniform = "uniform"
    clip = "clip"


class ModelFamily(Enum):
    pixtral = "pixtral"
    mistral = "mistral"
    qwen2_5_vl = "qwen2_5_vl"
    qwen3_vl = "qwen3_vl"
    qwen3_5 = "qwen3_5"
    ask = "ask"
    unverified = "unverified"


class EngineName(Enum):
    offline = "offline"
    vllm = "vllm"
    llamacpp = "llamacpp"
    endpoint = "endpoint"
    cosmos = "cosmos"


class HostKind(Enum):
    local = "local"
    ssh = "ssh"
    fleet = "fleet"
    slurm = "slurm"
    pool = "pool"
    ray = "ray"


class BadVideo(Enum):
    keep = "keep"
    text_only = "text_only"


class SpecOutput(Enum):
    beside = "beside"
    files = "files"
    in_place = "in_place"
    none = "none"


class PathForm(Enum):
    absolute = "absolute"
    relative = "relative"


class Export(Enum):
    parquet = "parquet"
    dataset = "dataset"
    openai = "openai"
    cosmos3 = "cosmos3"
    transfer2_5 = "transfer2_5"
    txt = "txt"
    target = "target"
    wan = "wan"
    ltx2 = "ltx2"
    hunyuan15 = "hunyuan15"
    cogvideox = "cogvideox"
    provenance = "provenance"


class AnswerKind(Enum):
    text = "text"
    json = "json"
    tagged = "tagged"


class Language(Enum):
    any = "any"
    en = "en"
    zh = "zh"


class Retry(Enum):
    none = "none"
    failed = "failed"


class PairBy(Enum):
    input = "input"
    name = "name"


class ProgressMode(Enum):
    auto = "auto"
    bars = "bars"
    lines = "lines"
    none = "none"


class OutputFormat(Enum):
    text = "text"
    json = "json"


class LogLevel(Enum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class Verdict(Enum):
    accepted = "accepted"
    rejected = "rejected"
