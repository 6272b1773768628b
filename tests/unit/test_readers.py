"""Every reader of a file or a message that others may have written: it reads it, or refuses it in its own way, whatever the
bytes are. Each starts from bytes that are valid, and damages them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import InputError, UpsamplerError
from src.hosts import docker
from src.hosts.host import CommandResult, Limit, LocalHost
from src.hosts.job_folder import JobPaths
from src.hosts.mirror import peek
from src.hosts.transfer import fetch
from src.inference.pipeline_file import read_pipeline
from src.media.render import Manifest
from src.models import ask
from src.planning import observed_limits
from src.planning.plan_file import read_plan
from src.run_folder import RunPaths
from src.runs.answer_cache import AnswerCache
from src.runs.outcomes import Outcomes
from src.timing.estimates import VideoTiming
from src.timing.history import recall
from src.timing.phases import read_starts
from src.worker.journal import read_records
from src.worker.protocol import Event, Exit, Item, JobHeader, Outcome, VideoOutcome
from src.worker.records import InvalidRecord, from_file, to_line
from src.worker.replies import completion_of
from src.worker.signals import Signals

PLAN = Path(__file__).parent / "planning" / "plan_v1.json"
PIPELINE = Path(__file__).parent / "inference" / "pipeline_v1.json"


class Says(LocalHost):
    """A host that says the same to everything."""

    def __init__(self, said: bytes) -> None:
        super().__init__("box")
        self.said = said

    def run(self, argv: Sequence[str], feed: Any = (), *, limit: Limit | None = None) -> CommandResult:
        return CommandResult(0, self.said, b"")

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
    "job on a host": Reader(b"1\n\n{}", lambda f: peek(Says(f.read_bytes()), "/jobs/a"), (UpsamplerError,)),
    "docker": Reader(INSPECTED, lambda f: docker.state_of(f.read_text(errors="replace")), (ValueError,)),
    "endpoint": Reader(REPLY, lambda f: completion_of(f.read_bytes()), (InvalidRecord,)),
    "counts of a server": Reader(b'["a", 7]\n["b", "too large"]\n', ask._kept, ()),
    "metrics": Reader(METRICS, lambda f: Signals(lambda: f.read_text(errors="replace")).metrics(), ()),
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
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_reader_takes_or_refuses_any_bytes(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    reader = READERS[name]
    file = tmp_path_factory.mktemp("read") / "file"
    file.write_bytes(data.draw(damaged(reader.valid)))
    try:
        reader.read(file)
    except reader.refuses:
        pass
