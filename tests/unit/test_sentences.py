"""Every log event has a sentence, which names only what the event has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.sentences import SENTENCES, fields, sentence

SRC = Path(__file__).resolve().parents[2] / "src"


def logged() -> Iterator[tuple[str, frozenset[str]]]:
    """The events that the program logs by a literal word, with their keys."""
    for file in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute() as method, [ast.Constant(str(event)), *_], keywords):
                    if ast.unparse(method.value) == "log.get()":
                        yield event, frozenset(key.arg for key in keywords if key.arg)


EVENTS = sorted(set(logged()), key=str)


@pytest.mark.parametrize(("event", "keys"), EVENTS, ids=[event for event, _ in EVENTS])
def test_event_has_a_sentence(event: str, keys: frozenset[str]) -> None:
    text = sentence(event, dict.fromkeys(keys | {"items"}, "x"))
    assert text != event.replace("_", " ") and "{" not in text
    assert event in SENTENCES


def test_sentences_are_of_events() -> None:
    code = "".join(file.read_text() for file in SRC.rglob("*.py") if file.stem != "sentences")
    assert [event for event in SENTENCES if f'"{event}"' not in code] == []
    for event, (text, *_) in SENTENCES.items():
        if known := [keys for word, keys in EVENTS if word == event]:
            assert fields(text) <= set().union(*known) | {"items"}, event


@pytest.mark.parametrize(
    ("event", "facts", "text"),
    [
        ("answers", {"done": "1166/5000", "rate": "35.7/s", "eta": "2min"}, "answers: 1,166 of 5,000, 35.7/s, 2min left"),
        ("clips_probed", {"done": "7/7"}, "clips probed: 7 of 7"),
        ("prompts_read", {"done": "12000", "rate": "9000.0/s"}, "prompts read: 12,000, 9000.0/s"),
        ("job_started", {"job": "ab", "items": "8", "engine": "vllm"}, "A job started: 8 items, engine vllm; its name is ab."),
        ("phase", {"name": "loading"}, "The worker is loading."),
        ("run_resumed", {"run": "a\nb\x1b", "note": "so."}, "Resuming a | b\\u001b; so."),
        ("not_known_here", {"key": "a value"}, "not known here: key a value"),
    ],
)  # fmt: skip
def test_event_is_said_in_words(event: str, facts: dict[str, str], text: str) -> None:
    assert sentence(event, facts) == text


def test_paths_keep_their_dots() -> None:
    assert "resume=../out/x" in sentence("not_notified_yet", {"command": "python -m src.run resume=../out/x"})
    assert sentence("not_notified", {"host": "h", "reason": "It is away."}).endswith("It is away.")
