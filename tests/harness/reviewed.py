"""A run that can be reviewed: three items over one clip, of which the last kept its original prompt."""

from __future__ import annotations

from pathlib import Path

from src.planning.resolve import resolve
from src.reports.review_queue import ReviewedRun
from src.run_folder import RunPaths
from src.runs.saved_run import save_plan
from src.worker.protocol import KEPT, UPSAMPLED, Outcome
from tests.conftest import Configure
from tests.harness.program import write_prompts

TEXTS = ("A boat, take 0, at dusk.", "A boat, take 1, in rain, with a very long way to go.")


def reviewed_run(configure: Configure, clips: Path, root: Path) -> ReviewedRun:
    """Written below `root`; the first text hit the token limit."""
    root.mkdir(parents=True, exist_ok=True)
    config = configure()
    config.prompts = str(write_prompts(root / "prompts.json", clips / "wide.mp4", 3))
    plan, paths = resolve(config), RunPaths(root)
    save_plan(plan, paths)
    first, second, last = plan.items
    outcomes = {
        first.id: Outcome(first.id, UPSAMPLED, text=TEXTS[0], finish_reason="length"),
        second.id: Outcome(second.id, UPSAMPLED, text=TEXTS[1]),
        last.id: Outcome(last.id, KEPT, "refused"),
    }
    return ReviewedRun(paths, plan, outcomes, "stopped")
