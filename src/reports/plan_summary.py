"""A plan in short: its problems with their reasons, and its items by size; the same as a table in a file, and as JSON."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ..files import open_atomic
from ..planning.plan import Plan, PlanItem
from ..text import cell, printable

MAX_REASONS = 10


@dataclass(slots=True)
class Group:
    """Items of a plan that have something in common: what it is, how many, and the first of them."""

    label: str
    first: PlanItem
    items: int = 0
    least: int = 0
    most: int = 0

    def add(self, item: PlanItem) -> None:
        """Count an item in. least, most: prompt tokens."""
        tokens = item.tokens.prompt
        self.least, self.most = min(self.least, tokens) if self.items else tokens, max(self.most, tokens)
        self.items += 1


@dataclass(frozen=True, slots=True)
class Groups:
    """not_served: by reason, items whose original prompt is kept. text_only: by reason, items that the model gets without
    frames. sizes: by size and number of frames, items that run."""

    not_served: Sequence[Group]
    text_only: Sequence[Group]
    sizes: Sequence[Group]


def tabulated(plan: Plan, file: Path) -> Groups:
    """Write plan.csv, for spreadsheets: one line per item, those with a problem first; the groups of the items, each kind with
    the largest first."""
    not_served: dict[str, Group] = {}
    text_only: dict[str, Group] = {}
    sizes: dict[str, Group] = {}
    with open_atomic(file) as f, TemporaryFile("w+", encoding="utf-8", newline="") as others:
        f.write("\ufeff")  # by which spreadsheets know UTF-8
        troubled, fine = csv.writer(f, lineterminator="\n"), csv.writer(others, lineterminator="\n")
        troubled.writerow(COLUMNS)
        for item in plan.items:
            (troubled if item.problem else fine).writerow(cell(printable(str(value))) for value in _cells(item))
            if item.problem:
                kind = _kind(item)
                # Reasons that differ in nothing but their numbers are one.
                found = text_only if item.fits else not_served
                found.setdefault(re.sub(r"\d+", "N", kind), Group(kind, item)).add(item)
            if item.fits:
                hint = item.hint
                label = f"{hint.frames} x {hint.width_px}x{hint.height_px}" if hint else "no frames"
                sizes.setdefault(label, Group(label, item)).add(item)
        others.seek(0)
        shutil.copyfileobj(others, f)
    return Groups(*(sorted(g.values(), key=lambda g: -g.items) for g in (not_served, text_only, sizes)))


def _kind(item: PlanItem) -> str:
    """A problem without the clip that has it."""
    clip, _, kind = item.problem.partition(": ")
    return kind if item.video_path and kind and Path(clip).name == Path(item.video_path).name else item.problem


def lines_of(plan: Plan, groups: Groups) -> Iterator[str]:
    """Problems first, then how many items have which size."""
    total = len(plan.items)
    for found, what in (
        (groups.not_served, "cannot be upsampled and keep their original prompt"),
        (groups.text_only, "are upsampled from their text only"),
    ):
        if found:
            yield f"{sum(g.items for g in found):,} of {total:,} items {what}:"
            for group in found[:MAX_REASONS]:
                others = f", and {group.items - 1:,} more" if group.items > 1 else ""
                clip = f": {group.first.video_path}" if group.label != group.first.problem else ""
                yield f"  {group.items:>6,}  {group.label}  ({group.first.name}{clip}{others})"
            if len(found) > MAX_REASONS:
                yield f"  … and {len(found) - MAX_REASONS} more reasons in plan.csv"
    limit = plan.settings.effective_len or plan.settings.max_model_len
    for group in groups.sizes:
        tokens = f"{group.least:,}" if group.least == group.most else f"{group.least:,} to {group.most:,}"
        share = (group.most + group.first.tokens.output_reserved) / limit
        yield f"{group.items:>8,}  items with {group.label}  {tokens} tokens, at most {share:.0%} of the budget"


def as_json(plan: Plan, groups: Groups, files: dict[str, Any]) -> dict[str, Any]:
    """For console.format=json. files: what else there is to say about the plan."""
    return {
        **files,
        "items": len(plan.items),
        "fit": plan.summary.fit,
        "requests": plan.summary.sent,
        "max_model_len": plan.settings.max_model_len,
        "max_output_tokens": plan.settings.max_output_tokens,
        "problems": [
            {"reason": g.label, "items": g.items, "first": g.first.name, "kept": g in groups.not_served}
            for g in (*groups.not_served, *groups.text_only)
        ],
        "sizes": [
            {"frames": g.label, "items": g.items, "min_tokens": g.least, "max_tokens": g.most} for g in groups.sizes
        ],
    }


COLUMNS = (
    *("name", "verdict", "problem", "source", "hint", "frames", "shrunk_from"),
    *("prompt_tokens", "output_reserved", "video_path", "prompt", "file"),
)


def _cells(item: PlanItem) -> tuple[Any, ...]:
    served = "text only" if item.problem else "unverified" if item.unverified else ""
    verdict = "not served" if not item.fits else served or ("shrunk" if item.shrunk_from else "fits")
    hint, video = item.hint, item.video
    return (
        *(item.name, verdict, item.problem, video.size if video else ""),
        *((f"{hint.width_px}x{hint.height_px}", hint.frames) if hint else ("", 0)),
        *(item.shrunk_from or "", item.tokens.prompt, item.tokens.output_reserved),
        *(item.video_path or "", item.prompt, item.source),
    )
