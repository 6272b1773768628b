"""`task=compare runs=[FIRST,SECOND,…]`: finished runs of the same prompts side by side, in a folder of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import PairBy
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..reports.compare import Compared, Finished, as_csv, common_items, facts, ordinal, read_run
from ..reports.report import write_comparison
from ..reports.reviews import read_verdicts
from ..reports.videos import Choice, check_choices, write_videos
from ..run_folder import RunPaths
from ..text import printable
from . import Invocation

if TYPE_CHECKING:
    from rich.console import Console


def run(invocation: Invocation) -> ExitCode:
    """Compare the runs that runs= names."""
    folders = invocation.config.runs
    if len(folders) < 2:
        raise InputError(
            f"task=compare: {len(folders)} run{'' if len(folders) == 1 else 's'} named, and two or more are compared",
            hint="runs=[outputs/DATE/TIME,outputs/DATE/TIME]",
        )
    known = [Path(folder).resolve() for folder in folders]
    if twice := next((folder for n, folder in enumerate(folders) if known[n] in known[:n]), None):
        raise InputError(f"task=compare: {twice} is named twice", hint="name another run of the same prompts")
    config = invocation.config
    compare(folders, config.pair_by, invocation.paths.root, invocation.out, config.choices)
    return ExitCode.OK


def compare(folders: Sequence[str], pair_by: PairBy, folder: Path, out: Console, choices: str = "") -> None:
    """compare.html, compare.csv, and a short table; of pipelines also videos.html and videos.csv, and these alone where a
    pipeline upsampled nothing. InputError for runs that cannot be compared, and for choices that cannot be."""
    runs = [RunPaths(Path(name)) for name in folders]
    have_videos = all(run.inference_results.exists() for run in runs)
    if choices and not have_videos:
        raise InputError(f"choices={choices}: not all of these runs have videos", hint="name runs of task=pipeline")
    roots = [run.root for run in runs]
    best = check_choices(read_verdicts(Path(choices).expanduser(), Choice), roots) if choices else {}
    made = []
    if not have_videos or all(run.results.exists() for run in runs):
        made += _compare_texts(folders, pair_by, folder, out)
    if have_videos:
        write_videos(roots, folder / "videos.html", best)
        made += [folder / "videos.html", folder / "videos.csv"]
    if best:
        counts = Counter(best.values())
        chosen = ", ".join(f"{ordinal(n).lower()} {counts[n]}" for n in range(len(runs)))
        out.print(f"{len(best)} best videos chosen: {chosen}", highlight=False)
    for path in made:
        out.print(f"{path.name:<13} {path}", markup=False, highlight=False, soft_wrap=True)


def _compare_texts(folders: Sequence[str], pair_by: PairBy, folder: Path, out: Console) -> list[Path]:
    runs = [read_run(name) for name in folders]
    items = common_items(runs, by_name=pair_by is PairBy.name)
    sides = [facts(run, [item.rows[n] for item in items]) for n, run in enumerate(runs)]
    page, table = folder / "compare.html", folder / "compare.csv"
    write_comparison(sides, items, page)
    write_atomic(table, as_csv(items))
    _print_table(runs, sides, items, out)
    return [page, table]


def _print_table(
    runs: Sequence[Finished], sides: Sequence[Mapping[str, str]], items: Sequence[Compared], out: Console
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", *(ordinal(n).lower() for n in range(len(runs)))):
        table.add_column(column, overflow="fold")
    for name in sides[0]:
        same = name != "run" and len({side[name] for side in sides}) == 1
        cells = [Text(printable(side[name]), style="dim" if same else "") for side in sides]
        table.add_row(Text(name), *cells)
    out.print(table)
    differ, both = sum(item.differs for item in items), "both" if len(runs) == 2 else "all"
    out.print(f"{len(items)} items in {both}, {differ} of them differ", style="bold", highlight=False)
    for run_ in runs:
        others = [printable(other.folder) for other in runs if other is not run_]
        where = others[0] if len(others) == 1 else "another run"
        if alone := len(run_.rows) - len(items):
            only = (
                f"only in {printable(run_.folder)}"
                if len(others) == 1
                else f"of {printable(run_.folder)} not in all runs"
            )
            out.print(
                f"  {alone} {only}, or with another prompt or video in {where}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
