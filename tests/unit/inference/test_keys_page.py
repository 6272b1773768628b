"""docs/pipeline.md shows what each engine calls each control, field and key, and which it refuses."""

from __future__ import annotations

from src.inference.engines import ENGINES
from src.inference.engines.engine import Key
from src.inference.vocabulary import CONTROLS, KEYS
from tests.conftest import ROOT


def shown(field: Key) -> str:
    return f"{field.name} ({', '.join(field.of)})" if field.of else field.name


def table() -> str:
    engines = ENGINES.values()
    fields = dict.fromkeys(name for engine in engines for name in engine.fields)
    rows = [(name, [engine.controls.get(name, "") for engine in engines]) for name in dict.fromkeys(CONTROLS.values())]
    rows += [
        (f"field {name}", [shown(engine.fields[name]) if name in engine.fields else "" for engine in engines])
        for name in fields
    ]
    rows += [
        (name, [engine.keys[name].name if name in engine.keys else "" for engine in engines]) for name in sorted(KEYS)
    ]
    return "".join(
        f"| {name} | {' | '.join(f'`{word}`' if word else '' for word in words)} |\n".replace("|  |", "| |")
        for name, words in rows
    )


def test_page_has_every_word_of_every_engine() -> None:
    assert table() in (ROOT / "docs" / "pipeline.md").read_text(), table()
