"""Performance goals, measured side by side in one run: `python -m benchmarks [name ...]`.

Every row is a ratio of two things timed on the same machine in the same run, with the goal that the project sets
itself. Absolute times are shown for orientation only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks import engines, estimates, hints, llamacpp, planning, scale, startup, tokens, transfer, window
from benchmarks.measure import Row

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "tokens": tokens.rows,
    "hints": hints.rows,
    "planning": planning.rows,
    "startup": startup.rows,
    "estimates": estimates.rows,
    "engines": engines.rows,
    "llamacpp": llamacpp.rows,
    "transfer": transfer.rows,
    "scale": scale.rows,
    "window": window.rows,
}


def main(names: list[str]) -> int:
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console.width = 120
    table = Table("what", "against", "ratio", "goal", "", "times")
    for name in names or BENCHMARKS:
        with console.status(name):
            rows = BENCHMARKS[name]()
        for row in rows:
            mark = "" if row.met is None else "met" if row.met else "MISSED"
            table.add_row(row.what, row.against, f"{row.ratio:.3g}", row.goal, mark, row.times)
        table.add_section()
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
