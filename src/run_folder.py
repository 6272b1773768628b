"""One run folder: where its files are, and who may write there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import RunLocked


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run folder; creates nothing."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def command(self) -> Path:
        """The command that started this run."""
        return self.root / "command.txt"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def journal(self) -> Path:
        """Every item that ended, in order of ending; what a resumed run relies on."""
        return self.root / "journal.jsonl"

    @property
    def points(self) -> Path:
        """The points of task=limits."""
        return self.root / "points.json"

    @property
    def review(self) -> Path:
        """Verdicts about the texts."""
        return self.root / "review.jsonl"

    @property
    def timings(self) -> Path:
        """Timings of the phases of each start."""
        return self.root / "timings.json"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def hints(self) -> Path:
        return self.root / "hints"

    @property
    def jobs(self) -> Path:
        """One folder per job, named by its id."""
        return self.root / "job"

    @property
    def pipeline(self) -> Path:
        """How inference was started, so that it can be resumed."""
        return self.root / "pipeline.json"

    @property
    def inference(self) -> Path:
        """One folder per inference job, named by its id."""
        return self.root / "inference"

    @property
    def videos(self) -> Path:
        """The videos that Cosmos made, one per item."""
        return self.root / "videos"

    @property
    def video_prompts(self) -> Path:
        """Those videos with their prompts, as a prompt file for a run that goes on with them."""
        return self.videos / "prompts.jsonl"

    @property
    def inference_results(self) -> Path:
        return self.root / "inference.json"

    @property
    def specs_list(self) -> Path:
        """The updated specs, one a line."""
        return self.root / "specs.jsonl"

    @property
    def specs(self) -> Path:
        """The updated specs, a file each (output.specs=files)."""
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
    def texts(self) -> Path:
        return self.root / "txt"

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
                f"{paths.root}: another process uses this run folder",
                hint="wait for it, or stop it; then run the same command again",
            ) from None
        yield
