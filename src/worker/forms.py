"""An answer as it came becomes the prompt that its video model wants: thoughts apart, without what stands around it, as
valid JSON where JSON is wanted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from .answer_form import TAGGED, TEXT, AnswerForm, why_invalid
from .answers import cleaned, without_thoughts
from .engines.engine import Answer

_OPENING, _CLOSING = re.compile(r"^\s*```\w*\s*"), re.compile(r"(?<!\s)\s*```\s*$")
_TAG = r"<{0}>(.*?)</{0}>"
_PREFACES = {"preface", "label", "offer", "rule"}


@dataclass(frozen=True, slots=True)
class Formed:
    """What an answer holds. text: the prompt, or the answer where it is not valid; negative: the negative prompt beside it;
    removed: what stood around it; invalid: why it is not what was asked for, as the model can be told."""

    text: str
    negative: str | None = None
    reasoning: str = ""
    removed: tuple[str, ...] = ()
    invalid: str = ""
    unclosed: bool = False

    def surrounding(self) -> list[str]:
        """The checks that what stood around the prompt fails."""
        found = ["preface"] if _PREFACES & {*self.removed} else []
        return [*found, *(["quotes"] if "quotation marks" in self.removed else [])]


def formed(answer: Answer, form: AnswerForm, pins: Mapping[str, Any]) -> Formed:
    """The prompt in an answer."""
    try:
        return _formed(answer, form, pins)
    except RecursionError:
        return Formed(answer.text.strip(), invalid="it is nested too deeply")


def _formed(answer: Answer, form: AnswerForm, pins: Mapping[str, Any]) -> Formed:
    text, reasoning, unclosed = answer.text, "", False
    if "think" in form.checks:
        text, reasoning = (text, answer.reasoning) if text.strip() else (answer.reasoning, "")
        text, thoughts, unclosed = without_thoughts(text)
        reasoning = "\n\n".join(filter(None, (reasoning.strip(), thoughts)))
    if form.form == TEXT:
        text, removed = cleaned(text)
        return Formed(text, None, reasoning, tuple(removed), unclosed=unclosed)
    negative = None
    if form.form == TAGGED:
        if not (found := re.search(_TAG.format("final_prompt"), text, re.DOTALL)):
            return Formed(text, None, reasoning, invalid="there is no <final_prompt>", unclosed=unclosed)
        avoid = re.search(_TAG.format("negative_prompt"), text, re.DOTALL)
        text, negative = found[1].strip(), (avoid[1].strip() if avoid else "") or None
    try:
        caption, around = json_in(text)
    except ValueError as e:
        return Formed(text.strip(), negative, reasoning, invalid=str(e), unclosed=unclosed)
    caption = {key: value for key, value in caption.items() if key not in form.drop} | dict(pins)
    order = json.loads(form.schema or "{}").get("properties", {})
    caption = {key: caption[key] for key in dict.fromkeys((*order, *caption)) if key in caption}
    # Cosmos 3 was trained on ASCII, and its loader reads lines that end at any line break of Unicode.
    text = json.dumps(caption, ensure_ascii=True)
    removed_here = ("preface",) if around else ()
    wrong = why_invalid(caption, form.schema)
    written = [*leaves({key: value for key, value in caption.items() if key not in pins})]
    if not wrong and written and not any(map(str.isalpha, "".join(written))):
        wrong = "all its texts are empty"
    return Formed(text, negative, reasoning, removed_here, wrong, unclosed)


def leaves(value: Any) -> Iterator[str]:
    """The texts in a JSON value."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(inner)


def json_in(text: str) -> tuple[dict[str, Any], str]:
    """The JSON object in a text, and what stands around it beside a code fence. Raises ValueError in words."""
    start = text.find("{")
    if start < 0:
        raise ValueError("there is no JSON object")
    # strict=False: guided decoding lets raw control characters through (xgrammar, in strings of bounded length).
    decoder = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, parse_float=_finite)
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as e:
        raise ValueError(f"it is not valid JSON: {e.msg} at character {e.pos - start}") from None
    return value, "".join(_CLOSING.sub("", _OPENING.sub("", part)).strip() for part in (text[:start], text[end:]))


def _finite(word: str) -> float:
    if math.isinf(value := float(word)):
        raise ValueError(f"it is not valid JSON: {word[:20]} is out of range, which is not JSON compliant")
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"it is not valid JSON: {word} is not a number")
