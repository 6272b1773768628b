"""provenance.jsonl: every answer can be made again from it, and a run folder that was changed does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.planning.plan import Plan
from src.reports import exports
from src.reports.provenance import _hash, checkpoint_hash, problems_of
from src.reports.rows import HintFolders, read_rows, result_rows
from src.run_folder import RunPaths
from src.worker.protocol import UPSAMPLED, Attempt, EngineUsed, Outcome, SentFrame
from tests.unit.planning.conftest import Planned, config_for, planned  # noqa: F401

TEXT = json.dumps({"temporal_caption": "A boat.", "duration": "2s", "fps": 12, "resolution": {"H": 720, "W": 1280},
                   "aspect_ratio": "16,9"})  # fmt: skip


@pytest.fixture
def run(planned: Planned, tmp_path: Path) -> tuple[Plan, dict[str, Outcome], RunPaths]:  # noqa: F811
    """A finished run for Cosmos 3: its plan, its outcomes and its folder."""
    plan = planned("target=cosmos3_i2v", "engine=endpoint", "engine.base_url=http://127.0.0.1:9/v1")
    attempts, frames = (Attempt(5, 300, "quotes"), Attempt(6, 300)), (SentFrame("ab", 5, "16x16"),)
    outcomes = {
        item.id: Outcome(
            item.id, UPSAMPLED, text=TEXT, raw=f"<final_prompt>{TEXT}", attempts=attempts, frames=frames if item.video else (),
            engine=EngineUsed("endpoint", "0.32"), negative="blur",
        )
        for item in plan.items
    }  # fmt: skip
    paths = RunPaths(tmp_path / "run")
    paths.root.mkdir()
    rows = [*result_rows(plan, outcomes, HintFolders(paths), "")]
    paths.results.write_text(json.dumps(rows))
    exports.write("provenance", plan, rows, paths, outcomes)
    return plan, outcomes, paths


def lines(paths: RunPaths) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.provenance.read_text().splitlines()]


def test_line_has_what_made_the_answer(run: tuple[Plan, dict[str, Outcome], RunPaths]) -> None:
    plan, _, paths = run
    line = lines(paths)[0]
    assert (line["prompt"], line["answer"], line["raw_answer"]) == ("A red car", TEXT, f"<final_prompt>{TEXT}")
    assert (line["seed"], line["attempts"], line["negative_prompt"]) == (6, ["quotes", ""], "blur")
    assert line["clip"]["sha256"] == plan.items[0].video.sha256 and line["frames"] == ["ab"]  # type: ignore[union-attr]
    assert line["target"] == {"name": "cosmos3_i2v", "hash": plan.settings.target.hash} and line["template"]["hash"]
    assert line["server"] == {"engine": "endpoint", "version": "0.32", "url": "http://127.0.0.1:9/v1"}
    assert line["sampling"] == {"temperature": 1.0, "seed": 0, "top_k": 20}


def test_seed_is_that_of_the_answer_that_was_used(run: tuple[Plan, dict[str, Outcome], RunPaths]) -> None:
    """What came after it was worse."""
    plan, outcomes, paths = run
    outcomes = {item_id: replace(outcome, used=0) for item_id, outcome in outcomes.items()}
    exports.write("provenance", plan, read_rows(paths.results), paths, outcomes)
    assert lines(paths)[0]["seed"] == 5


def test_unchanged_run_holds(run: tuple[Plan, dict[str, Outcome], RunPaths]) -> None:
    plan, outcomes, paths = run
    counts: dict[str, int] = {}
    assert [*problems_of(plan, outcomes, paths, counts)] == []
    assert (counts["items"], counts["answers"], counts["files"]) == (5, 5, 3)


def _other_answer(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    outcomes[plan.items[0].id] = Outcome(plan.items[0].id, UPSAMPLED, text="other")


def _other_line(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    paths.provenance.write_text(paths.provenance.read_text().replace("A boat.", "A car.", 1))


def _line_less(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    paths.provenance.write_text("".join(paths.provenance.read_text().splitlines(keepends=True)[:-1]))


def _other_result(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    paths.results.write_text(paths.results.read_text().replace("A boat.", "A car.", 1))


def _other_name(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    paths.results.write_text(paths.results.read_text().replace('"name": "wide"', '"name": "narrow"', 1))


def _other_clip(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    """A line of another run for the same texts."""
    changed = lines(paths)
    changed[0]["clip"]["sha256"] = "0" * 64
    changed[0]["sha256"] = _hash({key: value for key, value in changed[0].items() if key != "sha256"})
    paths.provenance.write_text("".join(json.dumps(line) + "\n" for line in changed))


def _frame_less(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    rows = [*read_rows(paths.results)]
    frame = {"file": "hints/wide/frame_1.png", "sha256": "ab", "size": "16x16", "time_s": 0.0, "bytes": 5}
    paths.results.write_text(json.dumps([{**rows[0], "frames": [frame]}, *rows[1:]]))


def _other_schema(plan: Plan, outcomes: dict[str, Outcome], paths: RunPaths) -> None:
    rows, bad = [*read_rows(paths.results)], TEXT.replace('"fps": 12', '"fps": "12"')
    for item in plan.items:
        outcomes[item.id] = Outcome(item.id, UPSAMPLED, text=bad)
    rows = [{**row, "upsampled_prompt": bad, "frames": []} for row in rows]  # type: ignore[misc]
    paths.results.write_text(json.dumps(rows))
    exports.write("provenance", plan, rows, paths, outcomes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_other_answer, "wide: answer: another one than recorded"), (_other_line, "wide: its line has changed"),
        (_line_less, "4 lines, 5 items in plan.json"), (_other_result, "another one in results.json"),
        (_other_name, "wide: name: another one than recorded"),
        (_other_clip, "wide: clip: another one than recorded"), (_frame_less, "hints/wide/frame_1.png: is gone"),
        (_other_schema, "wide: answer: not of its schema: data.fps must be integer"),
    ],
)  # fmt: skip
def test_changed_run_does_not_hold(
    run: tuple[Plan, dict[str, Outcome], RunPaths],
    change: Callable[[Plan, dict[str, Outcome], RunPaths], None],
    problem: str,
) -> None:
    plan, outcomes, paths = run
    change(plan, outcomes, paths)
    assert any(problem in found for found in problems_of(plan, outcomes, paths, {}))


@pytest.mark.parametrize("text", [None, "[]\n", "{}\n", "x\n", "\xff\n"])
def test_damaged_file_is_named(run: tuple[Plan, dict[str, Outcome], RunPaths], text: str | None) -> None:
    plan, outcomes, paths = run
    if text is None:
        paths.provenance.unlink()
    else:
        paths.provenance.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"provenance\.jsonl"):
        [*problems_of(plan, outcomes, paths, {})]


def test_checkpoint_is_hashed_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    first = checkpoint_hash(str(tmp_path))
    assert first and checkpoint_hash("") is None and checkpoint_hash(str(tmp_path / "gone")) is None
    (tmp_path / "config.json").write_text('{"a": 1}')
    checkpoint_hash.cache_clear()
    assert checkpoint_hash(str(tmp_path)) != first
