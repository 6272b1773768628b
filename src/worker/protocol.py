"""What the controller and a worker agree on: jobs, items, results, events, exit codes.

Both ends read and write these types with `records`, so a job folder means the same to each:

    job.json            an `UpsampleJob` or an `InferJob`
    batches/NNNNN.jsonl `Item` or `InferItem`, one per line; files appear whole and are processed in order of name
    frames/SHA256.EXT   the files that items name
    lease               touched by a controller that follows the job
    closed              no more batches will come: end when all that are there are done
    results.jsonl       OUT `Outcome` or `VideoOutcome`, one line per item that ended; it is answered once that is on disk
    events.jsonl        OUT `Event`: phases and a heartbeat
    exit.json           OUT `Exit`; written last, by rename
    lock                held while a worker lives
    in_flight           which items are asked now; see `suspects`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from .answer_form import AnswerForm
from .job_settings import EngineSettings, ModelSettings
from .records import Lined
from .values import FileName, PixelSize, Relative, one_of, says_nothing

PROTOCOL = 1
HEARTBEAT_S = 2.0
UPSAMPLE, INFER = "upsample", "infer"  # kinds of job

# Files in a container, named by variables: with the key of engine=endpoint; with secret variables, NAME=VALUE, each ended by NUL.
KEY_FILE_VARIABLE = "PROMPT_UPSAMPLER_KEY_FILE"
ENVIRONMENT_FILE_VARIABLE = "PROMPT_UPSAMPLER_ENVIRONMENT_FILE"

# How an item ends. REFUSED is not final: the controller sends the item again, smaller.
UPSAMPLED, KEPT, FAILED, REFUSED = "upsampled", "kept", "failed", "refused"
STATES = (UPSAMPLED, KEPT, FAILED)
DAMAGED = "damaged"  # why an item is refused: a frame is not what its name says; it has to be sent again
DONE = "done"  # an item of inference that has its video
BLOCKED = "blocked by NVIDIA's guardrail"  # the reason of a video that would be blocked again

LATEST = 253_402_300_800.0  # the end of the year 9999, in seconds since 1970
AUTO = 0  # engine.in_flight: the worker finds out how many

# Exit codes. LOCKED: another worker holds the folder; UNAVAILABLE: the server is away, or took no request for
# engine.patience_s; NO_ACCESS: it refuses the key.
OK, BUG, LOAD_FAILED, UNAVAILABLE, LOCKED, NO_ACCESS, TIMEOUT, CANCELLED = 0, 1, 7, 69, 75, 77, 124, 143


# ------------------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True, slots=True)
class Checks:
    """What makes an answer unusable: cut_off, one that the token limit ended; script "latin", one mostly in another script."""

    cut_off: bool
    script: str


@dataclass(frozen=True, slots=True)
class UpsampleJob:
    """job.json of a job that upsamples.

    needed_len: the shortest context that serves all items, for an engine short of memory. images, clips: the most of a prompt.
    linger_s: without `closed`, the worker ends when it had nothing to do and no controller for so long. items_hash: which
    items the job is for, "" if not recorded. tokenizer: of a tiny model, for a host without it: its file, packed, in base64.
    """

    protocol: int
    engine: EngineSettings
    model: ModelSettings
    max_model_len: int
    max_output_tokens: int
    needed_len: int
    images: int
    temperature: float
    checks: Checks
    linger_s: float
    items_hash: str = ""
    kind: str = UPSAMPLE
    tokenizer: str = ""
    clips: int = 0
    answer: AnswerForm = field(default_factory=AnswerForm)

    @property
    def request_fields(self) -> Mapping[str, Any]:
        """What every request says beside its messages, model and sampling."""
        return {**self.model.request_fields, **json.loads(self.answer.fields or "{}")}

    @property
    def response_format(self) -> Mapping[str, Any]:
        """What asks the engine for answers of the wanted schema; empty where nothing does."""
        return self.answer.response_format(self.max_output_tokens, self.engine.name)


@dataclass(frozen=True, slots=True)
class InferJob:
    """job.json of a job that makes videos.

    argv: NVIDIA's command; {videos}, {spec} and {batch} in it are replaced for each round. groups: what the items of a round
    have in common, for Cosmos-Transfer1 a controlnet spec; items name theirs by its number. give_up_after: rounds in a row
    without a video. engine: how its folder is read (`video_engines`). keep_controls: keep the control videos that it makes.
    """

    protocol: int
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    groups: tuple[Mapping[str, Any], ...]
    max_attempts: int
    give_up_after: int
    grace_s: float
    time_limit_s: float
    kind: str = INFER
    engine: str = "transfer1"
    keep_controls: bool = False


@dataclass(frozen=True, slots=True)
class JobHeader:
    """What every job.json has. argv: an `InferJob` has one, and had no kind before."""

    protocol: int
    kind: str = UPSAMPLE
    argv: tuple[str, ...] = ()

    @property
    def infers(self) -> bool:
        return self.kind == INFER or bool(self.argv)


# ------------------------------------------------------------------------------------------------------------ items


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt to upsample. frames: files below the job folder; note: goes into the outcome.

    step: 0 at first; an item that the engine refused comes again, smaller, with the next step. pins: fields of a JSON answer
    that the clip decides. language: of the answer, "": that of the job.
    """

    id: FileName
    step: int
    prompt: str
    text: str
    system: str
    frames: tuple[Relative, ...]
    predicted: int | None
    max_tokens: int
    seed: int
    note: str
    pins: Mapping[str, Any] = field(default_factory=dict)
    language: Annotated[str, one_of("", "en", "zh")] = ""

    @property
    def input_hash(self) -> str:
        """Hash of what the model sees: the messages but for their blanks, and the frames by name, which is their content."""
        parts = json.dumps([self.system.split(), self.text.split(), self.frames])
        return hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class InferItem:
    """One video to make. group: its number; line: its line of NVIDIA's batch, without its name; frames: the files below the job
    folder that line and group name. Without a line, as jobs of older versions were staged: controls, which the spec's are
    overridden by."""

    id: FileName
    group: int
    prompt: str
    video: Relative
    controls: Mapping[str, Mapping[str, Any]]
    frames: tuple[Relative, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict)

    @property
    def as_line(self) -> dict[str, Any]:
        overrides = {"control_overrides": self.controls} if self.controls else {}
        return dict(self.line) or {"visual_input": self.video, "prompt": self.prompt, **overrides}


