"""What items say about controls and sampling, in any engine's words, and the same as a request to one engine. Pure.

Every name here is used, or refused by name: a control, weight or key that an engine has no word for is never dropped.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..prompts.fields import OBJECT_FIELDS
from .engines import ENGINES
from .engines.engine import Engine, Key, Place, Refused, Request

# Name in any engine -> common name: that of Cosmos-Transfer1, where it has one.
CONTROLS = {name: name for engine in ENGINES.values() for name in engine.controls} | {
    "blur": "vis",
    "world_scenario": "wsm",
}
_SAME_FIELDS = {
    "weight": "control_weight",
    "control_path": "input_control",
    "mask_prompt": "control_weight_prompt",
    "control_prompt": "input_control_prompt",
}
FIELDS = {name: name for engine in ENGINES.values() for name in engine.fields} | _SAME_FIELDS
# Fields that are keys.
IN_A_CONTROL = {"preset_edge_threshold": "canny_threshold", "preset_blur_strength": "blur_strength"}
KEYS = frozenset(name for engine in ENGINES.values() for name in engine.keys)
_FILES = frozenset(
    name
    for engine in ENGINES.values()
    for table in (engine.fields, engine.keys)
    for name, key in table.items()
    if key.kind in ("file", "weight")
) | {"region_definitions_path"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an item, or the config, asks for, by common names. overrides: fields of controls that are there already. written: the
    names as they were written. problems: what could not be read."""

    controls: dict[str, dict[str, Any]] = field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def asked_of(given: Mapping[str, Any], ignore: Collection[str] = (), *, from_table: bool = False) -> Asked:
    """What the fields of an item ask for. ignore: names that do not count, KEY or CONTROL.FIELD. from_table: values are text."""
    asked = Asked()
    for name, written in _flat(given).items():
        value = _of_cell(name, written) if from_table else written
        if value is None or name in ignore:
            continue
        if name in CONTROLS:
            _add_control(asked, asked.controls, name, value, ignore)
        elif name == "control_overrides":
            for control, fields in _object(value).items():
                _add_control(asked, asked.overrides, control, fields, ignore, f"{name} of ")
        elif name in KEYS:
            asked.keys[name] = value
        elif isinstance(value, dict) and name not in OBJECT_FIELDS:
            near = difflib.get_close_matches(name, CONTROLS, n=1, cutoff=0.7)
            asked.problems.extend(f"{name}: unknown control; did you mean {meant}?" for meant in near)
    asked.problems.extend(
        f"parameters.{name}: no engine has such a key; inference.ignore=[parameters.{name}] leaves it out"
        for name in _strange_parameters(given)
        if f"parameters.{name}" not in ignore
    )
    return asked


def _strange_parameters(given: Mapping[str, Any]) -> list[str]:
    """What no engine knows of `parameters` that are those of a RunSpec; a table's column of that name may be anything."""
    parameters = _object(given.get("parameters"))
    is_run_spec = bool(KEYS & parameters.keys() or given.keys() & {"control_inputs", "control_weights"})
    return [name for name in parameters if is_run_spec and name not in KEYS and name not in CONTROLS]


