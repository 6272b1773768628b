"""`task=compare runs=[FIRST,SECOND,…]`: finished runs of the same prompts side by side, in a folder of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import PairBy
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..reports.compare import Compared, Finished, as_csv, common_items, facts, ordinal, read_run
from ..reports.report import write_comparison
from ..reports.videos import write_videos
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
    compare(folders, invocation.config.pair_by, invocation.paths.root, invocation.out)
    return ExitCode.OK


def compare(folders: Sequence[str], pair_by: PairBy, folder: Path, out: Console) -> None:
    """compare.html, compare.csv, and a short table. InputError for runs that cannot be compared."""
    runs = [read_run(name) for name in folders]
    items = common_items(runs, by_name=pair_by is PairBy.name)
    sides = [facts(run, [item.rows[n] for item in items]) for n, run in enumerate(runs)]
    page, table = folder / "compare.html", folder / "compare.csv"
    write_comparison(sides, items, page)
    write_atomic(table, as_csv(items))
    _print_table(runs, sides, items, out)
    made = [folder / "videos.html"] if all(RunPaths(Path(name)).inference_results.exists() for name in folders) else []
    for path in made:
        write_videos([Path(name) for name in folders], path)
    for path in (page, table, *made):
        out.print(f"{path.name:<13} {path}", markup=False, highlight=False, soft_wrap=True)


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
