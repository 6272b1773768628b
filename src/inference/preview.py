"""What inference would do, in lines of text: rounds, commands, files, and what is left out. Starts nothing."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..text import counted
from .items import InferenceItem
from .job import infer_job, specs_of
from .settings import InferenceSettings

SHOWN = 10  # items of a round that are named


def lines_of(wanted: Sequence[InferenceItem], settings: InferenceSettings) -> Iterator[str]:
    """One round for each load of the model; further ones follow only where an item ends the program."""
    made = list({item.id: item for item in wanted if item.id}.values())
    groups = specs_of(made)
    job = infer_job(groups, settings)
    pieces = sum(item.pieces for item in made)
    yield f"{settings.how}: {counted(len(made), 'video')}, loads of the model: {len(groups)}, pieces: {pieces}"
    if settings.image.reference:
        yield f"  image        {settings.image.reference}"
    yield f"  command      {shlex.join(job.argv)}"
    if job.cwd:
        yield f"  in           {job.cwd}"
    yield from (f"  environment  {name}={value}" for name, value in job.env.items())
    for n, group in enumerate(groups):
        items = [item for item in made if item.group == group]
        yield f"round {n + 1}      {counted(len(items), 'video')}" + (f", {group}" if group != "{}" else "")
        for item in items[:SHOWN]:
            line = json.loads(item.line)
            named = {**line, "name": item.id} if "name" in line else line  # the worker names samples by their ids
            yield f"  {item.name:<12} {json.dumps(named)}"
            yield from (f"    {name}  {path}" for name, path in item.files)
        if len(items) > SHOWN:
            yield f"  and {len(items) - SHOWN} more"
    files = {path for item in made for _, path in item.files}
    size = sum(Path(path).stat().st_size for path in files)
    yield f"files        {len(files)} to send, {size / 1e6:.1f} MB"
    left_out = [item for item in wanted if not item.id]
    yield f"left out     {len(left_out)}"
    for reason, count in Counter(item.left_out for item in left_out).most_common(SHOWN):
        first = next(item.name for item in left_out if item.left_out == reason)
        yield f"  {first}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
