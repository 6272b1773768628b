"""--help: every task, option and field with its comment, and one task by itself."""

from __future__ import annotations

from pathlib import Path

from src.choices import TaskName
from src.help import help_text
from src.shortcuts import WORDS
from tests.conftest import ROOT


def test_every_option_is_listed_with_its_comment() -> None:
    text = " ".join(help_text(["--help"]).split())
    for file in ROOT.glob("conf/*/*.yaml"):
        if file.parent.name not in ("local", "hydra"):
            comment = next(line[2:] for line in file.read_text().splitlines() if line[:2] == "# " and "@" not in line)
            assert f"{file.stem} {comment}" in text or f"{file.stem} * {comment}" in text
    assert "safe_320 *" in text and "best_fit *" not in text
    assert all(f" {word} " in text for word in WORDS)


def test_every_task_is_explained_by_itself() -> None:
    for task in TaskName:
        assert help_text(["--help", f"task={task.value}"]).startswith(f"task={task.value}\n  {task.value} ")
    text = help_text(["task=review", "-h"])
    assert "review.reasons" in text and "runs " in text and "sampling.seed" not in text


def test_option_is_shown_with_its_values() -> None:
    text = help_text(["--help", "budget=8k"])
    assert "max_model_len: 8192" in text and "budget.max_output_tokens" in text


def test_own_options_are_listed(tmp_path: Path) -> None:
    (tmp_path / "budget").mkdir()
    (tmp_path / "budget" / "12k.yaml").write_text("# For a GPU with room to spare.\nmax_model_len: 12288\n")
    assert "For a GPU with room to spare." in help_text(["--help", "budget"], [tmp_path])


def test_lines_fit_a_narrow_terminal() -> None:
    assert max(map(len, help_text(["--help", "task=review"], width=60).splitlines())) <= 60
