"""The named checks of a target: what each finds, and what it lets pass."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from src.worker.answer_form import CHECKS, JSON, AnswerForm
from src.worker.encoder import Encoder, estimate, unigram
from src.worker.forms import Formed
from src.worker.text_checks import dropped_nouns, failed_checks, other_language, repeated
from tests.harness.records import item

PROSE = (
    "A small red boat leaves the harbor at dusk while gulls circle over the pier. The water is calm and holds the last light of "
    "the day. A man in a blue jacket stands at the stern, coils a rope, and looks back to the town as its lamps come on."
)
CHINESE = "黄昏时分，一艘红色小船缓缓驶离港口，海鸥在码头上空盘旋，水面平静，映着最后一缕光。"
GERMAN = (
    "Ein kleines rotes Boot verlässt den Hafen in der Dämmerung und die Möwen kreisen über dem Pier, das Wasser ist ruhig mit "
    "dem Licht."
)


def found(text: str, form: AnswerForm, prompt: str = "a red boat", **fields: object) -> list[str]:
    formed = Formed(text, **fields)  # type: ignore[arg-type]
    return [name for name, _ in failed_checks(formed, item("a", prompt=prompt), form, Encoder.of(form))]


ALL = AnswerForm(checks=CHECKS, language="en", encoder="umT5", encoder_tokens=90)


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        (PROSE, {}, []), ("I'm sorry, but I cannot help with that.", {}, ["refusal", "dropped_subject"]),
        (PROSE, {"unclosed": True}, ["think"]), (PROSE, {"removed": ("label",)}, ["preface"]),
        (PROSE, {"removed": ("quotation marks",)}, ["quotes"]), (PROSE * 2, {}, ["loop", "too_long"]),
        (GERMAN, {}, ["language"]), (CHINESE, {}, ["language"]), (PROSE.replace("boat", "car"), {}, ["dropped_subject"]),
    ],
    ids=str,
)  # fmt: skip
def test_each_check_has_its_name(text: str, fields: dict[str, object], expected: list[str]) -> None:
    prompt = "a red boat" if text.startswith(("A ", "I'm")) else ""
    assert found(text, ALL, prompt, **fields) == expected
    assert found(text, AnswerForm(), prompt, **fields) == []


@pytest.mark.parametrize("text", [PROSE, CHINESE, "no no no no no no no", "the " * 5, ""])
def test_prose_is_no_loop(text: str) -> None:
    assert not repeated(text)


@pytest.mark.parametrize(
    "text", ["the car turns left and then " * 6, "船在海上" * 9, PROSE + " and it goes on and on" * 12]
)
def test_loop_is_named(text: str) -> None:
    assert repeated(text)


@pytest.mark.parametrize(
    ("text", "wanted", "passes"),
    [
        (PROSE, "en", True), (CHINESE, "zh", True), (PROSE, "zh", False), (PROSE, "", True), (CHINESE, "en", False),
        (f"{PROSE} The sign reads “{CHINESE}”.", "en", True), (GERMAN, "en", False), ("Rotes Boot, Hafen", "en", True),
        ("close-up, low angle, golden hour, film grain, shallow focus", "en", True), ("42", "en", True),
    ],
)  # fmt: skip
def test_language_is_told_by_its_words(text: str, wanted: str, passes: bool) -> None:
    assert (other_language(text, wanted) == "") == passes


@pytest.mark.parametrize(
    ("prompt", "text", "dropped"),
    [
        ("a red boat on the sea", "A crimson boat crosses the sea.", []), ("a dog runs fast", "A dog races.", []),
        ("two dogs and a cat", "Two cats.", ["dogs"]), ("the city at night", "Cities in the night", []),
        ("一艘船", CHINESE, []), ("a boat", CHINESE, []), ("", PROSE, []),
    ],
)  # fmt: skip
def test_dropped_nouns_are_named(prompt: str, text: str, dropped: list[str]) -> None:
    assert [noun for noun in dropped_nouns(prompt, text) if noun != "fast"] == dropped


def test_json_is_checked_in_its_texts() -> None:
    form = AnswerForm(form=JSON, checks=CHECKS, language="en")
    assert found(json.dumps({"a": [{"b": PROSE}]}), form) == []
    assert found(json.dumps({"a": CHINESE}), form, "") == ["language"]


def test_broken_json_is_no_loop() -> None:
    form, text = (
        AnswerForm(form=JSON, checks=CHECKS, language="en"),
        '{"pose": "", "age": "", "hat": "", "coat": "", ' * 9,
    )
    assert found(text, form, "", invalid="it is not valid JSON") == []
    assert found(text, form, "") == ["loop"]


def test_unigram_takes_the_likeliest_pieces() -> None:
    vocabulary = [
        ["<unk>", 0.0],
        ["▁", -3.0],
        ["▁b", -4.0],
        ["oat", -5.0],
        ["▁boat", -4.5],
        ["s", -2.0],
        ["boat", -9.0],
    ]
    count = unigram({"vocab": vocabulary})
    assert [count(text) for text in ("boat", "boats boat", "", "船船 boat")] == [2, 4, 1, 4]


def test_estimate_is_called_an_estimate() -> None:
    encoder = Encoder.of(AnswerForm(encoder="umT5-XXL", encoder_tokens=10))
    assert encoder.too_long(PROSE) == f"about {estimate(PROSE)} of 10 tokens of umT5-XXL (an estimate)"
    assert 40 <= estimate(PROSE) <= 80 and encoder.too_long("a boat") == ""


def test_endless_blanks_are_counted() -> None:
    """tiktoken panics on a million of them, with an exception that no reader of answers expects."""
    ranks = "".join(f"{base64.b64encode(bytes([n])).decode()} {n}\n" for n in range(256)).encode()
    packed = base64.b64encode(zlib.compress(ranks)).decode()
    form = AnswerForm(encoder="Qwen", encoder_tokens=10, encoder_kind="qwen.tiktoken", encoder_file=packed)
    assert Encoder.of(form).too_long("a" + " " * 1_000_000).startswith("1000001 of 10 tokens")
