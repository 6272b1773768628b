"""All paths of a run in one place, who may work there, and how files appear: whole, or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import RunLocked

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names that Windows keeps for devices; specs travel between machines.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run folder; makes nothing."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def command(self) -> Path:
        """The command that made this run."""
        return self.root / "command.txt"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def journal(self) -> Path:
        """Every item that ended, in order of ending; the truth for a resumed run."""
        return self.root / "journal.jsonl"

    @property
    def review(self) -> Path:
        """What a person said about the texts."""
        return self.root / "review.jsonl"

    @property
    def timings(self) -> Path:
        """What the phases of each start took."""
        return self.root / "timings.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def hints(self) -> Path:
        return self.root / "hints"

    @property
    def jobs(self) -> Path:
        """One folder a job, named by the job's id."""
        return self.root / "job"

    @property
    def pipeline(self) -> Path:
        """How inference was begun; what task=pipeline run=FOLDER goes on with."""
        return self.root / "pipeline.json"

    @property
    def inference(self) -> Path:
        """One folder an inference job, named by the job's id."""
        return self.root / "inference"

    @property
    def videos(self) -> Path:
        """The videos that Cosmos made, one an item."""
        return self.root / "videos"

    @property
    def inference_results(self) -> Path:
        return self.root / "inference.json"

    @property
    def specs(self) -> Path:
        return self.root / "specs"

    @property
    def made(self) -> Path:
        """Specs that task=spec made."""
        return self.root / "prompts"

    @property
    def parquet(self) -> Path:
        return self.root / "results.parquet"

    @property
    def dataset(self) -> Path:
        """A folder for Hugging Face's `datasets`."""
        return self.root / "dataset"

    @property
    def openai_batch(self) -> Path:
        return self.root / "openai_batch.jsonl"

    @property
    def cosmos3(self) -> Path:
        return self.root / "cosmos3.jsonl"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def summary(self) -> Path:
        return self.root / "summary.csv"

    @property
    def batch(self) -> Path:
        return self.root / "batch.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Hold the run folder for this process; raises RunLocked when another one has it."""
    import fcntl

    paths.root.mkdir(parents=True, exist_ok=True)
    with open(paths.lock, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(
                f"{paths.root}: another process works in this run folder",
                hint="wait for it, or stop it; then run the same command again",
            ) from None
        yield


def is_safe_name(name: str) -> bool:
    """Whether a name can be a file name as it stands, on every system."""
    return bool(_SAFE_NAME.fullmatch(name)) and not name.endswith(".") and not _RESERVED.fullmatch(name)


def safe_name(name: str) -> str:
    """`name` if it is a safe file name; else what can be kept of it plus a hash that keeps it apart from others."""
    if is_safe_name(name):
        return name
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-._")[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{kept}-{digest}" if kept else f"item-{digest}"


def link_whole(source: Path, target: Path) -> None:
    """The same file under another name, unless that is there; a copy where the file system has no links."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.part")
    aside.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), aside)
    except OSError:
        shutil.copyfile(source, aside)
    os.replace(aside, target)


@contextmanager
def appearing(path: Path, *, errors: str = "strict") -> Iterator[IO[str]]:
    """A text file to write into, which stands at `path` when the block ends well, and nowhere when it does not.

    It is written aside, flushed to disk and renamed; a missing folder is made. errors: what to do about characters
    that UTF-8 has no bytes for, as in `open`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        with open(aside, "w", encoding="utf-8", errors=errors, newline="") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file as `appearing` does."""
    with appearing(path) as f:
        if isinstance(data, str):
            f.write(data)
        else:
            f.buffer.write(data)  # type: ignore[attr-defined]


@contextmanager
def appearing_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which stands at `path`, in place of what stood there, when the block ends well, and nowhere
    when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    old = path.with_name(f"{aside.name}.old")
    aside.mkdir()
    try:
        yield aside
        if path.exists():
            os.rename(path, old)
        os.rename(aside, path)
    except BaseException:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
