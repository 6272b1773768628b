"""What a video model wants of an answer; a part of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from .schema_bounds import CHARS_PER_TOKEN, bounded
from .values import one_of

TEXT, JSON, TAGGED = "text", "json", "tagged"  # forms of an answer; tagged: JSON, and a negative prompt, each in a tag
CHECKS = ("think", "preface", "quotes", "refusal", "loop", "language", "too_long", "dropped_subject")

# Answers as grammars of llguidance, which vLLM's backend `guidance` and llama.cpp take; other servers answer without one.
ALONE = "start: %json {caption}"
TAGS = r"""start: "<final_prompt>\n" caption "\n</final_prompt>\n<negative_prompt>\n" avoid "\n</negative_prompt>"
caption: %json {caption}
avoid: /[^<\n]{{1,{most}}}/
"""
_NO_BLANKS = {"x-guidance": {"whitespace_flexible": False}}

MOST_WORDS = 400  # characters of a validator's message


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the video model wants of an answer, the same for all items of a job.

    schema: text of the JSON Schema of a JSON answer; guided: the engine is asked to keep to it, within bounds that
    `guided_slack` scales (`schema_bounds`). drop: fields that are removed.
    max_repairs: how often an invalid answer goes back to the model. checks: of CHECKS. language: en or zh. encoder_tokens: the
    most that the text encoder of the video model takes, 0: any number; encoder: its name; encoder_file: its tokenizer,
    compressed, in base64, or "" to estimate, and encoder_kind the name of that file. fields: of each request, as JSON.
    """

    SPARSE: ClassVar[bool] = True

    form: Annotated[str, one_of(TEXT, JSON, TAGGED)] = TEXT
    schema: str = ""
    guided: bool = True
    guided_slack: float = 8.0
    drop: tuple[str, ...] = ()
    max_repairs: int = 0
    checks: tuple[Annotated[str, one_of(*CHECKS)], ...] = ()
    language: Annotated[str, one_of("", "en", "zh")] = ""
    encoder: str = ""
    encoder_tokens: int = 0
    encoder_kind: str = ""
    encoder_file: str = ""
    fields: str = ""

    @property
    def is_guided(self) -> bool:
        """Whether a server is asked for answers of the schema."""
        return self.guided and bool(self.schema) and self.form in (JSON, TAGGED)

    def response_format(self, tokens: int, engine: str = "") -> Mapping[str, Any]:
        """What asks a server for an answer of this schema and of about so many tokens at most; empty where nothing does.

        In words of OpenAI and vLLM, or in those of the server that an engine starts: llama.cpp takes any grammar of llguidance.
        """
        if not self.is_guided:
            return {}
        is_tagged = self.form == TAGGED
        schema = bounded(json.loads(self.schema), tokens * 3 // 4 if is_tagged else tokens, self.guided_slack)
        most = round(tokens / 4 * CHARS_PER_TOKEN * self.guided_slack)
        grammar = (TAGS if is_tagged else ALONE).format(caption=json.dumps(schema | _NO_BLANKS), most=most)
        if engine == "llamacpp":
            return {"grammar": f"%llguidance {{}}\n{grammar}"}
        if is_tagged:
            return {"structured_outputs": {"grammar": grammar}}
        wanted = {"name": "prompt", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def why_invalid(value: Any, schema: str) -> str:
    """What of a value a JSON Schema, given as text, does not allow; "" for a valid one."""
    if not schema:
        return ""
    from fastjsonschema import JsonSchemaValueException

    try:
        validator(schema)(value)
    except JsonSchemaValueException as e:
        return str(e.message)[:MOST_WORDS]
    return ""


@lru_cache(maxsize=8)
def validator(schema: str) -> Callable[[Any], Any]:
    """The function that validates, made once for each schema. Raises fastjsonschema's exceptions for one that is not valid."""
    import fastjsonschema

    made: Callable[[Any], Any] = fastjsonschema.compile(json.loads(schema), use_default=False)
    return made
