"""Exports for other tools: requests in OpenAI's batch format, samples for Cosmos 3, tables; and what they leave out.

That the requests are those that a worker sends: tests/e2e/test_export_requests.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import structlog
from PIL import Image
from pyarrow import parquet

from src.planning.plan import Plan, PlanItem
from src.planning.resolve import resolve
from src.reports import exports
from src.reports.reviews import reviewed
from src.reports.rows import HintFolders, result_rows
from src.run_folder import RunPaths
from src.worker.protocol import FAILED, KEPT, UPSAMPLED, Outcome, SentFrame
from tests.conftest import Configure
from tests.harness.clips import make_clip

Planned = Callable[..., Plan]
Line = dict[str, Any]


@pytest.fixture
def planned(configure: Configure, tmp_path: Path) -> Planned:
    """A function from items and overrides to a plan with a cache of its own."""

    def resolved(items: list[dict[str, Any]], *overrides: str) -> Plan:
        (tmp_path / "prompts.json").write_text(json.dumps(items))
        config = configure(*overrides)
        config.prompts, config.cache_dir = str(tmp_path / "prompts.json"), str(tmp_path / "cache")
        return resolve(config)

    return resolved


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "läuft, 雨 (1)")


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def outcome(item: PlanItem, text: str | None = "A long answer.", **changes: Any) -> Outcome:
    return replace(Outcome(item.id, UPSAMPLED if text else KEPT, text=text), **changes)


def exported(name: str, plan: Plan, paths: RunPaths, outcomes: dict[str, Outcome] | None = None) -> list[Line]:
    """The lines of an export of a run with these outcomes; None: no item ended."""
    file = exports.write(name, plan, list(result_rows(plan, outcomes or {}, HintFolders(paths), "did not end")), paths)
    text = file.read_text(encoding="ascii")
    assert text.count("\n") == len(text.splitlines())
    return [json.loads(line) for line in text.splitlines()]


def over(clip: Path, prompt: str = "A boat.", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "video_path": str(clip), **fields}


# OpenAI's batch format


def test_identical_items_are_one_request(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "wide.mp4", name="a"), over(clips / "wide.mp4", name="b"), {"prompt": "x"}])
    ids = [line["custom_id"] for line in exported("openai", plan, paths)]
    assert len(ids) == len(set(ids)) == 2


def test_frames_missing_from_the_cache_are_rendered(planned: Planned, clips: Path, paths: RunPaths) -> None:
    plan = planned([over(clips / "wide.mp4")])
    before = exported("openai", plan, paths)
    assert json.dumps(before).count("data:image/png;base64,") == 2
    shutil.rmtree(Path(plan.settings.cache_dir) / "hints")
    assert exported("openai", plan, paths) == before


@pytest.mark.parametrize("count", [2, 1])
def test_frames_are_those_that_were_sent(planned: Planned, clips: Path, paths: RunPaths, count: int) -> None:
    """Smaller or fewer than planned, after a refusal."""
    plan = planned([over(clips / "hd.mp4")])
    frames = (SentFrame(sha256="", bytes=0, size="64x36"),) * count
    smaller = exported("openai", plan, paths, {plan.items[0].id: outcome(plan.items[0], frames=frames)})
    sent = ["upsample.width_px=64", f"frames.count={count}"]
    direct = exported("openai", planned([over(clips / "hd.mp4")], *sent), paths)
    assert smaller[0]["body"]["messages"] == direct[0]["body"]["messages"]


def test_unusable_requests_are_left_out_and_logged(
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


def test_sample_has_answer_as_caption_and_clip(planned: Planned, clips: Path, paths: RunPaths) -> None:
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
def test_structured_answer_is_the_caption_itself(planned: Planned, paths: RunPaths, fence: str) -> None:
    caption = {"temporal_caption": "雨", "subjects": [{"description": "a boat"}], "duration": "7s"}
    plan = planned([{"prompt": "x"}])
    text = fence.replace("{}", json.dumps(caption))
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], text)})
    assert json.loads(line["prompt"]) == caption


@pytest.mark.parametrize("text", ["[1]", '"text"', "5", "{not json", "[" * 100_000, "null"], ids=lambda t: t[:9])
def test_any_other_answer_is_caption_text(planned: Planned, paths: RunPaths, text: str) -> None:
    plan = planned([{"prompt": "x"}])
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], text)})
    assert json.loads(line["prompt"]) == {"temporal_caption": text}


def test_kept_item_has_its_original_prompt(planned: Planned, paths: RunPaths) -> None:
    plan = planned([{"prompt": "the original"}])
    (line,) = exported("cosmos3", plan, paths, {plan.items[0].id: outcome(plan.items[0], None)})
    assert json.loads(line["prompt"]) == {"temporal_caption": "the original"}


def test_unusable_samples_are_left_out_and_logged(
    planned: Planned, tmp_path: Path, clips: Path, paths: RunPaths, logged: list[Any]
) -> None:
    other = make_clip(tmp_path / "a.mkv", size=(64, 48), fps=10, seconds=0.5)
    plan = planned(
        [over(other), over(tmp_path / "gone.mp4"), over(clips / "wide.mp4", ""), {"prompt": "x", "name": "x"}]
    )
    ended = {item.id: outcome(item, None if not item.prompt else "text", state=FAILED) for item in plan.items}
    assert [line["name"] for line in exported("cosmos3", plan, paths, ended)] == ["x"]
    (event,) = logged
    assert (event["items"], event["first"].endswith("clips that end in .mp4")) == (3, True)


@pytest.mark.parametrize("name", ["cosmos3", "transfer2_5"])
def test_sample_of_a_vanished_clip_is_left_out(
    planned: Planned, tmp_path: Path, clips: Path, paths: RunPaths, logged: list[Any], name: str
) -> None:
    gone = Path(shutil.copy(clips / "other.mp4", tmp_path / "gone.mp4"))
    plan = planned([over(gone, name="gone"), over(clips / "other.mp4", name="there")])
    ended = {item.id: outcome(item) for item in plan.items}
    gone.unlink()
    assert [line["name"] for line in exported(name, plan, paths, ended)] == ["there"]
    (event,) = logged
    assert (event["items"], event["first"]) == (1, f"gone: {gone}: is not a file")


# All exports


def content(export: Path) -> dict[str, bytes]:
    """The files of an export by their names."""
    files = sorted(export.iterdir()) if export.is_dir() else [export]
    return {file.name: file.read_bytes() for file in files}


def test_tables_have_the_rows_of_results_json(planned: Planned, clips: Path, paths: RunPaths) -> None:
    import datasets  # takes a second

    plan = planned([over(clips / "wide.mp4"), {"prompt": "y"}, over(clips / "text.mp4")])
    first = plan.items[0]
    ended = {first.id: outcome(first, frames=(SentFrame(sha256="ab", bytes=5, size="320x180"),))}
    table = [reviewed(row, None) for row in result_rows(plan, ended, HintFolders(paths), "did not end")]
    assert parquet.read_table(exports.write("parquet", plan, table, paths)).to_pylist() == table
    assert datasets.load_from_disk(str(exports.write("dataset", plan, table, paths))).to_list() == table


@pytest.mark.parametrize("name", ["parquet", "dataset", "openai", "cosmos3"])
def test_failed_export_leaves_the_previous_one(planned: Planned, clips: Path, paths: RunPaths, name: str) -> None:
    plan = planned([{"prompt": "x"}, over(clips / "wide.mp4")])
    table = list(result_rows(plan, {i.id: outcome(i) for i in plan.items}, HintFolders(paths), ""))
    export = exports.write(name, plan, table, paths)
    before = content(export)
    broken: Any = {"seconds": "soon", "frames": 5}
    with pytest.raises((TypeError, ValueError, KeyError)):
        exports.write(name, plan, [table[0], broken], paths)
    assert content(export) == before
    assert [p.name for p in paths.root.iterdir()] == [export.name]
    exports.write(name, plan, table, paths)
    assert content(export) == before


# Targets

ANSWERING = ("engine=endpoint", "engine.base_url=http://127.0.0.1:9/v1")


def test_texts_lie_beside_their_own_clips(planned: Planned, clips: Path, paths: RunPaths, tmp_path: Path) -> None:
    """Also where the number of a second prompt makes the name of another clip."""
    for name in ("shot.mp4", "shot-2.mp4"):
        (tmp_path / name).symlink_to(clips / "wide.mp4")
    items = [("shot.mp4", "one"), ("shot.mp4", "two"), ("shot-2.mp4", "three")]
    plan = planned([over(tmp_path / clip, prompt) for clip, prompt in items])
    folder = exports.write("txt", plan, list(result_rows(plan, {}, HintFolders(paths), "did not end")), paths)
    texts = {path.stem: path.read_text().strip() for path in folder.iterdir()}
    assert texts == {"shot": "one", "shot-2": "three", "shot-3": "two"}


def test_target_export_is_the_tools_own(planned: Planned, clips: Path, paths: RunPaths) -> None:
    items = [
        over(clips / "wide.mp4", "It's a boat.", name="a"),
        {"prompt": "x", "name": "b"},
        over(clips / "wide.mp4", " "),
    ]
    for target, ends in (("wan", ["$@"]), ("cogvideox", ["x"])):
        plan = planned(items, f"target={target}")
        file = exports.write("target", plan, list(result_rows(plan, {}, HintFolders(paths), "")), paths)
        lines = [line for line in file.read_text().splitlines() if not line.startswith(("#", "set"))]
        assert len(lines) == 2 and lines[1].strip('"').endswith(ends[0]) and "boat" in lines[0]


def test_first_frame_is_the_first_and_whole(planned: Planned, clips: Path, paths: RunPaths, tmp_path: Path) -> None:
    """Not a hint, which is small and from anywhere in the clip; of a picture, as it is shown. Once it is there, the clip need not
    be."""
    still, turned = Image.new("RGB", (640, 360), (200, 0, 0)), Image.Exif()
    turned[0x0112] = 6  # shown upright
    still.save(tmp_path / "still.jpg", exif=turned)
    shutil.copy(clips / "wide.mp4", tmp_path / "wide.mp4")
    plan = planned([over(tmp_path / "wide.mp4"), over(tmp_path / "still.jpg")], "target=wan", "frames=uniform_2")
    frames = (SentFrame(sha256="", bytes=0, size="64x36"),)
    outcomes = {item.id: outcome(item, frames=frames) for item in plan.items}
    rows = list(result_rows(plan, outcomes, HintFolders(paths), ""))
    before = exports.write("target", plan, rows, paths).read_text()
    words = [word for line in before.splitlines()[-2:] for word in shlex.split(line) if word.startswith("--image=")]
    file, upright = (Path(word.removeprefix("--image=")) for word in words)
    with av.open(clips / "wide.mp4") as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(np.asarray(Image.open(file)).astype(int) - first).mean() < 2 and paths.root in file.parents
    assert Image.open(upright).size == (360, 640)
    exports._first_frame.cache_clear()
    (tmp_path / "wide.mp4").unlink()
    assert exports.write("target", plan, rows, paths).read_text() == before


def test_cosmos3_sample_has_pins_and_controls(planned: Planned, clips: Path, paths: RunPaths, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").touch()
    vis = {"vis": {"input_control": "v.mp4", "control_weight": 0.5}}
    plan = planned([over(clips / "wide.mp4", control_overrides=vis)], "target=cosmos3_transfer", *ANSWERING)
    (line,) = exported("cosmos3", plan, paths)
    assert line["blur"] == {"control_path": str(tmp_path / "v.mp4"), "weight": 0.5}
    plan = planned([over(clips / "wide.mp4")], "target=cosmos3", *ANSWERING)
    (line,) = exported("target", plan, paths)
    assert (line["resolution"], line["fps"], line["num_frames"], line["aspect_ratio"]) == ("720", 12, 25, "16,9")


def test_samples_are_read_as_prompts_again(planned: Planned, clips: Path, paths: RunPaths, tmp_path: Path) -> None:
    sample = {"name": "s", "model_mode": "video2video", "prompt": "A boat.", "vision_path": "wide.mp4",
              "edge": {"control_path": "e.mp4", "weight": 1.0}}  # fmt: skip
    for name in ("wide.mp4", "e.mp4"):
        shutil.copy(clips / "wide.mp4", tmp_path / name)
    (line,) = exported("cosmos3", planned([sample], "target=cosmos3_transfer", *ANSWERING), paths)
    assert line["vision_path"] == str(tmp_path / "wide.mp4")
    assert line["edge"] == {"control_path": str(tmp_path / "e.mp4"), "weight": 1.0}
