"""task=review on a terminal: one question per text, until the person quits."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.reports.reviews import ACCEPTED, EDITED, REJECTED
from src.run_folder import RunPaths
from src.tasks.review import _answers, _reason_of_unfinished, edited
from tests.harness.rows import row


class Dialog:
    """A console without output, and a person who replies with these words, one after another."""

    def __init__(self, *replies: str) -> None:
        self.replies = list(replies)
        self.out = self

    def rule(self, *_: object, **__: object) -> None: ...
    def print(self, *_: object, **__: object) -> None: ...

    def __call__(self, _question: str) -> str:
        if not self.replies:
            raise EOFError
        return self.replies.pop(0)


def verdicts(names: str, *replies: str) -> list[tuple[str, str, str | None]]:
    """The verdicts of a dialog about these items."""
    dialog = Dialog(*replies)
    found = _answers([row(name) for name in names], RunPaths(Path("run")), dialog, dialog)  # type: ignore[arg-type]
    return [(mark.name, mark.verdict, mark.text) for mark in found]


def test_each_text_is_asked_about_until_quit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    replies = ("yes", "n", "what?", "e", "Better.", "s", "e", "", "y", "q", "y")
    assert verdicts("abcdef", *replies) == [
        ("a", ACCEPTED, None),
        ("b", REJECTED, None),
        ("c", EDITED, "Better."),
        ("e", ACCEPTED, None),
    ]


def test_end_of_input_ends_the_review() -> None:
    assert verdicts("ab", "y") == [("a", ACCEPTED, None)]


def test_end_of_input_while_editing_ends_the_review(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.delenv("VISUAL", raising=False)
    assert verdicts("abc", "n", "e") == [("a", REJECTED, None)]


def test_text_is_edited_in_the_own_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/boat/ship/")
    assert edited("a boat\n\nat dusk, ünï", Dialog()) == "a ship\n\nat dusk, ünï"


def test_text_stays_when_the_editor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for editor in ("/nowhere/editor", "false"):
        monkeypatch.setenv("VISUAL", editor)
        assert edited("a boat", Dialog()) == "a boat"


def test_damaged_results_are_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[{")
    with pytest.raises(InputError, match="cannot be read") as caught:
        _reason_of_unfinished(RunPaths(tmp_path), {})
    assert f"task=report run={tmp_path}" in caught.value.hint
