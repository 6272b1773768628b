"""Short commands: `plan FILE`, `run FILE`, `status`, `review` and others, rewritten to the overrides that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from .run_folder import LATEST
from .text import FLAGS_WITH_A_WORD, plain_override


def _of_prompts(task: str) -> Callable[[list[str]], list[str]]:
    return lambda names: [*([f"task={task}"] if task else []), *(plain_override("prompts", name) for name in names)]


def _of_run(task: str) -> Callable[[list[str]], list[str]]:
    return lambda names: [f"task={task}", *(plain_override("run", name) for name in names or [LATEST])]


def _of_runs(names: list[str]) -> list[str]:
    """A review, of one run or of several together."""
    if len(names) < 2:
        return _of_run("review")(names)
    return ["task=review", f"runs=[{','.join(plain_override('run', name).partition('=')[2] for name in names)}]"]


# Each word, what follows it, what it does, and the overrides for what follows.
WORDS: dict[str, tuple[str, str, Callable[[list[str]], list[str]]]] = {
    "plan": ("FILE", "what would run, to the token; starts nothing", _of_prompts("plan")),
    "run": ("FILE", "upsample the prompts of a file or folder", _of_prompts("")),
    "status": ("[RUN]", "how a run stands; without a name, the latest", _of_run("status")),
    "review": ("[RUN …]", "accept, reject or edit its texts", _of_runs),
    "report": ("[RUN]", "write its results and its report as they stand", _of_run("report")),
    "resume": (
        "[RUN]",
        "continue a run where it stopped",
        lambda names: [plain_override("resume", name) for name in names or [LATEST]],
    ),
    "runs": ("", "the runs so far", lambda names: ["task=runs"]),
    "init": ("", "write a starter into this folder", lambda names: ["task=init"]),
}


def expanded(arguments: list[str]) -> list[str]:
    """The command line with a short command replaced by its overrides; any other is returned as it is. ValueError for more
    names than it takes."""
    if not arguments or arguments[0] not in WORDS:
        return arguments
    names = [
        name
        for before, name in pairwise(arguments)
        if "=" not in name and not name.startswith("-") and before not in FLAGS_WITH_A_WORD
    ]
    word, takes = arguments[0], WORDS[arguments[0]][0]
    if len(names) > 1 and "…" not in takes:
        pattern = f"name a folder, or quote a pattern: {word} 'FOLDER/*.json'"
        hint = pattern if takes == "FILE" else "one run at a time"
        raise ValueError(f"{word}: takes one name, not {len(names)} ({', '.join(names[:3])})\n  → {hint}")
    return [*WORDS[word][2](names), *(other for other in arguments[1:] if other not in names)]
