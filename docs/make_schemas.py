"""Generates JSON Schemas for editors, of config files and of prompt files: `python -m docs.make_schemas`."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from src.config import Config
from src.help import schema
from src.prompts.fields import OBJECT_FIELDS, TEXT_FIELDS, VIDEO_FIELDS
from src.prompts.specs import MAX_NAME

FOLDER = Path(__file__).resolve().parent.parent / "src" / "schemas"
DRAFT = "http://json-schema.org/draft-07/schema#"
INTERPOLATED = {"type": "string", "pattern": r"^\$\{"}
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def config_schema() -> dict[str, Any]:
    """Of files with `# @package _global_`: experiments, recipes, targets, conf/local/defaults.yaml."""
    own = {"defaults": {"type": "array"}, "hydra": {"type": "object"}}
    whole = _block(Config)
    return (
        {"$schema": DRAFT, "title": "Config of the prompt upsampler"}
        | whole
        | {"properties": own | whole["properties"]}
    )


def prompts_schema() -> dict[str, Any]:
    """Of lists of prompts and single specs; fields of other tools are allowed."""
    texts = {name: {"type": ["string", "null"]} for name in (*TEXT_FIELDS, *VIDEO_FIELDS)}
    item = {
        "type": "object",
        "properties": {
            **texts,
            "name": {"type": "string", "maxLength": MAX_NAME, "description": "unique over all files of a run"},
            "prompt": {"type": "string", "description": "the short prompt"},
            "video_path": {"type": ["string", "null"], "description": "the clip, relative to this file"},
            **{name: {"type": ["object", "null"]} for name in OBJECT_FIELDS},
        },
    }
    either = [{"type": "array", "items": {"$ref": "#/definitions/item"}}, {"$ref": "#/definitions/item"}]
    return {"$schema": DRAFT, "title": "Prompts", "definitions": {"item": item}, "anyOf": either}


def _block(kind: type) -> dict[str, Any]:
    described = {field.name: field.comment for field in schema()[kind.__name__].fields}
    fields = {name: _field(hint, described.get(name, "")) for name, hint in get_type_hints(kind).items()}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _field(hint: Any, text: str) -> dict[str, Any]:
    described = {"description": text} if text else {}
    return described | (_block(hint) if is_dataclass(hint) and isinstance(hint, type) else _type(hint))


def _type(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is UnionType:
        [inner] = [part for part in get_args(hint) if part is not type(None)]
        return {"anyOf": [_type(inner), {"type": "null"}]}
    if get_origin(hint) is list:
        return {"type": "array", "items": _type(get_args(hint)[0])}
    if get_origin(hint) is dict:
        return {"type": "object"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"anyOf": [{"enum": [member.value for member in hint]}, INTERPOLATED]}
    if hint is str:
        return {"type": ["string", "number", "boolean", "null"]}  # YAML's types for what Hydra takes as a text
    return {"anyOf": [{"type": SCALARS[hint]}, INTERPOLATED]} if hint in SCALARS else {}


PAGES = {"config.json": config_schema, "prompts.json": prompts_schema}

if __name__ == "__main__":
    for name, made in PAGES.items():
        (FOLDER / name).write_text(json.dumps(made()) + "\n", encoding="utf-8")
        print(FOLDER / name)
