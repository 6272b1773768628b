"""What inference would do, in lines of text: rounds, commands, files, and what is left out. Starts nothing."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .items import InferenceItem
from .job import infer_job, specs_of
from .settings import InferenceSettings

NAMELESS = '"name": ""'  # as lines of samples are before the worker names them
SHOWN = 10  # items of a round that are named


def lines_of(wanted: Sequence[InferenceItem], settings: InferenceSettings) -> Iterator[str]:
    """One round for each load of the model; further ones follow only where an item ends the program."""
    made = list({item.id: item for item in wanted if item.id}.values())
    groups = specs_of(made)
    job = infer_job(groups, settings)
    yield f"{settings.how}: {len(made)} videos, loads of the model: {len(groups)}, pieces: {sum(i.pieces for i in made)}"
    if settings.image.reference:
        yield f"  image        {settings.image.reference}"
    yield f"  command      {shlex.join(job.argv)}"
    if job.cwd:
        yield f"  in           {job.cwd}"
    yield from (f"  environment  {name}={value}" for name, value in job.env.items())
    for n, group in enumerate(groups):
        items = [item for item in made if item.group == group]
        yield f"round {n + 1}      {len(items)} videos" + (f", {group}" if group != "{}" else "")
        for item in items[:SHOWN]:
            yield f"  {item.name:<12} " + item.line.replace(NAMELESS, NAMELESS[:-1] + item.id + '"', 1)
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
