"""`task=compare runs=[FIRST,SECOND]`: two finished runs of the same prompts side by side, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import PairBy
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..reports.compare import Finished, Pair, as_csv, facts, pairs_of, read_run
from ..reports.report import write_comparison
from ..text import printable
from . import Invocation

if TYPE_CHECKING:
    from rich.console import Console


def run(invocation: Invocation) -> ExitCode:
    """Compare the two runs that runs= names."""
    folders = invocation.config.runs
    if len(folders) != 2:
        raise InputError(
            f"task=compare: {len(folders)} runs were named, and two are compared",
            hint="runs=[outputs/DATE/TIME,outputs/DATE/TIME]",
        )
    if Path(folders[0]).resolve() == Path(folders[1]).resolve():
        raise InputError(f"task=compare: {folders[0]} is named twice", hint="name another run of the same prompts")
    compare(folders[0], folders[1], invocation.config.pair_by, invocation.paths.root, invocation.out)
    return ExitCode.OK


def compare(one: str, other: str, pair_by: PairBy, folder: Path, out: Console) -> None:
    """compare.html, compare.csv, and a short table. InputError for runs that cannot be compared."""
    first, second = read_run(one), read_run(other)
    pairs = pairs_of(first, second, by_name=pair_by is PairBy.name)
    sides = (facts(first, [pair.first for pair in pairs]), facts(second, [pair.second for pair in pairs]))
    page, table = folder / "compare.html", folder / "compare.csv"
    write_comparison(sides, pairs, page)
    write_atomic(table, as_csv(pairs))
    _print_table(first, second, sides, pairs, out)
    for path in (page, table):
        out.print(f"{path.name:<13} {path}", markup=False, highlight=False, soft_wrap=True)


def _print_table(
    first: Finished,
    second: Finished,
    sides: tuple[dict[str, str], dict[str, str]],
    pairs: tuple[Pair, ...],
    out: Console,
) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "first", "second"):
        table.add_column(column, overflow="fold")
    for name, value in sides[0].items():
        same = name != "run" and value == sides[1][name]
        cells = [Text(printable(side[name]), style="dim" if same else "") for side in sides]
        table.add_row(Text(name), *cells)
    out.print(table)
    differ = sum(pair.differs for pair in pairs)
    out.print(f"{len(pairs)} items in both, {differ} of them differ", style="bold", highlight=False)
    for run_, other in ((first, second), (second, first)):
        if alone := len(run_.rows) - len(pairs):
            out.print(
                f"  {alone} only in {printable(run_.folder)}, or with another prompt or video in {printable(other.folder)}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
