"""Answers of a bounded schema end within their tokens, and are answers of the schema itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from src.targets.target import SCHEMAS
from src.worker.answer_form import JSON, TAGGED, AnswerForm, why_invalid
from src.worker.schema_bounds import CHARS_PER_TOKEN, LEAST_CHARS, bounded

OWN = [file.read_text(encoding="utf-8") for file in sorted(SCHEMAS.glob("*.json"))]
WORDS = {"^[0-9]:[0-5][0-9]-[0-9]:[0-5][0-9]$": "0:00-0:05", "^([2-9]|10)s$": "10s"}


def longest(node: dict[str, Any]) -> Any:
    """The longest answer that a schema allows; KeyError where something has no bound."""
    if "enum" in node:
        return max(node["enum"], key=lambda word: len(str(word)))
    if node["type"] == "object":
        return {key: longest(inner) for key, inner in node["properties"].items()}
    if node["type"] == "array":
        return [longest(node["items"])] * node["maxItems"]
    if node["type"] == "integer":
        return node["maximum"]
    return WORDS[node["pattern"]] if "pattern" in node else "x" * node["maxLength"]


@pytest.mark.parametrize("schema", OWN)
@pytest.mark.parametrize("tokens", [1024, 1500, 4096, 8192])
def test_longest_answer_fits_its_tokens(schema: str, tokens: int) -> None:
    answer = longest(bounded(json.loads(schema), tokens))
    assert why_invalid(answer, schema) == ""
    length = len(json.dumps(answer, separators=(",", ":")))
    assert length <= tokens * CHARS_PER_TOKEN


@pytest.mark.parametrize("schema", OWN)
def test_slack_lengthens_every_text(schema: str) -> None:
    short, long = (longest(bounded(json.loads(schema), 4096, slack)) for slack in (1, 8))
    assert len(json.dumps(long)) > 5 * len(json.dumps(short))


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"type": "string", "maxLength": 5}, {}),
        ({"type": "string", "enum": ["a"]}, {}),
        ({"type": "string", "format": "date"}, {}),
        ({"type": "string", "minLength": 9000}, {"maxLength": 9000}),
        ({"type": ["string", "null"]}, {"maxLength": LEAST_CHARS * 6}),
        ({"type": "integer", "maximum": -5}, {"minimum": -5}),
        ({"type": "array", "maxItems": 2}, {"items": {}}),
        ({"type": "array", "minItems": 12, "items": {"enum": [1]}}, {"maxItems": 12}),
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            {"anyOf": [{"type": "string", "maxLength": 48}, {"type": "null"}]},
        ),
        ({"$ref": "#/$defs/name"}, {}),
    ],
)
def test_only_what_has_no_bound_gets_one(node: dict[str, Any], expected: dict[str, Any]) -> None:
    given = {"type": "object", "properties": {"field": node}}
    found = bounded(given, 1)["properties"]["field"]
    assert {key: value for key, value in found.items() if node.get(key) != value} == expected


def test_definitions_are_bounded_too() -> None:
    given = {"$defs": {"name": {"type": "string"}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/name"}}}
    assert "maxLength" in bounded(given, 100)["$defs"]["name"]


def test_request_carries_bounds_and_validation_none() -> None:
    form = AnswerForm(
        form=JSON, schema='{"type": "object", "properties": {"text": {"type": "string"}}}', guided_slack=1
    )
    sent = form.response_format(100)["response_format"]["json_schema"]["schema"]
    assert 100 <= sent["properties"]["text"]["maxLength"] <= 200
    assert why_invalid({"text": "x" * 5000}, form.schema) == ""


@pytest.mark.parametrize(("form", "start"), [(JSON, "start: %json {"), (TAGGED, 'start: "<final_prompt>')])
def test_grammar_is_sent_in_words_of_the_engine(form: str, start: str) -> None:
    answer = AnswerForm(form=form, schema='{"type": "object"}')
    grammar = answer.response_format(100, "llamacpp")["grammar"].removeprefix("%llguidance {}\n")
    assert grammar.startswith(start) and '"whitespace_flexible": false' in grammar
    assert form == JSON or answer.response_format(100) == {"structured_outputs": {"grammar": grammar}}
