"""The plan and the end of a run on a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..media import geometry
from ..models.family import Media
from ..planning.plan import Plan, PlanItem, smallest_max_model_len
from ..prompts.drafts import Listed
from ..run_folder import RunPaths
from ..text import duration, printable
from ..worker.protocol import FAILED, KEPT, UPSAMPLED
from .totals import Totals

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MAX_ROWS = 40


def print_plan(plan: Plan, console: Console, verbose_rows: int = MAX_ROWS) -> None:
    """The table of items and, below it, advice."""
    console.print(_table(plan, plan.items[:verbose_rows], console.width))
    if len(plan.items) > verbose_rows:
        console.print(f"… and {len(plan.items) - verbose_rows} more items, all in plan.json", style="dim")
    for line in advice(plan):
        print_prose(console, printable(line))


def print_prose(console: Console, text: str) -> None:
    """A sentence, broken between words where the width is that of a terminal; in a pipe or a file it stays one line."""
    is_narrow = console.is_terminal or "COLUMNS" in os.environ
    console.print(text, markup=False, highlight=False, soft_wrap=not is_narrow)


def _table(plan: Plan, items: Sequence[PlanItem], width: int) -> Table:
    """The rows in a terminal of this width: what is least needed makes room for the verdict."""
    from rich.table import Table
    from rich.text import Text

    rows = [_cells(item, plan) for item in items]
    widths = {name: min(max(len(name), *(len(row[name]) for row in rows)), most) for name, most in _WIDEST.items()}
    for name in _LEAST_NEEDED:
        if sum(widths.values()) + len(widths) <= width:
            break
        del widths[name]
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in widths:
        if name == "verdict":
            table.add_column(name, overflow="fold")
        elif name == "item":
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=_WIDEST[name])
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for item, row in zip(items, rows, strict=True):
        style = _verdict(item, plan)[1]
        table.add_row(*(Text(row[name], style=style if name == "verdict" else "") for name in widths))
    return table


# Columns, and how wide each may be before others make room for it.
_WIDEST = {"item": 28, "source": 10, "hint": 10, "frames": 6, "tokens": 8, "budget": 7, "verdict": 30}
_LEAST_NEEDED = ("source", "frames", "hint", "budget", "tokens")


def _cells(item: PlanItem, plan: Plan) -> dict[str, str]:
    used, limit = item.tokens.prompt + item.tokens.output_reserved, plan.settings.max_model_len
    return {
        "item": printable(item.name),
        "source": f"{item.video.size}" if item.video else "–",
        "hint": f"{item.hint.width_px}x{item.hint.height_px}" if item.hint else "–",
        "frames": str(item.hint.frames) if item.hint else "–",
        "tokens": f"{item.tokens.prompt}",
        "budget": f"{used / limit:.1%}" if item.hint or item.fits else "–",
        "verdict": printable(_verdict(item, plan)[0]),
    }


def _verdict(item: PlanItem, plan: Plan) -> tuple[str, str]:
    if item.fits and not item.hint and plan.settings.engine.name == "offline":
        return "will be kept: engine=offline needs frames to measure", "yellow"
    return verdict_of(item)


def verdict_of(item: PlanItem) -> tuple[str, str]:
    """The verdict in words, and its style."""
    if not item.fits:
        return item.problem, "red"
    if item.problem:
        return f"from the text only: {item.problem}", "yellow"
    note = f"; {item.note}" if item.note else ""
    if item.unverified:
        return f"unverified: the server decides{note}", "yellow"
    if item.shrunk_from:
        return f"fits, shrunk from {item.shrunk_from}{note}", "yellow"
    return f"fits{note}", "green"


def advice(plan: Plan) -> list[str]:
    """What fits, what was made smaller, what the budget would allow, and the smallest budget that serves all."""
    settings, sums = plan.settings, plan.summary
    lines = [
        f"{sums.fit} of {sums.items} items fit max_model_len={settings.max_model_len} with "
        f"{settings.max_output_tokens} tokens reserved for each answer "
        f"({_plural(sums.sent, 'distinct request')}, {_plural(len(sums.clips), 'clip')}, {_plural(len(plan.batches), 'batch')})."
    ]
    if settings.effective_len:
        lines.append(
            f"The engine on {settings.host.name} was observed to refuse requests that max_model_len={settings.max_model_len} "
            f"allows: this plan limits each request to {settings.effective_len} tokens (limits.json in {settings.cache_dir})."
        )
    if settings.family.note:
        lines.append(settings.family.note)
    if first := sums.first_shrunk:
        lines.append(
            f"{sums.shrunk} were made smaller to fit, the first of them {first.name!r} from {first.shrunk_from}."
        )
    if sums.refused:
        lines.append(f"{sums.refused} cannot be served: {_names(sums.refused_names, sums.refused)}.")
    if plan.unused_fields:
        lines.append(f"Fields that upsampling does not use: {', '.join(plan.unused_fields)}.")
    if not settings.model.text_only and (larger := _larger_hint(plan)):
        lines.append(f"Your budget would allow {larger}: upsample=best_fit")
    if not sums.shrunk and sums.longest_with_hint is not None:
        need = smallest_max_model_len([sums.longest_with_hint], settings.max_output_tokens + settings.text_margin)
        lines.append(f"The smallest budget that serves every hint of this plan: budget.max_model_len={need}")
    return lines


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 'es' if word.endswith('h') else 's'}"


def _names(first: Sequence[str], count: int) -> str:
    names = ", ".join(map(repr, first))
    return names + (f" and {count - len(first)} more" if count > len(first) else "")


def _larger_hint(plan: Plan) -> str | None:
    """The best_fit size for the most frequent shape of clip, when it is larger than what is planned."""
    s, sums = plan.settings, plan.summary
    for (source, media), _count in sums.shapes.most_common():
        planned, other = sums.planned[source], sums.other[source]
        free = (s.effective_len or s.max_model_len) - s.max_output_tokens - s.text_margin - other

        def fits(size: geometry.Size, media: Media = media, free: int = free) -> bool:
            return s.family.media_tokens(size, media) <= free

        best = geometry.best_fit(s.family.sizes(source, media), fits)
        if best and best.width_px * best.height_px > planned.width_px * planned.height_px:
            return str(best) if len(sums.shapes) == 1 else f"{best} for the clips of {source}"
    return None


def print_specs(specs: Sequence[Listed], console: Console) -> None:
    """The first specs and their clips."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name, width in (("name", 18), ("prompt", max(18, console.width - 62)), ("video", 18)):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    for name in ("size", "fps", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for spec in specs[:MAX_ROWS]:
        facts = (f"{spec.video.size}", f"{spec.video.fps:.4g}", f"{spec.video.duration_s:.1f}") if spec.video else "–––"
        table.add_row(
            Text(printable(spec.name)),
            Text(printable(" ".join(spec.prompt.split())) or "–", style="" if spec.prompt.strip() else "dim"),
            Text(printable(spec.path.name) if spec.path else "–", style="red" if spec.problem else ""),
            *facts,
        )
    if specs:
        console.print(table)
    if len(specs) > MAX_ROWS:
        console.print(f"… and {len(specs) - MAX_ROWS} more", style="dim")


def print_end(
    plan: Plan,
    totals: Totals,
    paths: RunPaths,
    took_s: float | None,
    console: Console,
    exported: Sequence[Path] = (),
) -> None:
    """Counts, the reasons why items were not upsampled, and where the results are. took_s: None where it is not known."""
    states, reasons = totals.states, totals.reasons
    console.print(
        f"{states[UPSAMPLED]} upsampled, {states[KEPT]} kept original, {states[FAILED]} failed  ·  "
        f"engine {plan.settings.engine.name}" + ("" if took_s is None else f"  ·  {duration(took_s)}"),
        style="bold",
        highlight=False,
    )
    for (state, reason), count in reasons.most_common(10):
        print_prose(console, f"  {count} {state}: {printable(reason)}")
    if len(reasons) > 10:
        console.print(f"  … and {len(reasons) - 10} more reasons in summary.csv", style="dim")
    print_files(plan, paths, console, exported)


def print_files(plan: Plan, paths: RunPaths, console: Console, exported: Sequence[Path] = ()) -> None:
    """Where the results are."""
    for path in (*((paths.report,) if plan.settings.report else ()), paths.results, *exported):
        console.print(f"{path.name:<13} {path}", markup=False, highlight=False, soft_wrap=True)
