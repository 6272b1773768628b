"""Records docs/terminal.svg, a terminal with real runs of the examples: `python -m docs.make_terminal`."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS = 110
COMMANDS = (
    "python -m src.run plan examples/prompts.json frames=ends_2",
    "python -m src.run resume",
    "python -m src.run runs",
)
# Without the web fonts that rich names: the picture is self-contained.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def main() -> None:
    """Run the commands one after the other in a folder that has the examples alone, and draw what they print."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS)}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder, "examples"))
        for command in COMMANDS:
            argv = [sys.executable, *shlex.split(command)[1:]]
            done = subprocess.run(
                argv, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            console.print(Text.assemble(("$ ", "green"), (command, "bold")), soft_wrap=True)
            console.print(Text.from_ansi(done.stdout))
    PICTURE.write_text(console.export_svg(title="prompt upsampler", code_format=FORMAT, unique_id="terminal"))


if __name__ == "__main__":
    main()
