"""RunSpecs of cosmos-houdini-pipeline: weights and parameters for the PromptSpec of another file, which they name by its id.

inputs/runs/DATE/NAME.json       a RunSpec: prompt_id, control_weights, parameters
inputs/prompts/DATE/NAME.json    its PromptSpec: id, prompt, input_video_path, control_inputs
"""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..worker.records import parsed
from .fields import VIDEO_FIELDS, Reading
from .paths import expanded, find_file

MAX_BYTES = 1_000_000  # of a PromptSpec; larger files are not looked at


def joined(raw: Any, file: Path, reading: Reading) -> Any:
    """A RunSpec with the fields of its PromptSpec, whose paths become absolute; any other item as it is.

    As that project runs it: the weights say which controls there are, and 0 is none. Raises LookupError where there is no such
    PromptSpec.
    """
    if not isinstance(raw, dict) or not {"prompt_id", "control_weights"} <= raw.keys() or reading.knows_any(raw):
        return raw
    wanted = str(raw["prompt_id"])
    known = (_specs_in(folder, pattern) for folder, pattern in _places(file, reading))
    source = next((found[wanted] for found in known if wanted in found), None)
    if source is None:
        raise LookupError(
            f"there is no PromptSpec {wanted} beside this RunSpec, below prompts= or in a folder prompts/ above"
        )

    def placed(written: Any) -> Any:
        is_path = isinstance(written, str) and written
        return str(find_file(source.parent, written, reading.roots, reading.checkouts)[0]) if is_path else written

    spec = parsed(source.read_bytes())
    weights, inputs = raw.get("control_weights"), spec.get("control_inputs")
    whole = {name: placed(value) if name in VIDEO_FIELDS else value for name, value in spec.items()} | raw
    if isinstance(weights, dict):
        whole["control_weights"] = {name: weight for name, weight in weights.items() if weight != 0}
        if isinstance(inputs, dict):
            whole["control_inputs"] = {
                name: placed(inputs[name]) for name in whole["control_weights"] if name in inputs
            }
    return whole


def _places(file: Path, reading: Reading) -> Iterator[tuple[Path, str]]:
    """Where PromptSpecs may be, the nearest first: folders, with a pattern of the files in each."""
    yield file.parent, "*.json"
    if reading.tree:
        parts = expanded(reading.tree).parts
        yield Path(*itertools.takewhile(lambda part: not glob.has_magic(part), parts)), "**/*.json"
    for folder in file.absolute().parents[1:3]:
        yield folder / "prompts", "**/*.json"


@lru_cache(maxsize=256)  # many RunSpecs share a folder
def _specs_in(folder: Path, pattern: str) -> dict[str, Path]:
    """The PromptSpecs of a folder by their ids; of several with one id, the last by its name, which has the time."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(pattern)):
        with suppress(OSError, ValueError):
            spec = parsed(path.read_bytes()) if path.stat().st_size <= MAX_BYTES else None
            if isinstance(spec, dict) and isinstance(spec.get("id"), str) and "prompt_id" not in spec:
                found[spec["id"]] = path
    return found
