"""A job for a target: an answer that is not as wanted leads to one more request, which says what was wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.worker.answer_form import CHECKS, JSON, AnswerForm
from src.worker.engines.engine import Answer, Refused, Request
from tests.harness.fake_engine import FakeEngine, only_result, reply, serve, stage, write_job
from tests.harness.records import JOB, item
from tests.unit.worker.test_forms import GOOD, SCHEMA
from tests.unit.worker.test_text_checks import CHINESE, PROSE

STRUCTURED = AnswerForm(form=JSON, schema=SCHEMA, max_repairs=2, checks=CHECKS)
MORE = (
    "Mist drifts in low bands between hulls, nets hang from wooden poles, and a bell rings somewhere past the breakwater as two "
    "fishermen carry crates of silver herring up worn stone steps toward a bright market hall with open doors."
)
PLAIN = AnswerForm(checks=CHECKS, language="en", encoder="T5", encoder_tokens=100)


def run(
    folder: Path, form: AnswerForm, *answers: str | Answer | Exception, **fields: Any
) -> tuple[dict[str, Any], FakeEngine]:
    """The outcome of one item that is answered so, and the engine that was asked."""
    left = list(answers)

    def answering(request: Request) -> Answer:
        given = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, Answer) else reply(given, prompt_tokens=50)

    engine = FakeEngine(answering)
    write_job(folder, replace(JOB, answer=form))
    stage(folder, [item("a", prompt="a red boat", **fields)])
    assert serve(folder, engine) == 0
    return only_result(folder), engine


def test_invalid_answer_goes_back_with_the_reason(folder: Path) -> None:
    result, engine = run(folder, STRUCTURED, '{"scene": 3}', GOOD)
    assert (result["state"], result["text"]) == ("upsampled", GOOD)
    (_, said), (role, message) = engine.requests[1].turns
    assert (said, role) == ('{"scene": 3}', "user") and "must contain ['fps']" in message
    assert [a["flaw"] and a["flaw"].split(":")[0] for a in result["attempts"]] == ["invalid", None]


def test_repairs_end_with_the_reason(folder: Path) -> None:
    result, engine = run(folder, STRUCTURED, "No JSON.")
    assert (result["state"], len(engine.requests)) == ("kept", 3)
    assert "there is no JSON object, 3 times" in result["reason"] and result["rejected"] == "No JSON."


def test_cut_json_is_a_cut_answer(folder: Path) -> None:
    result, engine = run(folder, STRUCTURED, reply('{"scene": "a', "length", 50), GOOD)
    assert result["attempts"][0]["flaw"] == "cut off at the token limit"
    assert engine.requests[1].turns == () and engine.requests[1].max_tokens >= 300


def test_correction_without_room_is_a_new_question(folder: Path) -> None:
    result, engine = run(folder, STRUCTURED, reply("{}", prompt_tokens=3900), GOOD)
    assert result["state"] == "upsampled" and engine.requests[1].turns == ()
    assert engine.requests[1].seed == engine.requests[0].seed + 1


def test_refused_correction_is_asked_anew(folder: Path) -> None:
    result, engine = run(folder, STRUCTURED, "{}", Refused("too long"), GOOD)
    assert result["state"] == "upsampled" and [bool(r.turns) for r in engine.requests] == [False, True, False]


def test_pins_of_the_item_are_written(folder: Path) -> None:
    result, _ = run(folder, STRUCTURED, GOOD, pins={"fps": 16})
    assert json.loads(result["text"])["fps"] == 16
    assert result["raw"] == GOOD


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (f"Here is the prompt:\n\n{PROSE}", "preface"), (f'"{PROSE}"', "quotes"),
        ("I'm sorry, I cannot help with that.", "refusal"),
        ("the red boat turns left and then " * 6, "loop"), (CHINESE, "language"), (f"{PROSE} {MORE}", "too_long"),
        ("<think>hm", "think"),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_flawed_answer_is_asked_for_once_more(folder: Path, bad: str, check: str) -> None:
    result, engine = run(folder, PLAIN, bad, PROSE)
    assert (result["state"], result["text"], result["flags"]) == ("upsampled", PROSE, [])
    assert len(engine.requests) == 2 and result["attempts"][0]["flaw"].startswith(check)


@pytest.mark.parametrize(("bad", "flag"), [(f'"{PROSE}"', "quotes: "), (PROSE, "too_long: about ")])
def test_usable_answer_stands_with_a_flag(folder: Path, bad: str, flag: str) -> None:
    result, engine = run(folder, replace(PLAIN, encoder_tokens=30 if bad == PROSE else 100), bad)
    assert (result["state"], len(engine.requests)) == ("upsampled", 2)
    assert result["flags"][0].startswith(flag)


def test_usable_answer_outlives_worse_ones(folder: Path) -> None:
    result, _ = run(folder, PLAIN, f'"{PROSE}"', "I'm sorry, I cannot help with that.")
    assert (result["state"], result["text"], result["raw"]) == ("upsampled", PROSE, f'"{PROSE}"')


def test_too_long_answer_is_told_both_numbers(folder: Path) -> None:
    _, engine = run(folder, replace(PLAIN, encoder_tokens=40), PROSE, "A red boat leaves the harbor.")
    assert "of 40 tokens of T5" in engine.requests[1].turns[1][1]


def test_dropped_subject_only_warns(folder: Path) -> None:
    result, engine = run(folder, PLAIN, PROSE.replace("boat", "car"))
    assert (result["flags"], len(engine.requests)) == (["dropped_subject: boat"], 1)


@pytest.mark.parametrize(
    "make", [lambda: Answer(PROSE, "stop", 50, 9, reasoning="hm"), lambda: reply(f"<think>hm</think>{PROSE}")]
)
def test_reasoning_is_kept_beside_the_text(folder: Path, make: Callable[[], Answer]) -> None:
    result, engine = run(folder, PLAIN, make())
    assert (result["text"], result["reasoning"], len(engine.requests)) == (PROSE, "hm", 1)
