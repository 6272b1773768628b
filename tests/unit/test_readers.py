"""Every reader of a file or a message that others may have written: it reads it, or refuses it in its own way, whatever the
bytes are. Each starts from bytes that are valid, and damages them."""

from __future__ import annotations

import io
import json
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import InputError, UpsamplerError, VideoError
from src.hosts import docker
from src.hosts.connect import root_on
from src.hosts.host import CommandResult, Limit, LocalHost
from src.hosts.job_folder import JobPaths, State
from src.hosts.known_hosts import KnownHosts
from src.hosts.mirror import Location, RemoteFolder, locate, peek
from src.hosts.stale_jobs import jobs_on
from src.hosts.transfer import BEGUN, fetch, send
from src.inference.pipeline_file import read_pipeline
from src.media.frames import read_frames
from src.media.guard import Guard
from src.media.render import Manifest
from src.media.video import VideoLimits, probe
from src.models import ask
from src.planning import observed_limits
from src.planning.plan_file import read_plan
from src.prompts.specs import read_specs
from src.reports.provenance import read_lines
from src.reports.reviews import Mark, read_marks, read_verdicts
from src.reports.rows import read_rows
from src.reports.videos import Choice, read_videos
from src.run_folder import RunPaths
from src.runs.answer_cache import AnswerCache
from src.runs.outcomes import Outcomes
from src.runs.run_record import read_record
from src.runs.run_state import RunState, _with_videos
from src.targets.target import messages_in
from src.timing.estimates import VideoTiming
from src.timing.history import recall
from src.timing.phases import read_starts
from src.worker.journal import read_records
from src.worker.protocol import Event, Exit, Item, JobHeader, Outcome, UpsampleJob, VideoOutcome
from src.worker.records import InvalidRecord, from_file, to_line
from src.worker.refusals import classify, counted_tokens, message_of, named_limit
from src.worker.replies import completion_of, pause_of
from src.worker.signals import Signals
from src.worker.streams import Response
from tests.harness.clips import make_clip
from tests.harness.fake_host import HOST
from tests.harness.records import JOB

PLAN = Path(__file__).parent / "planning" / "plan_v1.json"
PIPELINE = Path(__file__).parent / "inference" / "pipeline_v1.json"


class Says(LocalHost):
    """A host that says the same to everything; to some of it, that a file was begun."""

    def __init__(self, said: bytes) -> None:
        super().__init__("box")
        self.said = said

    def run(self, argv: Sequence[str], feed: Any = (), *, limit: Limit | None = None) -> CommandResult:
        list(feed)
        return CommandResult(BEGUN if "new" in argv else 0, self.said, b"")

    def stream(self, argv: Sequence[str]) -> Iterator[bytes]:
        yield self.said


@dataclass(frozen=True)
class Reader:
    """valid: bytes that it reads. read: reads a file with such bytes. refuses: what it may raise."""

    valid: bytes
    read: Callable[[Path], object]
    refuses: tuple[type[Exception], ...] = (InvalidRecord, InputError)


def lines(*records: object) -> bytes:
    return b"".join(f"{to_line(record)}\n".encode() for record in records)


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("videos/a.mp4")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return packed.getvalue()


def plan_of(file: Path) -> object:
    plan = read_plan(file)
    return list(plan.items)


def starts_of(file: Path) -> object:
    return read_starts(file)


def as_job(file: Path, name: str) -> JobPaths:
    (file.parent / "batches").mkdir(exist_ok=True)
    file.replace(file.parent / name)
    return JobPaths(file.parent)


def cached(file: Path) -> object:
    file.replace(file.parent / "answers.sqlite")
    cache = AnswerCache(file.parent)
    cache.put([("a", to_line(Outcome("a", "upsampled", text="A boat.")))])
    return list(cache.find(["a", "b"]))


def fetched(file: Path) -> object:
    target = file.parent / "target"
    fetch(Says(file.read_bytes()), "/jobs/a", {"videos/a.mp4": 3}, target)
    return [path.resolve().relative_to(target.resolve()) for path in target.rglob("*")]  # ValueError for one outside


