"""A target as a frozen value, made from its config group, and the files that it names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..worker.answer_form import CHECKS, AnswerForm, validator
from ..worker.records import InvalidRecord, from_json, to_json
from .exports import EXPORTS
from .pins import PINS, SIZES

SCHEMAS = Path(__file__).parent / "schemas"
DEFAULT = "cosmos_transfer1"
# Of a request: the plan, the checks and the reader of answers rely on them.
_OWN_KEYS = ("model", "messages", "max_tokens", "max_completion_tokens", "seed", "n", "stream", "stream_options")
_PROMPT = re.compile(
    r"\{[{%](?:(?![%}]\}).)*?\bprompt\b", re.DOTALL
)  # the variable, in an expression or a statement of jinja2


@dataclass(frozen=True, slots=True)
class Target:
    """The video model that prompts are for.

    with_frames: the language where frames are sent, "": that of the answer. pins: fields of a JSON answer that the clip
    decides, or resolution, duration_s and fps where there is none. hash: of all that changes an answer, and messages: of their
    templates, both "" for the default.
    """

    name: str = DEFAULT
    answer: AnswerForm = field(default_factory=AnswerForm)
    with_frames: str = ""
    pins: tuple[str, ...] = ()
    resolution: str = "720"
    duration_s: float = 5.0
    fps: float = 24.0
    negative_prompt: str = ""
    export: str = ""
    encoder_tokenizer: str = ""
    messages: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Messages:
    """Templates (jinja2) of the messages: system, user, and user where the prompt is empty."""

    system: str = ""
    user: str = "{{ prompt }}"
    user_empty: str = ""


def target_of(values: Mapping[str, Any]) -> Target:
    """The target of a config group. Raises InputError for values that cannot work."""
    wrong = []
    for name, given, known in (
        ("checks", values["checks"], CHECKS),
        ("pins", values["pins"], PINS),
        ("resolution", [values["resolution"]], SIZES),
        ("export", [values["export"]], ("", *EXPORTS)),
    ):
        wrong += [
            f"target.{name}: {one} is not one of {', '.join(filter(None, known))}" for one in given if one not in known
        ]
    wrong += [f"target.request.{name}: is set by the program" for name in values["request"] if name in _OWN_KEYS]
    if values["duration_s"] <= 0:
        wrong.append("target.duration_s: must be more than 0")
    if values["guided_slack"] <= 0:
        wrong.append("target.guided_slack: must be more than 0")
    if values["encoder_tokens"] < 0 or not 0 <= values["max_repairs"] <= 10:
        wrong.append("target: encoder_tokens must not be negative, max_repairs 0 to 10")
    if wrong:
        raise InputError("the config cannot be used:\n" + "\n".join(f"  - {w}" for w in wrong))
    try:
        answer = from_json(
            AnswerForm,
            {key: value for key, value in values.items() if key in AnswerForm.__slots__ and key != "fields"}
            | {
                "schema": schema_of(values["schema"]),
                "fields": json.dumps(dict(values["request"])) if values["request"] else "",
            },
            "target",
        )
    except InvalidRecord as e:
        raise InputError(f"the config cannot be used:\n  - {e}") from None
    own = {key: value for key, value in values.items() if key in Target.__slots__}
    own |= {"answer": answer, "with_frames": values["language_with_frames"], "pins": tuple(values["pins"])}
    target = Target(**own)
    if target == Target():
        return target
    seen = {key: value for key, value in to_json(target).items() if key not in ("export", "name")}
    return replace(target, hash=hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:16])


def schema_of(name: str) -> str:
    """The text of a JSON Schema: one of src/targets/schemas by its name, or a file; "" for none. Raises InputError."""
    if not name:
        return ""
    own = SCHEMAS / f"{name}.json"
    file = own if own.is_file() and "/" not in name else Path(name)
    try:
        schema = json.dumps(json.loads(file.read_text(encoding="utf-8")))
        validator(schema)
    except Exception as e:  # whatever a file of another kind makes the compiler raise
        raise InputError(
            f"target.schema={name}: not a valid JSON Schema ({type(e).__name__}: {e})",
            hint=f"name a file, or one of {', '.join(sorted(path.stem for path in SCHEMAS.glob('*.json')))}",
        ) from None
    return schema


def messages_in(path: str) -> Messages:
    """The messages in a user's file: a YAML file with system, user and user_empty, or a text, which is the user message where it
    names the prompt and the system message where it does not."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"target.template={path}: cannot be read: {e}") from None
    if not path.endswith((".yaml", ".yml")):
        return Messages(user=text) if _PROMPT.search(text) else Messages(system=text)
    import yaml

    try:
        given = yaml.safe_load(text)
        return from_json(Messages, given, "")
    except Exception as e:  # whatever a file of another kind makes PyYAML raise
        raise InputError(
            f"target.template={path}: {e}", hint="a YAML file has the texts system, user and user_empty"
        ) from None


def skeleton(schema: Any, whole: Any = None, seen: frozenset[str] = frozenset()) -> Any:
    """The shape of an object that a schema describes, with empty values, as a message can show it. whole: what its references are
    seen from, seen: those that led here, for one may lead back to itself."""
    if not isinstance(schema, Mapping):
        return ""
    whole = whole or schema
    if reference := str(schema.get("$ref", "")):
        return "" if reference in seen else skeleton(_referred(whole, reference), whole, seen | {reference})
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    kinds = schema.get("type", ())
    kind = next((k for k in ([kinds] if isinstance(kinds, str) else kinds) if k != "null"), None)
    choices = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, ()) if one != {"type": "null"}]
    if kind is None and choices:
        return skeleton(choices[0], whole, seen)
    if kind == "object":
        return {key: skeleton(inner, whole, seen) for key, inner in schema.get("properties", {}).items()}
    return (
        [skeleton(schema.get("items"), whole, seen)] if kind == "array" else 0 if kind in ("integer", "number") else ""
    )


def _referred(schema: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    """What a reference within a schema leads to, as in #/$defs/Shot; nothing for one that leads elsewhere."""
    found: Any = schema
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
    return found if isinstance(found, Mapping) else {}
