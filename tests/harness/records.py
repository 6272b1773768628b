"""Records of jobs for tests: journals as raw JSON, and job, items and outcomes with plain values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.worker.job_settings import EngineSettings, ModelSettings
from src.worker.protocol import PROTOCOL, Checks, Item, UpsampleJob
from src.worker.records import to_line

ENGINE = EngineSettings(
    name="offline", max_attempts=3, in_flight=1, item_delay_s=0.0, base_url="", api_key_env="", api_key_file="",
    start_timeout_s=30.0, request_timeout_s=5.0, grace_s=30.0, time_limit_s=0.0, offload=False,
)  # fmt: skip
MODEL = ModelSettings(
    name="pixtral", checkpoint="/models/it's", tiny_random=False, tokenizer="", max_images=2, dtype="bfloat16",
    load_format="auto", gpu_memory_utilization=0.92, max_num_seqs=64, tensor_parallel_size=2, data_parallel_size=1,
    prefix_caching=True, extra_args=("--enforce-eager",),
)  # fmt: skip
JOB = UpsampleJob(
    protocol=PROTOCOL, engine=ENGINE, model=MODEL, max_model_len=4096, max_output_tokens=300, needed_len=1835, images=2,
    temperature=0.6, checks=Checks(cut_off=True, script=""), linger_s=30.0,
)  # fmt: skip


def item(item_id: str, **fields: Any) -> Item:
    """An item whose prompt names it; `fields` replace the plain values."""
    plain: dict[str, Any] = {
        "prompt": f"prompt {item_id}", "text": f"prompt {item_id}", "system": "", "frames": (), "predicted": None,
        "max_tokens": 300, "seed": 7, "step": 0, "note": "",
    }  # fmt: skip
    return Item(id=item_id, **plain | fields)


def journal_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, parsed as JSON; none for a missing file."""
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def ids_in(path: Path) -> list[str]:
    """The ids in a journal, in order."""
    return [line["id"] for line in journal_lines(path)]


def write_lines(path: Path, records: Iterable[object]) -> None:
    """Write records as a file of JSON lines that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent.parent / f"{path.name}.part"
    with open(aside, "w", encoding="ascii") as f:
        f.writelines(f"{to_line(record)}\n" for record in records)
    aside.rename(path)


def frame_of(content: bytes) -> str:
    """The name of a frame in a job folder: the hash of its content."""
    return f"{hashlib.sha256(content).hexdigest()}.png"
