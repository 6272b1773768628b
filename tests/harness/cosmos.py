"""What looks like NVIDIA's checkout, checkpoints and torchrun, and is none of them: STAND-INS, see standin_transfer.py."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from .processes import command_lines
from .program import quoted

RIG = Path(__file__).resolve().parent


class Cosmos:
    """A folder with all of them; `behave` says how the stand-in behaves."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.folder = folder
        self.repository, self.checkpoints = folder / "cosmos transfer1", folder / "checkpoints"
        script = self.repository / "cosmos_transfer1/diffusion/inference/transfer.py"
        script.parent.mkdir(parents=True)
        self.checkpoints.mkdir()
        shutil.copyfile(RIG / "standin_transfer.py", script)
        self.torchrun = folder / "torchrun"
        launcher = shutil.copyfile(RIG / "standin_torchrun.py", folder / "standin_torchrun.py")
        self.torchrun.write_text(f'#!/bin/sh\nexec {python} {shlex.quote(str(launcher))} "$@"\n')
        self.torchrun.chmod(0o755)
        self.hold, self.once = folder / "hold", folder / "once"
        self.behave()

    def behave(self, **conduct: Any) -> None:
        (self.checkpoints / "standin.json").write_text(json.dumps({"hold": str(self.hold), **conduct}))

    @property
    def overrides(self) -> tuple[str, ...]:
        fields = {"repository": self.repository, "checkpoint_dir": self.checkpoints, "torchrun": self.torchrun}
        return tuple(f"inference.{name}={quoted(str(value))}" for name, value in fields.items())

    def processes(self) -> list[int]:
        """Every process of the stand-in that runs."""
        words = (b"--checkpoint_dir", os.fsencode(self.checkpoints))
        return [pid for pid, line in command_lines() if set(words) <= set(line)]
