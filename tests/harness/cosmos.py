"""What looks like NVIDIA's checkouts, checkpoints and torchrun, and is none of them: STAND-INS, see standin_*.py."""

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
SCRIPTS = {
    "transfer1": ("standin_transfer.py", "cosmos_transfer1/diffusion/inference/transfer.py"),
    "transfer2_5": ("standin_transfer2_5.py", "examples/inference.py"),
    "cosmos3": ("standin_cosmos3.py", "cosmos_framework/scripts/inference.py"),
}


class Cosmos:
    """A folder with all of them; `behave` says how the stand-in behaves."""

    def __init__(self, folder: Path, python: str = sys.executable, engine: str = "transfer1") -> None:
        self.folder, self.engine = folder, engine
        self.repository, self.checkpoints = folder / "cosmos transfer1", folder / "checkpoints"
        stand_in, path = SCRIPTS[engine]
        script = self.repository / path
        script.parent.mkdir(parents=True)
        self.checkpoints.mkdir()
        shutil.copyfile(RIG / stand_in, script)
        shutil.copyfile(RIG / "standin_model.py", self.repository / "standin_model.py")
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
        models = "checkpoint_dir" if self.engine == "transfer1" else "hf_home"
        fields = {"repository": self.repository, models: self.checkpoints, "torchrun": self.torchrun}
        return (
            f"inference/engine={self.engine}",
            *(f"inference.{name}={quoted(str(value))}" for name, value in fields.items()),
        )

    def processes(self) -> list[int]:
        """Every process of the stand-in that runs."""
        script = SCRIPTS[self.engine][1]
        words = {os.fsencode(script), os.fsencode(script.removesuffix(".py").replace("/", "."))}
        return [pid for pid, line in command_lines() if words & set(line) and self._is_here(pid)]

    def _is_here(self, pid: int) -> bool:
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", self.repository)
        except OSError:
            return False