def pipeline_of(file: Path) -> object:
    file.replace(file.parent / "pipeline.json")
    return read_pipeline(RunPaths(file.parent))


ITEM = Item("a", 0, "a boat", "a boat", "", ("frames/1.png",), 7, 20, 1, "")
EVENTS = Event("phase", 1.0, phase="serving", load_s=1.0), Event("heartbeat", 2.0, beat=1)
OUTCOMES = Outcome("a", "upsampled", text="A boat."), Outcome("b", "kept", reason="cut off")
REPLY = b'data: {"choices": [{"delta": {"content": "A"}}]}\n\ndata: {"usage": {"prompt_tokens": 7}}\n\ndata: [DONE]\n\n'
METRICS = (
    b"vllm:num_requests_running 3\nvllm:generation_tokens_total 1e3\n"
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="90"} 1.0\n'
)
INSPECTED = b"exited 0 false 0123456789abcdef /data"
LIMITS = {
    "key": {"host": "h", "image": "", "engine": "e", "model": "m", "version": "1", "max_model_len": 9}
    | {"accepted": 1, "refused": None, "measured_at": ""}
}
STARTS = {"starts": [{"started": "", "ended": "", "seconds": 1.0, "phases": {}, "estimated_s": {}, "versions": {}}]}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "name": "boat", "original_prompt": "a boat", "upsampled_prompt": "A boat.", "video_path": None}
    | {"preprocessed_video": None, "state": "upsampled", "reason": "", "note": "", "attempts": 1, "engine": "offline"}
    | {"finish_reason": None, "seconds": 1.0, "shrunk_from": None, "flags": [], "review": None}
    | {
        "tokens": dict.fromkeys(
            ["predicted", "measured", "output", "image", "text", "output_reserved", "linear_estimate"], 1
        )
    }
    | {"frames": [{"sha256": "a", "bytes": 1, "size": "2x2", "file": "frames/1.png"}]}
]
ROW = json.dumps(ROWS[0]).encode()
SPECS = [{"name": "a", "prompt": "a boat", "video_path": "a.mp4"}, {"name": "b", "prompt": "another", "seed": 3}]
SUFFIXES = {"prompt list": ".json", "prompt lines": ".jsonl", "prompt table": ".csv", "prompt texts": ".txt"}


def specs_of(file: Path, suffix: str) -> object:
    return list(read_specs([file.replace(file.with_suffix(suffix))]))


def answered(file: Path) -> object:
    """What a client makes of these bytes on a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(file.read_bytes())
        theirs.shutdown(socket.SHUT_WR)
        response = Response(ours, lambda events, first_s: None)
        while not response.read():
            pass
        return completion_of(response.body)


def from_host(use: Callable[[LocalHost, JobPaths], object], file: Path) -> object:
    """What the controller makes of a host that says these bytes; it sends no other file than the job's."""
    job = JobPaths(file.parent / "job")
    job.batches.mkdir(parents=True)
    job.frames.mkdir()
    (job.batches / "0.jsonl").write_bytes(lines(ITEM))
    for path in (job.frames / "1.png", job.job, job.worker):
        path.touch()
    job.results.write_bytes(lines(*OUTCOMES))
    return use(Says(file.read_bytes()), job)


def mirror_of(host: LocalHost, job: JobPaths) -> RemoteFolder:
    return RemoteFolder(host, job, Location("/data", "/data/jobs/a", "0:0"))


@cache
def clip_bytes(suffix: str) -> bytes:
    with TemporaryDirectory() as folder:
        codec = "mpeg4" if suffix == ".avi" else "libx264"
        return make_clip(Path(folder) / f"clip{suffix}", size=(64, 48), fps=8, seconds=1, codec=codec).read_bytes()


def clip_of(file: Path, suffix: str) -> object:
    video = probe(file.replace(file.with_suffix(suffix)), VideoLimits(10**6, 10**6, 60.0, 5.0))
    return read_frames(Path(video.path), "head", 2, 2.0, video.duration_s, Guard("clip", 5.0, 10**6))


