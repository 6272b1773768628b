"""An answer becomes the prompt that was asked for, or the reason why it is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.worker.answer_form import CHECKS, JSON, TAGGED, AnswerForm
from src.worker.engines.engine import Answer
from src.worker.forms import formed

SCHEMA = json.dumps({
    "type": "object", "additionalProperties": False, "required": ["scene", "fps"],
    "properties": {"scene": {"type": "string"}, "fps": {"type": "integer"}},
})  # fmt: skip
FORM = AnswerForm(form=JSON, schema=SCHEMA, drop=("scene_imagination",), checks=CHECKS)
GOOD = '{"scene": "a boat", "fps": 24}'


def answer(text: str, reasoning: str = "") -> Answer:
    return Answer(text, "stop", 7, 3, reasoning=reasoning)


@pytest.mark.parametrize(
    "text",
    [
        GOOD, f"```json\n{GOOD}\n```", f"{GOOD}```\n```",
        f"<think>a {{brace}}</think>\n{GOOD}", f"Sure, here it is:\n{GOOD}\nEnjoy!",
        '{"fps": 24, "scene_imagination": "dropped", "scene": "a boat"}',
    ],
)  # fmt: skip
def test_json_is_found_ordered_and_cleaned(text: str) -> None:
    found = formed(answer(text), FORM, {})
    assert (found.text, found.invalid) == (GOOD, "")
    assert found.surrounding() == (["preface"] if "Sure" in text else [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A boat.", "there is no JSON object"), ('{"scene": "a boat', "not valid JSON: Unterminated string"),
        ('{"scene": "a"}', "must contain ['fps']"), ('{"scene": 3, "fps": 2}', "data.scene must be string"),
        ('{"scene": "a", "fps": 2, "mood": ""}', "must not contain {'mood'}"), ('{"fps": NaN}', "NaN is not a number"),
        ('{"fps": 1e999}', "not JSON compliant"), ('{"scene": " 0:00", "fps": 2}', "all its texts are empty"),
        ('{"a":' * 100_000, "not valid JSON|nested too deeply"),
        *(('{"a":' * n + "1" + "}" * n, "nested too deeply|must contain") for n in range(900, 1000)),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_invalid_answer_names_what_is_wrong(text: str, reason: str) -> None:
    found = formed(answer(text), FORM, {})
    assert any(part in found.invalid for part in reason.split("|")), found.invalid


def test_pins_replace_what_the_model_wrote() -> None:
    found = formed(answer('{"scene": "ä", "fps": "fast"}'), FORM, {"fps": 24})
    assert (found.text, found.invalid) == ('{"scene": "\\u00e4", "fps": 24}', "")


def test_raw_control_characters_are_read() -> None:
    assert json.loads(formed(answer('{"scene": "a\tb", "fps": 1}'), FORM, {}).text)["scene"] == "a\tb"


def test_tagged_answer_has_two_prompts() -> None:
    form = AnswerForm(form=TAGGED, schema=SCHEMA)
    text = f"<final_prompt>\n{GOOD}\n</final_prompt>\n<negative_prompt> blur </negative_prompt>"
    found = formed(answer(text), form, {})
    assert (found.text, found.negative, found.invalid) == (GOOD, "blur", "")
    assert formed(answer(text.split("<neg")[0]), form, {}).negative is None
    assert formed(answer(GOOD), form, {}).invalid == "there is no <final_prompt>"


@pytest.mark.parametrize(
    ("text", "apart", "expected"),
    [
        ("<think>hm</think>A boat.", "", ("A boat.", "hm", False)), ("A boat.", "hm", ("A boat.", "hm", False)),
        ("", "A boat.", ("A boat.", "", False)), ("", "hm</think>A boat.", ("A boat.", "hm", False)),
        ("<think>hm", "", ("", "hm", True)),
    ],
)  # fmt: skip
def test_thoughts_are_kept_apart(text: str, apart: str, expected: tuple[str, str, bool]) -> None:
    found = formed(answer(text, apart), AnswerForm(checks=("think",)), {})
    assert (found.text, found.reasoning, found.unclosed) == expected


def test_default_form_reads_no_reasoning() -> None:
    assert formed(answer("", "A boat."), AnswerForm(), {}).text == ""


@given(st.text(max_size=60), st.sampled_from(["text", "json", "tagged"]))
def test_any_answer_is_formed_or_refused(text: str, kind: str) -> None:
    found = formed(answer(text), AnswerForm(form=kind, schema=SCHEMA, checks=CHECKS), {})
    assert kind == "text" or found.invalid or json.loads(found.text)["fps"] is not None