def _flat(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields of PromptSpec and RunSpec (a file and a weight for each control, parameters) as fields of controls, and as keys."""
    tables = (("control_inputs", "input_control"), ("control_weights", "control_weight"))
    if not given.keys() & {"parameters", *(name for name, _ in tables)}:
        return given
    flat = {**_object(given.get("parameters")), **given}
    for table, field_name in tables:
        for control, value in _object(given.get(table)).items():
            own = flat.get(control)
            own = {} if own in (None, "") else own  # an empty cell
            flat[control] = {field_name: value, **own} if isinstance(own, dict) else own
    return flat


def placed(given: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The same fields with the files of controls and keys where `place` puts them."""
    return {name: _placed(name, value, place) for name, value in given.items()}


def _placed(name: str, value: Any, place: Place) -> Any:
    if isinstance(value, dict) and (name in CONTROLS or name == "control_overrides"):
        return placed(value, place)
    if isinstance(value, dict) and name == "control_inputs":
        return {control: place(path) if isinstance(path, str) and path else path for control, path in value.items()}
    if isinstance(value, list) and name == "regional_prompts":
        return [placed(region, place) if isinstance(region, dict) else region for region in value]
    is_file = FIELDS.get(name, name) in _FILES and (name != "control_weight" or str(value).endswith(".pt"))
    return place(value) if is_file and isinstance(value, str) and value else value


def _of_cell(name: str, value: Any) -> Any:
    """A value of a table as what it is: a number, an object; None for an empty cell."""
    if value == "":
        return None
    if not isinstance(value, str) or name == "negative_prompt":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _object(value: Any) -> dict[str, Any]:
    """An object field of a prompt file, which may be JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _add_control(
    asked: Asked, to: dict[str, dict[str, Any]], name: str, given: Any, ignore: Collection[str], where: str = ""
) -> None:
    common = CONTROLS.get(name, name)
    if not isinstance(given, dict):
        asked.problems.append(f"{where}{name}: is no object, as a control must be: {json.dumps(given)[:60]}")
        return
    if common in to:
        asked.problems.append(f"{name}: is the same control as {asked.written.get(common, common)}")
        return
    fields = to[common] = {}
    asked.written[common] = name
    fields_given: dict[str, Any] = given
    for field_name, value in fields_given.items():
        written = f"{name}.{field_name}"
        if value is None or written in ignore:
            continue
        if field_name in IN_A_CONTROL:
            key = IN_A_CONTROL[field_name]
            asked.keys[key], asked.written[key] = value, written
            continue
        same = FIELDS.get(field_name, field_name)
        asked.written[f"{common}.{same}"] = written
        fields[same] = value


def request_of(
    engine: Engine, template: Asked, asked: Asked, prompt: str, clip: str, place: Place = lambda path: path
) -> Request:
    """What an item asks of an engine. template: the controls of an item that names none, and defaults of keys; files in it are
    where the engine runs. Raises Refused with all that the engine cannot take."""
    problems = [*template.problems, *asked.problems]
    defaults, own = _translated(engine, template, str, problems), _translated(engine, asked, place, problems)
    controls = {name: dict(fields) for name, fields in (own.controls or defaults.controls).items()}
    overrides = {name: fields for name, fields in own.overrides.items() if name in controls}
    for name in own.overrides.keys() - overrides.keys():
        problems.append(f"control_overrides of {name}: no such control in the spec")
    arguments: dict[str, Any] = {}
    for keys in (defaults.keys, own.keys):
        for name, value in keys.items():
            control, _, inner = name.rpartition(".")
            if not control:
                arguments[name] = value
            elif control in controls:
                controls[control][inner] = value
            elif keys is own.keys:
                problems.append(f"{inner}: there is no control {control} that it could be of")
    request = Request(prompt, clip, controls, arguments, bool(own.controls), overrides)
    if problems or (problem := engine.problem(request)):
        raise Refused("; ".join(problems) if problems else problem)
    return request


def _translated(engine: Engine, asked: Asked, place: Place, problems: list[str]) -> Asked:
    """The same in the engine's words."""
    result = Asked()
    for target, source in ((result.controls, asked.controls), (result.overrides, asked.overrides)):
        for name, fields in source.items():
            if name not in engine.controls:
                there = ", ".join(engine.controls.values())
                problems.append(f"{asked.written.get(name, name)}: {engine.title} has no such control ({there})")
                continue
            problems += _taken(
                engine.fields, fields, place, target.setdefault(engine.controls[name], {}), asked, name, engine
            )
    problems += _taken(engine.keys, asked.keys, place, result.keys, asked, "", engine)
    return result


def _taken(
    known: Mapping[str, Key], given: Mapping[str, Any], place: Place, into: dict[str, Any], asked: Asked, control: str,
    engine: Engine,
) -> Iterator[str]:  # fmt: skip
    """Put values into their places; yields what is wrong with the others."""
    for name, value in given.items():
        path = f"{control}.{name}" if control else name
        written = asked.written.get(path, path)
        if name not in known:
            there = ", ".join(key.name for key in known.values())
            what = f"no such field of a control ({there})" if control else "no such key"
            yield f"{written}: {engine.title} has {what}; inference.ignore=[{written}] leaves it out"
            continue
        key = known[name]
        if key.of and control not in key.of:
            yield f"{written}: {engine.title} reads it of {', '.join(key.of)} alone; inference.ignore=[{written}] leaves it out"
            continue
        try:
            into[key.name] = key.taken(value, place)
        except ValueError as e:
            yield f"{written}={value if isinstance(value, str | int | float) else json.dumps(value)[:60]}: {e}"
