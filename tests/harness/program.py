"""A call of the program, as end-to-end tests make it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.worker.journal import read_records

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How one call of the program ended."""

    code: int
    out: str
    err: str


def quoted(value: Path | str) -> str:
    """A value as Hydra's command line wants it, whatever letters it holds."""
    return '"' + str(value).replace('"', '\\"') + '"'


def start(
    *overrides: str, limit_bytes: int | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The program in a process of its own; limit_bytes: of every file that it writes."""

    def prepare() -> None:
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [sys.executable, "-m", "src.run", *overrides], cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=prepare, env=env,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout_s: float = 120.0) -> Ended:
    out, err = process.communicate(timeout=timeout_s)
    return Ended(process.returncode, out, err)


def program(
    *overrides: str, limit_bytes: int | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 120.0
) -> Ended:
    """The program from its start to its end."""
    return ended(start(*overrides, limit_bytes=limit_bytes, env=env), timeout_s)


def wait_for(what: Callable[[], bool], seconds: float = 60.0, step_s: float = 0.01) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(step_s)


def write_prompts(file: Path, video: Path | str, count: int) -> Path:
    """A list of distinct prompts over one clip."""
    file.parent.mkdir(parents=True, exist_ok=True)
    items = [{"name": f"take {n}", "prompt": f"A boat, take {n}.", "video_path": str(video)} for n in range(count)]
    file.write_text(json.dumps(items, ensure_ascii=False), encoding="utf-8")
    return file


def results_of(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return rows


def plan_of(run: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    return plan


def journalled(run: Path) -> list[str]:
    """Ids of the items that ended, in order of ending."""
    return [r["id"] for r in read_records(run / "journal.jsonl")]
