"""What the tests of prompts share: prompt files in every text format, what is read from them, and what is wrong with them."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from src.errors import ExitCode, SpecError
from src.prompts.specs import PromptSpec, read_specs

Items = list[dict[str, Any]]
Write = Callable[..., Path]
TWO: Items = [
    {"name": "one", "prompt": "A red car", "video_path": "clips/one.mp4"},
    {"name": "two", "prompt": "Ein blaues Auto, 红色", "video_path": "clips/two.mp4"},
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a prompt file and returns its path."""

    def written(content: str | bytes, name: str = "prompts.json") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return written


def as_lines(items: Items) -> str:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def as_csv(items: Items) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(items[0]))
    writer.writeheader()
    writer.writerows(items)
    return out.getvalue()


TEXT_FORMATS = pytest.mark.parametrize("form", [json.dumps, as_lines, as_csv], ids=["list", "lines", "csv"])


def specs(*files: Path) -> list[PromptSpec]:
    return list(read_specs(list(files)))


def problems(*files: Path) -> list[str]:
    """What is wrong, without the folder in front."""
    with pytest.raises(SpecError) as caught:
        specs(*files)
    assert caught.value.exit_code is ExitCode.INPUT
    return [problem.replace(f"{files[0].parent}/", "") for problem in caught.value.problems]


def peak_bytes(items: Iterable[object]) -> int:
    """The most bytes in use while items were read one by one."""
    tracemalloc.start()
    try:
        for _ in items:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
