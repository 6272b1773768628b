"""Short commands stand for overrides, and for nothing else."""

from __future__ import annotations

import pytest

from src.shortcuts import WORDS, expanded


@pytest.mark.parametrize(
    ("typed", "overrides"),
    [
        ("plan p.json", ["task=plan", "prompts=p.json"]),
        ("run clips/", ["prompts=clips/"]),
        ("run p.json upsample=best_fit --multirun", ["prompts=p.json", "upsample=best_fit", "--multirun"]),
        ("run 2026_01", ['prompts="2026_01"']),
        ("status", ["task=status", "run=latest"]),
        ("review night review.open=true", ["task=review", "run=night", "review.open=true"]),
        ("report outputs/a", ["task=report", "run=outputs/a"]),
        ("review a outputs/b", ["task=review", "runs=[a,outputs/b]"]),
        ("resume", ["resume=latest"]),
        ("runs", ["task=runs"]),
        ("task=plan prompts=p.json", ["task=plan", "prompts=p.json"]),
        ("", []),
    ],
)
def test_short_command_becomes_overrides(typed: str, overrides: list[str]) -> None:
    assert expanded(typed.split()) == overrides


def test_path_with_blanks_stays_one_value() -> None:
    assert expanded(["plan", "my prompts, new.json"]) == ["task=plan", 'prompts="my prompts, new.json"']


@pytest.mark.parametrize("typed", ["plan a.json b.json", "run a b", "status a b", "resume a b", "runs a b"])
def test_names_beyond_the_first_are_refused(typed: str) -> None:
    """What a shell makes of a pattern: all but one of them would be dropped."""
    with pytest.raises(ValueError, match="takes one name, not 2"):
        expanded(typed.split())


def test_every_word_is_explained() -> None:
    assert all(text for _, text, _ in WORDS.values())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["plan", "p.json", "--cfg", "job"], ["task=plan", "prompts=p.json", "--cfg", "job"]),
        (["status", "--config-dir", "mine"], ["task=status", "run=latest", "--config-dir", "mine"]),
    ],
)
def test_words_of_flags_are_no_names(typed: list[str], expected: list[str]) -> None:
    assert expanded(typed) == expected
