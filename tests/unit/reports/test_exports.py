"""What a run leaves for other tools: the requests as they were sent, samples for Cosmos 3, and what is left out of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from datasets import load_from_disk
from pyarrow import parquet

from src.errors import InputError
from src.planning.plan import Plan, PlanItem
from src.planning.plan_file import read_plan, write_plan
from src.planning.resolve import resolve
from src.reports import exports
from src.reports.reviews import reviewed
from src.reports.rows import result_rows
from src.run_folder import RunPaths
from src.runs.outcomes import FAILED, KEPT, UPSAMPLED
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from src.worker.protocol import Outcome
from tests.conftest import Configure
from tests.harness.clips import make_clip
from tests.harness.openai_server import FakeOpenAI

Planned = Callable[..., Plan]
Line = dict[str, Any]


@pytest.fixture
def planned(configure: Configure, tmp_path: Path) -> Planned:
    """A function from items and overrides to a plan with a cache of its own."""

    def made(items: list[dict[str, Any]], *overrides: str) -> Plan:
        (tmp_path / "prompts.json").write_text(json.dumps(items))
        config = configure(*overrides)
        config.prompts, config.cache_dir = str(tmp_path / "prompts.json"), str(tmp_path / "cache")
        return resolve(config)

    return made


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "läuft, 雨 (1)")


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def outcome(item: PlanItem, text: str | None = "A long answer.", **changes: Any) -> Outcome:
    return replace(Outcome(item.id, UPSAMPLED if text else KEPT, text=text), **changes)


def exported(name: str, plan: Plan, paths: RunPaths, ended: dict[str, Outcome] | None = None) -> list[Line]:
    """The lines of an export of a run that ended so; None: in which no item ended."""
    file = exports.write(name, plan, list(result_rows(plan, ended or {}, paths, "did not end")), paths)
    text = file.read_text(encoding="ascii")
    assert text.count("\n") == len(text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


def over(clip: Path, prompt: str = "A boat.", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "video_path": str(clip), **fields}


# OpenAI's batch format


def test_batch_lines_are_the_requests_that_the_worker_sent(planned: Planned, clips: Path, paths: RunPaths) -> None:
    fake = FakeOpenAI(pause_s=0)
    items = [
        over(clips / "wide.mp4", "A boat, 雨 \u2028 🚤"),
        over(clips / "hd.mp4", "A car."),
        {"prompt": "No clip."},
        over(clips / "text.mp4", "Its clip is none."),
    ]
    template = "template.system='You see ${template.name}.'"
    plan = planned(items, "engine=endpoint", f"engine.base_url={fake.url}", "video.on_bad_video=text_only", template)
    fake.expected = {item.text: item.tokens.prompt for item in plan.items}
    paths.root.mkdir()
    try:
        ended = execute(plan, paths, Quiet())
    finally:
        fake.close()
    sent = [{k: v for k, v in body.items() if k not in ("stream", "stream_options")} for body in fake.asked]
    lines = exported("openai", plan, paths, ended)
    assert len(lines) == len(items)
    assert sorted((line["body"] for line in lines), key=str) == sorted(sent, key=str)
    assert [line["custom_id"] for line in lines] == [item.id for item in plan.items]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}


def test_items_that_are_the_same_are_one_request(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "wide.mp4", name="a"), over(clips / "wide.mp4", name="b"), {"prompt": "x"}])
    ids = [line["custom_id"] for line in exported("openai", plan, paths)]
    assert len(ids) == len(set(ids)) == 2


def test_frames_that_the_cache_lost_are_rendered_again(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "wide.mp4")])
    before = exported("openai", plan, paths)
    assert json.dumps(before).count("data:image/png;base64,") == 2
    shutil.rmtree(Path(plan.settings.cache_dir) / "hints")
    assert exported("openai", plan, paths) == before


def test_frames_are_those_of_the_size_that_the_engine_took(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "hd.mp4")])
    frames = [{"sha256": "", "bytes": 0, "size": "64x36"}] * 2
    smaller = exported("openai", plan, paths, {plan.items[0].id: outcome(plan.items[0], frames=frames)})
    asked = exported("openai", planned([over(clips / "hd.mp4")], "upsample.width_px=64"), paths)
    assert smaller[0]["body"]["messages"] == asked[0]["body"]["messages"]


def test_what_cannot_be_asked_is_left_out_and_said(
    planned: Planned, tmp_path: Path, clips: Path, paths: RunPaths, logged: list[Any]
) -> None:
    gone = Path(shutil.copy(clips / "other.mp4", tmp_path / "gone.mp4"))
    plan = planned([over(gone, name="gone"), over(tmp_path / "never.mp4", name="never"), {"prompt": "x"}])
    gone.unlink()
    assert [line["custom_id"] for line in exported("openai", plan, paths)] == [plan.items[2].id]
    (event,) = logged
    assert (event["event"], event["file"], event["items"]) == ("left_out_of_export", "openai_batch.jsonl", 2)
    assert "gone.mp4" in event["first"]


# Cosmos 3


# Source of the fields: github.com/NVIDIA/cosmos-framework, docs/inference.md and cosmos_framework/inference/args.py.
COSMOS3_FIELDS = {"name", "model_mode", "prompt", "vision_path", "aspect_ratio"}


def test_samples_hold_the_answer_as_a_caption_and_the_clip(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "portrait.mp4", name="a/b"), over(clips / "hd.mp4"), {"prompt": "x", "name": "t"}])
    answer = 'A "boat",\nthen \u2028 rain. 雨 🚤'
    first, second, third = exported("cosmos3", plan, paths, {i.id: outcome(i, answer) for i in plan.items})
    assert first == {
        "name": plan.items[0].slug,
        "model_mode": "video2video",
        "prompt": json.dumps({"temporal_caption": answer, "aspect_ratio": "9,16"}, ensure_ascii=False),
        "vision_path": str(clips / "portrait.mp4"),
        "aspect_ratio": "9,16",
    }
    assert (second["aspect_ratio"], "/" in first["name"]) == ("16,9", False)
    caption = json.dumps({"temporal_caption": answer}, ensure_ascii=False)
    assert third == {"name": "t", "model_mode": "text2video", "prompt": caption}
    assert set().union(first, second, third) <= COSMOS3_FIELDS


@pytest.mark.parametrize(
    "fence", ["{}", "```json\n{}\n```", " ```\n{}```\n"], ids=["bare", "fenced", "fenced, no name"]
)
def test_answer_that_is_a_structured_caption_stands_as_it_is(planned: Planned, paths: RunPaths, fence: str) -> None:
    caption = {"temporal_caption": "雨", "subjects": [{"description": "a boat"}], "duration": "7s"}
    plan = planned([{"prompt": "x"}])
    text = fence.replace("{}", json.dumps(caption))
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], text)})
    assert json.loads(line["prompt"]) == caption


@pytest.mark.parametrize("text", ["[1]", '"text"', "5", "{not json", "[" * 100_000, "null"], ids=lambda t: t[:9])
def test_answer_that_is_no_json_object_is_the_caption(planned: Planned, paths: RunPaths, text: str) -> None:
    plan = planned([{"prompt": "x"}])
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], text)})
    assert json.loads(line["prompt"]) == {"temporal_caption": text}


def test_kept_prompt_is_the_original_one(planned: Planned, paths: RunPaths) -> None:
    plan = planned([{"prompt": "the original"}])
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], None)})
    assert json.loads(line["prompt"]) == {"temporal_caption": "the original"}


def test_what_cosmos_3_would_refuse_is_left_out_and_said(
    planned: Planned, tmp_path: Path, clips: Path, paths: RunPaths, logged: list[Any]
) -> None:
    other = make_clip(tmp_path / "a.mkv", size=(64, 48), fps=10, seconds=0.5)
    plan = planned(
        [over(other), over(tmp_path / "gone.mp4"), over(clips / "wide.mp4", ""), {"prompt": "x", "name": "x"}]
    )
    ended = {item.id: outcome(item, None if not item.prompt else "text", state=FAILED) for item in plan.items}
    assert [line["name"] for line in exported("cosmos3", plan, paths, ended)] == ["x"]
    (event,) = logged
    assert (event["items"], event["first"].endswith("Cosmos 3 takes clips that end in .mp4")) == (3, True)


# All of them


def content(export: Path) -> dict[str, bytes]:
    """The files of an export by their names."""
    files = sorted(export.iterdir()) if export.is_dir() else [export]
    return {file.name: file.read_bytes() for file in files}


def test_tables_hold_the_rows_of_results_json(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "wide.mp4"), {"prompt": "y"}, over(clips / "text.mp4")])
    frames = [{"sha256": "ab", "bytes": 5, "size": "320x180"}]
    first = plan.items[0]
    rows = result_rows(plan, {first.id: outcome(first, frames=frames)}, paths, "did not end")
    table = [reviewed(row, None) for row in rows]
    assert parquet.read_table(exports.write("parquet", plan, table, paths)).to_pylist() == table
    assert load_from_disk(str(exports.write("dataset", plan, table, paths))).to_list() == table


@pytest.mark.parametrize("name", ["parquet", "dataset", "openai", "cosmos3"])
def test_export_that_cannot_be_finished_leaves_the_one_before(
    planned: Planned, clips: Path, paths: RunPaths, name: str
) -> None:
    plan = planned([{"prompt": "x"}, over(clips / "wide.mp4")])
    table = list(result_rows(plan, {i.id: outcome(i) for i in plan.items}, paths, ""))
    export = exports.write(name, plan, table, paths)
    before = content(export)
    with pytest.raises((TypeError, ValueError, KeyError)):
        exports.write(name, plan, [table[0], {"seconds": "soon", "frames": 5}], paths)
    assert content(export) == before
    assert [p.name for p in paths.root.iterdir()] == [export.name]
    exports.write(name, plan, table, paths)
    assert content(export) == before


def test_exports_are_part_of_the_plan_and_an_older_plan_has_none(planned: Planned, tmp_path: Path) -> None:
    plan = planned([{"prompt": "x"}], "output.exports=[openai,parquet,openai]")
    assert plan.settings.exports == ("openai", "parquet")
    with open(tmp_path / "plan.json", "w") as f:
        write_plan(plan, f)
    assert read_plan(tmp_path / "plan.json") == plan
    older = json.loads((tmp_path / "plan.json").read_text())
    del older["settings"]["exports"]
    (tmp_path / "plan.json").write_text(json.dumps(older))
    assert read_plan(tmp_path / "plan.json").settings.exports == ()


@pytest.mark.parametrize("name", ["parquet", "dataset"])
def test_tables_without_pyarrow_are_refused_before_anything_starts(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        planned([{"prompt": "x"}], f"output.exports=[{name}]")
    assert planned([{"prompt": "x"}], "output.exports=[openai,cosmos3]").items


def test_tables_are_never_updated_in_place(configure: Configure, tmp_path: Path) -> None:
    import pyarrow as pa

    parquet.write_table(pa.table({"prompt": ["a"]}), tmp_path / "x.parquet")
    before = (tmp_path / "x.parquet").read_bytes()
    config = configure("output.specs=in_place")
    config.prompts = str(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="is Parquet, which is not written into"):
        resolve(config)
    assert (tmp_path / "x.parquet").read_bytes() == before
