"""Targets through the whole program: against a server that answers badly, and with guided decoding in the real vLLM."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.targets.target import schema_of
from src.worker.answer_form import why_invalid
from tests.harness.openai_server import FakeOpenAI, text_of
from tests.harness.program import journal_lines, program, quoted, results_of

GOOD = (
    "A small red boat leaves the harbor at dusk, take {n}, while gulls circle over the pier. The water is calm and holds the "
    "last light of the day. A man in a blue jacket coils a rope and looks back to the town as its lamps come on."
)
CAPTION = {
    "temporal_caption": "A red boat leaves.",
    "duration": "",
    "fps": 0,
    "resolution": {"H": 0, "W": 0},
    "aspect_ratio": "",
}
BAD: dict[str, Callable[[str], dict[str, Any]]] = {
    "thinks": lambda good: {"content": f"<think>The user wants a boat.</think>\n{good}"},
    "answers in reasoning": lambda good: {"content": None, "reasoning": good},
    "thinks forever": lambda good: {"content": "<think>The user wants"},
    "prefaces": lambda good: {"content": f"Sure! Here is the prompt:\n\n{good}"},
    "quotes": lambda good: {"content": f'"{good}"'},
    "refuses": lambda good: {"content": "I'm sorry, but I cannot help with that."},
    "loops": lambda good: {"content": "the boat turns to the left and " * 9},
    "is Chinese": lambda good: {"content": "黄昏时分，一艘红色小船缓缓驶离港口，海鸥在码头上空盘旋。"},
    "is too long": lambda good: {
        "content": f"{good} {'; '.join(f'a lamp called {chr(97 + n)}{n}x' for n in range(9))}"
    },
    "breaks JSON": lambda good: {"content": good[:-3]},
}
REQUESTS = Counter(dict.fromkeys(BAD, 2) | {"thinks": 1, "answers in reasoning": 1})


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    server = FakeOpenAI(pause_s=0.0)
    server.count = lambda body: 100
    yield server
    server.close()


def prompts(folder: Path, names: list[str], video: Path | None = None) -> str:
    clip = {"video_path": str(video)} if video else {}
    (folder / "prompts.json").write_text(
        json.dumps([{"name": name, "prompt": f"a boat that {name}", **clip} for name in names])
    )
    return f"prompts={quoted(folder / 'prompts.json')}"


def badly(fake: FakeOpenAI, good: Any) -> None:
    """Let it answer each first request as its prompt says, and every other one well."""
    first = set[str]()

    def delta(body: dict[str, Any]) -> dict[str, Any]:
        text = next(m for m in body["messages"] if m["role"] == "user")["content"]
        name = next(name for name in sorted(BAD, key=len, reverse=True) if f"that {name}" in str(text))
        n, is_first = body["seed"], name not in first
        first.add(name)
        return BAD[name](good(n)) if is_first else {"content": good(n)}

    fake.delta = delta


def run(folder: Path, fake_url: str, *overrides: str, code: int = 0) -> list[dict[str, Any]]:
    end = program(
        "engine=endpoint",
        f"engine.base_url={fake_url}",
        f"hydra.run.dir={quoted(folder)}",
        *overrides,
        timeout_s=900.0,
    )
    assert end.code == code, end.out + end.err
    return results_of(folder)


def test_bad_answers_are_asked_for_once_more(fake: FakeOpenAI, tmp_path: Path, common: tuple[str, ...]) -> None:
    badly(fake, lambda n: GOOD.format(n=n))
    names = [name for name in BAD if name != "breaks JSON"]
    rows = run(
        tmp_path / "run", fake.url, prompts(tmp_path, names), "target=wan", "target.encoder_tokens=90", *common,
        "output.exports=[target,provenance]",
    )  # fmt: skip
    asked = {name: sum(f"that {name}" in str(body["messages"]) for body in fake.asked) for name in names}
    asked["thinks"] -= asked["thinks forever"]
    assert asked == {name: REQUESTS[name] for name in names}
    assert {row["state"] for row in rows} == {"upsampled"} and [
        row["flags"] for row in rows if "too_long" in row["flags"]
    ] == []
    assert all(row["upsampled_prompt"].startswith("A small red boat") for row in rows)
    assert all(("asked again" in row["flags"]) == (row["attempts"] > 1) for row in rows)
    lines = {line["id"]: line for line in journal_lines(tmp_path / "run" / "journal.jsonl")}
    assert lines[rows[0]["id"]]["reasoning"] == "The user wants a boat."
    assert (tmp_path / "run" / "wan.sh").read_text().count("generate.py") == len(names)
    assert "holds: 9 items, 9 answers" in program("task=verify", f"run={quoted(tmp_path / 'run')}").out
    results = tmp_path / "run" / "results.json"
    results.write_text(results.read_text().replace("small red", "large red", 1))
    end = program("task=verify", f"run={quoted(tmp_path / 'run')}")
    assert end.code == 3 and end.out.startswith("does not hold: thinks: answer")


def test_json_is_made_valid_without_response_format(
    fake: FakeOpenAI, tmp_path: Path, clips: Path, common: tuple[str, ...]
) -> None:
    fake.no_format = "Unrecognized request argument: response_format"
    badly(fake, lambda n: json.dumps(CAPTION | {"temporal_caption": f"A red boat leaves, take {n}."}))
    names = ["breaks JSON", "prefaces", "refuses"]
    rows = run(
        tmp_path / "run", fake.url, prompts(tmp_path, names, clips / "wide.mp4"), "target=cosmos3",
        "target.schema=cosmos3_i2v", "target.language=any", *common, "output.exports=[target]",
    )  # fmt: skip
    for row in rows:
        caption = json.loads(row["upsampled_prompt"])
        assert not why_invalid(caption, schema_of("cosmos3_i2v"))
        assert (caption["duration"], caption["fps"], caption["resolution"]) == ("2s", 12, {"H": 720, "W": 1280})
        assert row["attempts"] == 2 and "without it" in row["note"]
    samples = [json.loads(line) for line in (tmp_path / "run" / "cosmos3.jsonl").read_text().splitlines()]
    assert {sample["model_mode"] for sample in samples} == {"image2video"}
    again = next(body for body in fake.asked if len(body["messages"]) > 2 and "breaks JSON" in str(body["messages"][1]))
    assert "not valid JSON" in text_of(again)


def test_answer_that_stays_invalid_is_kept_out(fake: FakeOpenAI, tmp_path: Path, common: tuple[str, ...]) -> None:
    fake.delta = lambda body: {"content": "<final_prompt>{}</final_prompt>"}
    (row,) = run(tmp_path / "run", fake.url, prompts(tmp_path, ["x"]), "target=cosmos3_i2v", *common, code=3)
    assert row["state"] == "kept" and "must contain" in row["reason"] and row["attempts"] == 3


def test_sweep_over_targets_ends_in_one_page(fake: FakeOpenAI, tmp_path: Path, common: tuple[str, ...]) -> None:
    fake.delta = lambda body: {"content": GOOD.format(n=body["seed"])}
    end = program(
        "--multirun", "target=wan,ltx2,cogvideox", "engine=endpoint", f"engine.base_url={fake.url}", *common,
        prompts(tmp_path, ["x", "y"]), f"hydra.sweep.dir={quoted(tmp_path / 'sweep')}",
    )  # fmt: skip
    assert end.code == 0 and "2 items in all" in end.out, end.out + end.err
    assert all(
        f"· {target}" in (tmp_path / "sweep" / "compare.html").read_text() for target in ("wan", "ltx2", "cogvideox")
    )