def record_of(file: Path) -> object:
    file.replace(file.parent / "run.json")
    shutil.copyfile(PLAN, file.parent / "plan.json")
    return read_record(RunPaths(file.parent))


def videos_of(file: Path) -> object:
    file.replace(file.parent / "inference.json")
    (file.parent / "pipeline.json").touch()
    return _with_videos(RunState("complete", 1, 1, {}), RunPaths(file.parent))


def compared(file: Path) -> object:
    file.replace(file.parent / "inference.json")
    return read_videos(file.parent)


def joined(file: Path) -> object:
    """A RunSpec with these bytes as the PromptSpec beside it."""
    file.replace(file.parent / "prompt.json")
    run = file.parent / "run.json"
    run.write_text('{"id": "r", "prompt_id": "p", "control_weights": {"depth": 1}}')
    return list(read_specs([run]))


def messages_of(file: Path) -> object:
    return messages_in(str(file.replace(file.with_suffix(".yaml"))))


READERS: dict[str, Reader] = {
    "results": Reader(lines(*OUTCOMES), lambda f: list(read_records(f, Outcome))),
    "videos": Reader(
        lines(VideoOutcome("a", "done", "", 1.0, 1, "v/a.mp4")), lambda f: list(read_records(f, VideoOutcome))
    ),
    "events": Reader(lines(*EVENTS), lambda f: list(read_records(f, Event))),
    "batch": Reader(lines(ITEM), lambda f: as_job(f, "batches/0.jsonl").staged()),
    "exit record": Reader(lines(Exit(0, "done")), lambda f: as_job(f, "exit.json").exit_record(), ()),
    "job": Reader(lines(JobHeader(1)), lambda f: as_job(f, "job.json").header()),
    "journal": Reader(lines(*OUTCOMES), lambda f: [*Outcomes(f).values()]),
    "plan": Reader(PLAN.read_bytes(), plan_of),
    "pipeline": Reader(PIPELINE.read_bytes(), pipeline_of),
    "hint": Reader(lines(Manifest((), None)), lambda f: from_file(Manifest, f)),
    "timings of a run": Reader(json.dumps(STARTS).encode(), starts_of, ()),
    "timings of earlier runs": Reader(b'{"k": [{"pieces": 1}]}', lambda f: recall(f, "k", VideoTiming), ()),
    "limits": Reader(json.dumps(LIMITS).encode(), observed_limits.read),
    "answer cache": Reader(b"SQLite format 3\0" + b"\0" * 84, cached, ()),
    "tar of a host": Reader(tar(), fetched, (UpsamplerError,)),
    "job on a host": Reader(
        b"1\n\n9\n\n{}", lambda f: peek(Says(f.read_bytes()), "/jobs/a", State("ended")), (UpsamplerError,)
    ),
    "docker": Reader(INSPECTED, lambda f: docker.state_of(f.read_text(errors="replace")), (ValueError,)),
    "endpoint": Reader(REPLY, lambda f: completion_of(f.read_bytes()), (InvalidRecord,)),
    "counts of a server": Reader(b'["a", 7]\n["b", "too large"]\n', ask._kept, ()),
    "replies on a connection": Reader(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(REPLY), REPLY),
        answered,
        (InvalidRecord, HTTPException, ValueError, IndexError),  # as `Reader` of `streams` takes them
    ),
    "pause of a server": Reader(b"12", lambda f: pause_of(f.read_text("latin-1")), ()),
    "refusal of a server": Reader(
        b'{"error": {"message": "maximum context length is 9 tokens"}}',
        lambda f: [ask(f.read_text(errors="replace")) for ask in (message_of, classify, counted_tokens, named_limit)],
        (),
    ),
    "job of a worker": Reader(lines(JOB), lambda f: from_file(UpsampleJob, f)),
    "rows": Reader(b"[\n" + ROW + b",\n" + ROW + b"\n]\n", lambda f: list(read_rows(f)), (InputError,)),
    "rows of another program": Reader(json.dumps(ROWS).encode(), lambda f: list(read_rows(f)), (InputError,)),
    "record of a run": Reader(
        b'{"name": "a", "prompts": "p.json", "items": 3, "outputs": {"a": [1, 2]}}', record_of, ()
    ),
    "videos of a run": Reader(b'[{"state": "done"}, {"state": "failed"}]', videos_of, ()),
    "verdicts": Reader(lines(Mark("boat", "edited", "A boat.")), read_marks, (InputError,)),
    "collected verdicts": Reader(
        b'[{"name": "boat", "verdict": "accepted"}]', lambda f: read_verdicts(f, Mark), (InputError,)
    ),
    "choices": Reader(
        b'[{"name": "a", "run": "runs/1", "sha256": "0", "at": ""}]', lambda f: read_verdicts(f, Choice), (InputError,)
    ),
    "videos to compare": Reader(b'[{"name": "a", "state": "done"}]', compared, (InputError,)),
    "PromptSpec": Reader(
        b'{"id": "p", "name": "boat", "prompt": "A boat.", "control_inputs": {}}', joined, (InputError,)
    ),
    "provenance": Reader(b'{"sha256": "a", "id": "b"}\n', lambda f: list(read_lines(f)), (InputError,)),
    "messages": Reader(b"system: s\nuser: 'x {{ prompt }}'\n", messages_of, (InputError,)),
    "known hosts": Reader(
        b"@revoked box ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n|1|a|b ssh-rsa AAAA\n", lambda f: KnownHosts.read([f]), ()
    ),
    "metrics": Reader(METRICS, lambda f: Signals(lambda: f.read_text(errors="replace")).metrics(), ()),
}

