"""Targets: what their files say works, what the clip decides, and what a user's own files may be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.errors import InputError
from src.planning.configure import messages_of, target_settings
from src.planning.recipe import EXAMPLE, message_writer, pins_of, variables_of
from src.prompts.specs import PromptSpec
from src.targets.pins import facts_of
from src.targets.target import Target, messages_in, schema_of, skeleton
from src.worker.answer_form import why_invalid
from tests.conftest import ROOT, Configure

NAMES = sorted(file.stem for file in (ROOT / "conf" / "target").glob("*.yaml"))
SCHEMAS = sorted(file.stem for file in (ROOT / "src" / "targets" / "schemas").glob("*.json"))


def spec(prompt: str) -> PromptSpec:
    return PromptSpec("boat", "boat", prompt, None, None, Path("p.json"), "item 1", "list", {})


def test_default_target_changes_nothing(configure: Configure) -> None:
    config = configure()
    assert target_settings(config) == Target()
    assert message_writer(messages_of(config)[1])(spec("a boat"), {}) == ("", "a boat")


@pytest.mark.parametrize("name", NAMES)
def test_target_can_be_planned(configure: Configure, name: str) -> None:
    config = configure(f"target={name}")
    target = target_settings(config)
    assert (target.name, bool(target.hash)) == (name, name != "cosmos_transfer1")
    assert config.budget.max_model_len > config.budget.max_output_tokens + 500
    variables = variables_of(target)(None)
    assert variables.keys() == EXAMPLE.keys()
    write = message_writer(messages_of(config)[1])
    asked, empty = (write(spec(prompt), variables) for prompt in ("A boat.", " "))
    assert "A boat." in asked[1] and "A boat." not in empty[1] and empty[1].strip()
    if target.answer.schema:
        assert all(key in asked[1] for key in json.loads(target.answer.schema)["properties"])


@pytest.mark.parametrize("name", ["wan", "hunyuan15"])
def test_language_is_that_of_the_request(configure: Configure, name: str) -> None:
    config = configure(f"target={name}", *(["target.language=zh"] if name == "wan" else []))
    write, more = message_writer(messages_of(config)[1]), EXAMPLE | {"language": "zh"}
    assert "Chinese" in " ".join(write(spec("a boat"), more))


def test_template_option_replaces_the_messages(configure: Configure) -> None:
    _, messages = messages_of(configure("target=wan", "template=describe"))
    assert messages.system.startswith("You rewrite") and messages.user == "{{ prompt }}"
    with pytest.raises(InputError, match="both name messages"):
        messages_of(configure("target=wan", "template=describe", "target.template=x.txt"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "Rewrite {{ prompt }}", ("", "Rewrite {{ prompt }}", "")),
        ("a.txt", "Rewrite {{prompt|trim}}", ("", "Rewrite {{prompt|trim}}", "")),
        ("a.txt", "{% if prompt %}Rewrite it.{% endif %}", ("", "{% if prompt %}Rewrite it.{% endif %}", "")),
        ("a.txt", "Rewrite the prompt. {{ hints }}", ("Rewrite the prompt. {{ hints }}", "{{ prompt }}", "")),
        ("a.md", "Be brief.", ("Be brief.", "{{ prompt }}", "")),
        ("a.yaml", "system: S\nuser: U\nuser_empty: E", ("S", "U", "E")),
    ],
)  # fmt: skip
def test_own_messages_are_read(tmp_path: Path, name: str, text: str, expected: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(text)
    found = messages_in(str(tmp_path / name))
    assert (found.system, found.user, found.user_empty) == expected


@pytest.mark.parametrize("text", ["[1]", "system: 3", "a: [", "\xff"])
def test_wrong_messages_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"target\.template"):
        messages_in(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target.duration_s=-1", r"target\.duration_s: must be more than 0"),
        ("target.checks=[nosuch]", r"target\.checks: nosuch"), ("target.pins=[mood]", r"target\.pins: mood"),
        ("target.resolution=100", r"target\.resolution"), ("target.max_repairs=99", "0 to 10"),
        ("target.schema=nosuch", "name a file, or one of cosmos3"), ("target.export=x", "not one of cosmos3"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused(configure: Configure, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        target_settings(configure("target=cosmos3", override))


@pytest.mark.parametrize(
    ("shape", "resolution", "expected"),
    [
        ((1920, 1080, 4.6, 23.976), "480", ({"H": 480, "W": 832}, "16,9", "5s", 24)),
        ((1080, 1920, 0.5, 60.0), "720", ({"H": 1280, "W": 720}, "9,16", "2s", 30)),
        ((640, 640, 99.0, 5.0), "256", ({"H": 256, "W": 256}, "1,1", "10s", 10)),
        ((640, 480, 5.0, 25.0), "768", ({"H": 880, "W": 1184}, "4,3", "5s", 24)),
    ],
)
def test_clip_decides_the_pins(
    shape: tuple[int, int, float, float], resolution: str, expected: tuple[object, ...]
) -> None:
    facts = facts_of(*shape, resolution)
    assert tuple(facts[key] for key in ("resolution", "aspect_ratio", "duration", "fps")) == expected


def test_pins_without_a_clip_are_the_targets(configure: Configure) -> None:
    target = target_settings(configure("target=cosmos3", "target.duration_s=7", "target.fps=16"))
    assert pins_of(target, None) == facts_of(16, 9, 7.0, 16.0, "720")
    assert pins_of(Target(), None) == {}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schema_requires_every_field_in_order(name: str) -> None:
    schema = json.loads(schema_of(name))
    shape = skeleton(schema)
    assert schema["required"] == list(schema["properties"]) == list(shape) and not schema["additionalProperties"]
    assert "must contain" in why_invalid({}, schema_of(name))
    assert not {"aspect_ratio", "duration"} - shape.keys() or name == "cosmos3_transfer"


def test_hash_covers_what_changes_answers(configure: Configure) -> None:
    one, same, other = (
        target_settings(configure("target=wan", *more)).hash
        for more in ((), ("target.export=ltx2",), ("target.encoder_tokens=100",))
    )
    assert one == same != other


def test_shape_follows_the_references_of_a_schema() -> None:
    """As pydantic writes them; one that leads back to itself ends."""
    shot = {"type": "object", "properties": {"text": {"type": "string"}, "next": {"$ref": "#/$defs/Shot"}}}
    count = {"anyOf": [{"type": "null"}, {"type": "integer"}]}
    shots = {"type": "array", "items": {"$ref": "#/$defs/Shot"}}
    schema = {
        "type": "object", "$defs": {"Shot": shot},
        "properties": {"shots": shots, "n": count, "kind": {"type": ["null", "number"]}, "any": True},
    }  # fmt: skip
    assert skeleton(schema) == {"shots": [{"text": "", "next": ""}], "n": 0, "kind": 0, "any": ""}


@pytest.mark.parametrize("key", ["max_tokens", "messages", "model", "stream", "n"])
def test_keys_of_the_plan_are_refused(configure: Configure, key: str) -> None:
    config = configure("target=cosmos3")
    config.target.request = {key: 1}
    with pytest.raises(InputError, match=rf"target\.request\.{key}: is set by the program"):
        target_settings(config)