@dataclass(frozen=True, slots=True)
class Staged:
    """What every line of a batch file has. step: of an item that was refused, in the line that it then got."""

    id: FileName
    frames: tuple[Relative, ...] = ()
    step: int = 0


# --------------------------------------------------------------------------------------------------------- outcomes


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at an item; failed_check: why its answer was rejected, None for an answer that stands."""

    seed: int
    max_tokens: int
    failed_check: str | None = field(default=None, metadata={"key": "flaw"})


@dataclass(frozen=True, slots=True)
class EngineUsed:
    """The engine that answered; fallbacks: what was given up so that it could run, in order."""

    name: str = ""
    version: str = ""
    fallbacks: tuple[str, ...] = field(default=(), metadata={"key": "rungs"})


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of the prompt as planned and as the engine counted them, and of the answer; None: not known."""

    predicted: int | None = None
    measured: int | None = None
    output: int | None = None

    def wrong(self) -> str:
        return next(
            (f"{k}: is negative" for k in ("predicted", "measured", "output") if (getattr(self, k) or 0) < 0), ""
        )


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame as the engine was sent it; size: "WIDTHxHEIGHT"."""

    sha256: str
    bytes: int
    size: PixelSize


@dataclass(frozen=True, slots=True)
class Seconds:
    """What an item took: in all, until the first token, and waiting inside the engine; None: not known."""

    total: float | None = None
    first_token: float | None = None
    queue: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Lined):
    """How one item ended, or that the engine refused it.

    state: upsampled, kept (the original prompt is kept), failed or refused, with the reason. refusal: too_long or no_room
    when the engine had no room for it, or DAMAGED; limit: the longest request that it accepts, where it named one. text: the
    answer, for `upsampled`; rejected: the last one, for `kept`. input_hash: of the item. raw, reasoning: the answer as it came,
    and the thoughts, where they are not the text. negative: its negative prompt. flags: checks that it fails. at: when it
    ended, in seconds since 1970. used: of which attempt the text is, counted from 0; None: of the last.
    """

    id: FileName
    state: Annotated[str, one_of(UPSAMPLED, KEPT, FAILED, REFUSED)]
    reason: str = ""
    text: str | None = None
    note: str = ""
    attempts: tuple[Attempt, ...] = ()
    engine: EngineUsed = EngineUsed()
    tokens: TokenCounts = TokenCounts()
    finish_reason: str | None = None
    frames: tuple[SentFrame, ...] = ()
    seconds: Seconds = Seconds()
    refusal: str = ""
    limit: int | None = None
    rejected: str | None = None
    step: int = 0
    input_hash: str = field(default="", metadata={"key": "shown"})
    raw: str | None = None
    reasoning: str | None = None
    negative: str | None = None
    flags: tuple[str, ...] = ()
    at: float = 0.0
    used: int | None = None

    def wrong(self) -> str:
        """Asked by the reader, once all fields are."""
        if self.state == UPSAMPLED and says_nothing(self.text or ""):
            return "text: is empty"
        if (self.limit or 0) < 0:
            return f"limit: {self.limit} is negative"
        if self.used is not None and not 0 <= self.used < len(self.attempts):
            return f"used: there is no attempt {self.used}"
        return "" if 0 <= self.at < LATEST else f"at: {self.at:g} is not a time"


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file in the job folder, with its hash and size."""

    file: Relative
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class VideoOutcome:
    """How one item of inference ended: `done`, with the video's name in the job folder, its hash and size, or `failed`.
    controls: the control videos that were made for it, by the name of the control."""

    id: FileName
    state: Annotated[str, one_of(DONE, FAILED)]
    reason: str
    seconds: float | None
    attempts: int
    file: Relative = ""
    sha256: str = ""
    bytes: int = 0
    controls: Mapping[str, MadeFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """What every line of results.jsonl has."""

    id: str
    state: str


# --------------------------------------------------------------------------------------------------- events, the end


@dataclass(frozen=True, slots=True)
class Event:
    """A line of events.jsonl: a `phase` that began, a `heartbeat`, the `window`, or `busy`: why the engine answers nothing now.

    window: how many requests may be in flight, for this reason; running, waiting: requests that the server shows, kv: share
    of its KV cache in use, tokens_s: since the last such line.
    load_s: with `serving`, how long loading took. fallback: with `loading` and `restarting`, what was given up.
    log_line: the last line of the engine's log.
    """

    SPARSE: ClassVar[bool] = True

    event: str
    time: float
    phase: str = ""
    reason: str = ""
    load_s: float | None = None
    fallback: str = field(default="", metadata={"key": "rung"})
    restart: int = 0
    items: int = 0
    beat: int = 0
    answered: int = 0
    in_flight: int = 0
    window: int = 0
    running: int = 0
    waiting: int = 0
    kv: float | None = None
    tokens_s: float | None = None
    log_line: str = field(default="", metadata={"key": "said"})


@dataclass(frozen=True, slots=True)
class Exit:
    """exit.json: how a worker ended. not_started: ids of the items that it left."""

    code: int
    state: str
    reason: str = ""
    not_started: tuple[str, ...] = ()
    answered: int = 0


def fallback_state(prompt: str) -> str:
    """The state of an item without an answer: its original prompt is kept, if there is one."""
    return KEPT if prompt.strip() else FAILED