READERS |= {
    f"host: {name}": Reader(valid, partial(from_host, use), (UpsamplerError,))
    for name, valid, use in (
        ("home", b"/home/me\n", lambda host, _: root_on(host, HOST)),
        ("space", b"/home/me\n1\n/data\n9999999\n", lambda host, job: locate(host, replace(HOST, root="/data"), job)),
        ("made", b"0" * 64 + b"  job.json\n", lambda host, job: mirror_of(host, job).create()),
        ("linked", b"1.png\n", lambda host, job: mirror_of(host, job).push()),
        ("polled", b"exited 0\n3\nabc\n2\nab\n", lambda host, job: mirror_of(host, job).poll(("true",))),
        ("begun", b"3 a.png\n", lambda host, job: send(host, {"a.png": PLAN}, "/jobs", "key")),
        ("stale", b"3 ended 7 0123456789abcdef\n", lambda host, _: jobs_on(host, HOST)),
    )
}
READERS |= {
    name: Reader(
        json.dumps(SPECS).encode() if suffix != ".csv" else b'prompt,video\n"a, b",a.mp4\n',
        partial(specs_of, suffix=suffix),
        (InputError,),
    )
    for name, suffix in SUFFIXES.items()
}
READERS |= {
    f"clip{suffix}": Reader(clip_bytes(suffix), partial(clip_of, suffix=suffix), (VideoError,))
    for suffix in (".mp4", ".mkv", ".avi")
}


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """The bytes with up to three places cut out, replaced or repeated, or other bytes altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = valid
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 12))
        word = draw(
            st.sampled_from([b"", b"\0", b"\n", b"{}", b"[]", b"null", b"-1", b'"x"', b"../", b"1e999", b"[" * 5000])
        )
        data = data[:at] + word + data[at + gone :]
    return data


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_reader_takes_or_refuses_any_bytes(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("read") / "file"
    file.write_bytes(data.draw(damaged(READERS[name].valid)))
    with suppress(*READERS[name].refuses):
        READERS[name].read(file)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", [b"[", b'{"a":'])
def test_reader_refuses_what_has_no_end(name: str, text: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(text * 5_000)
    with suppress(*READERS[name].refuses):
        READERS[name].read(file)
