"""Files of a finished run: results.json, summary.csv, NVIDIA's batch file, and specs next to the run or in place."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.reports.results import as_prompt, write_exports
from src.reports.reviews import REJECTED, Mark, reviewed
from src.reports.rows import HintFolders, Row, result_rows
from src.run_folder import RunPaths
from src.worker.protocol import UPSAMPLED, Outcome
from tests.conftest import Configure

NOW = datetime(2026, 1, 2, 3, 4, 5)
Items = list[dict[str, Any]]
ITEMS: Items = [
    {
        "name": "a/b",
        "prompt": "A boat, 雨",
        "video_path": "wide.mp4",
        "control_overrides": {"edge": {}},
        "mood": "calm",
    },
    {"name": "text", "prompt": "A car.", "metadata": {"shot": 3}},
]
Finished = Callable[..., tuple[Plan, list[Row]]]


@pytest.fixture
def finished(configure: Configure, clips: Path, tmp_path: Path) -> Finished:
    """A function from the text of a prompt file to a plan, and its rows where the first item was upsampled."""

    def run(
        *overrides: str, content: str | None = json.dumps(ITEMS), name: str = "prompts.json"
    ) -> tuple[Plan, list[Row]]:
        (tmp_path / "wide.mp4").unlink(missing_ok=True)
        (tmp_path / "wide.mp4").symlink_to(clips / "wide.mp4")
        if content is not None:
            (tmp_path / name).write_text(content)
        config = configure(*overrides)
        config.prompts = str(tmp_path / name)
        plan = resolve(config)
        first = Outcome(plan.items[0].id, UPSAMPLED, text="A long\nboat, 雨")
        return plan, list(result_rows(plan, {first.id: first}, HintFolders(RunPaths(tmp_path / "run")), "stopped"))

    return run


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_results_have_one_line_per_row(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished()
    paths = RunPaths(tmp_path / "run")
    write_exports(plan, zip(plan.items, table, strict=True), paths, NOW)
    assert read_json(paths.results) == table
    assert len(paths.results.read_text().splitlines()) == len(table) + 2
    assert "雨" in paths.results.read_text(encoding="utf-8")


def test_summary_has_state_tokens_and_verdict(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished()
    table = [reviewed(table[0], Mark("a/b", REJECTED)), reviewed(table[1], None)]
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    with open(tmp_path / "run" / "summary.csv", newline="", encoding="utf-8-sig") as f:
        lines = list(csv.DictReader(f))
    assert [(line["name"], line["state"], line["review"]) for line in lines] == [
        ("a/b", "kept", "rejected"),
        ("text", "kept", ""),
    ]
    assert [int(line["predicted"]) for line in lines] == [item.tokens.prompt for item in plan.items]


def test_batch_file_has_the_best_prompt(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished()
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    lines = [json.loads(line) for line in (tmp_path / "run" / "batch.jsonl").read_text().splitlines()]
    assert lines == [
        {
            "visual_input": str(tmp_path / "wide.mp4"),
            "prompt": "A long\nboat, 雨",
            "control_overrides": {"edge": {}},
        },
    ]  # the other has no video, which would end NVIDIA's batch


def test_vanished_clip_is_left_out_of_the_batch(finished: Finished, clips: Path, tmp_path: Path) -> None:
    content = [{"name": "there", "prompt": "A car.", "video_path": "there.mp4"}, *ITEMS]
    shutil.copy(clips / "other.mp4", tmp_path / "there.mp4")
    plan, table = finished(content=json.dumps(content))
    paths = RunPaths(tmp_path / "run")
    (tmp_path / "wide.mp4").unlink()
    write_exports(plan, zip(plan.items, table, strict=True), paths, NOW)
    lines = [json.loads(line) for line in paths.batch.read_text().splitlines()]
    assert [line["visual_input"] for line in lines] == [str(tmp_path / "there.mp4")]
    notes = {row["name"]: row["note"] for row in read_json(paths.results)}
    assert notes["a/b"] == f"not in batch.jsonl: {tmp_path / 'wide.mp4'}: is not a file" and notes["there"] == ""
    assert len(paths.specs_list.read_text().splitlines()) == 3


def test_updated_specs_keep_unknown_fields(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished()
    paths = RunPaths(tmp_path / "run")
    write_exports(plan, zip(plan.items, table, strict=True), paths, NOW)
    first, second = (json.loads(line) for line in paths.specs_list.read_text(encoding="utf-8").splitlines())
    assert (first["mood"], first["video_path"]) == ("calm", str(tmp_path / "wide.mp4"))
    assert (first["upsampled_prompt"], first["upsampled_at"]) == ("A long\nboat, 雨", "2026-01-02T03:04:05")
    assert first["upsampling_params"]["item"] == plan.items[0].id
    assert (second["upsampled_prompt"], second["upsampled_at"]) == (None, None)
    assert (first["is_upsampled"], second["is_upsampled"]) == (True, False)
    assert (first["is_upsampled"], second["is_upsampled"]) == (True, False)
    assert second["metadata"] == {"shot": 3, "upsampling": {"state": "kept", "reason": "stopped", "note": ""}}


def test_specs_are_optional(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished("output.specs=none")
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert not list((tmp_path / "run").glob("specs*"))


def test_specs_may_be_a_file_each(finished: Finished, tmp_path: Path) -> None:
    plan, table = finished("output.specs=files")
    paths = RunPaths(tmp_path / "run")
    write_exports(plan, zip(plan.items, table, strict=True), paths, NOW)
    specs = [read_json(paths.specs / f"{item.slug}.json") for item in plan.items]
    assert [spec["name"] for spec in specs] == ["a/b", "text"]
    assert [path.name for path in paths.root.glob("specs*")] == ["specs"]


def test_prompt_of_item_has_absolute_paths(finished: Finished, tmp_path: Path) -> None:
    item = {"name": "a", "prompt": "A boat.", "input_video_path": "wide.mp4"}
    plan, _ = finished(content=json.dumps([item]))
    video = str(tmp_path / "wide.mp4")
    assert as_prompt(plan.items[0]) == {
        "name": "a", "prompt": "A boat.", "video_path": video, "input_video_path": video,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", json.dumps(ITEMS)),
        ("lines.jsonl", "".join(json.dumps(item) + "\n" for item in ITEMS)),
        ("object.json", json.dumps(ITEMS[0], indent=1)),
        ("table.csv", "name,prompt,mood\na/b,A boat,calm\ntext,A car.,\n"),
    ],
    ids=["list", "lines", "object", "csv"],
)
def test_update_in_place_keeps_the_format(finished: Finished, tmp_path: Path, name: str, content: str) -> None:
    plan, table = finished("output.specs=in_place", content=content, name=name)
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert (tmp_path / f"{name}.bak").read_text() == content
    again, _ = finished(content=(tmp_path / name).read_text(), name=name)
    assert [item.prompt for item in again.items] == [item.prompt for item in plan.items]
    extra = [json.loads(item.extra) for item in again.items]
    assert extra[0]["upsampled_prompt"] == "A long\nboat, 雨"
    assert extra[0]["mood"] == "calm"


def test_update_in_place_keeps_link_mode_columns(finished: Finished, tmp_path: Path) -> None:
    content = 'name,prompt,mood,spare\na/b,"A\rboat",,\n'
    (tmp_path / "there").mkdir(mode=0o700)
    real, link = tmp_path / "there" / "real.csv", tmp_path / "table.csv"
    real.touch()
    real.chmod(0o640)
    link.symlink_to(real)
    plan, table = finished("output.specs=in_place", content=content, name=link.name)
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    header, row, *_ = real.read_bytes().replace(b"\r", b"/").split(b"\n")
    assert header.startswith(b'"name","prompt","mood","spare",') and row.startswith(b'"a/b","A/boat","","",')


@pytest.mark.parametrize("name", ["a.csv", "B.CSV", "c.TSV", "d.txt"])
def test_cells_of_any_table_are_values(finished: Finished, tmp_path: Path, name: str) -> None:
    """A number in a table is text: what NVIDIA's loader gets is the number."""
    separator = "\t" if name.endswith("TSV") else ","
    content = separator.join(("prompt", "video_path", "seed", "edge")) + "\n"
    content += separator.join(("A boat.", "wide.mp4", "7", "{}")) + "\n"
    plan, table = finished(content=content, name=name)
    paths = RunPaths(tmp_path / "run")
    write_exports(plan, zip(plan.items, table, strict=True), paths, NOW)
    assert "seed" not in read_json(paths.results)[0]["note"] and plan.items[0].is_of_table


@pytest.mark.parametrize(
    "edited",
    [
        [{"prompt": "new"}, *ITEMS],
        [{"name": "text", "prompt": "another"}, ITEMS[0]],
        [{**ITEMS[0], "prompt": "A ship"}, ITEMS[1]],
        [{**ITEMS[0], "video_path": "other.mp4"}],
        [{**ITEMS[0], "video_path": ""}],
        [{**ITEMS[1], "prompt": "A ship", "mood": "A boat, 雨"}],
        [],
    ],
    ids=["inserted", "other order", "other prompt", "other clip", "no clip", "prompt elsewhere", "removed"],
)
def test_update_in_place_leaves_edited_items_alone(finished: Finished, tmp_path: Path, edited: Items) -> None:
    """An answer is written to the item that it was asked for, wherever that is by now, and to no other."""
    plan, table = finished("output.specs=in_place")
    (tmp_path / "prompts.json").write_text(json.dumps(edited))
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    after = read_json(tmp_path / "prompts.json")
    assert [item.get("prompt") for item in after] == [item.get("prompt") for item in edited]
    answered = [item for item in after if item.get("upsampled_prompt") == "A long\nboat, 雨"]
    assert [item | ITEMS[0] for item in answered] == answered
    assert len(answered) == (ITEMS[0] in edited)


@pytest.mark.parametrize(
    "content",
    [b"", b"[{]", b'[{"prompt": "a", "prompt": "b"}]', b"[3]", b"\x81\x8d", b"PK\3\4abc\x81", b"\x1f\x8b\x08", None],
)
def test_update_in_place_leaves_unreadable_files_alone(
    finished: Finished, tmp_path: Path, content: bytes | None
) -> None:
    plan, table = finished("output.specs=in_place")
    file = tmp_path / "prompts.json"
    file.unlink() if content is None else file.write_bytes(content)
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert (file.read_bytes() if file.exists() else None) == content
    assert len(read_json(tmp_path / "run" / "results.json")) == 2


@pytest.mark.parametrize("name", ["lines.jsonl", "table.csv"])
def test_update_in_place_finds_all_items_again(finished: Finished, tmp_path: Path, name: str) -> None:
    """After an update whose answers have line breaks, and without blank lines that were there before."""
    prompts = ["A boat, 雨", "A car.", "A train."]
    content = "prompt\n\n" + "".join(f'"{p}"\n\n' for p in prompts)
    if name.endswith("l"):
        content = "".join(json.dumps({"prompt": p}) + "\n\n" for p in prompts)
    plan, table = finished("output.specs=in_place", content=content, name=name)
    for text in ("one\ntwo\nthree", "four\n\nfive"):
        rows = [{**row, "state": UPSAMPLED, "upsampled_prompt": f"{text} {n}"} for n, row in enumerate(table)]
        write_exports(plan, zip(plan.items, rows, strict=True), RunPaths(tmp_path / "run"), NOW)  # type: ignore[arg-type]
        again, _ = finished(content=(tmp_path / name).read_text(), name=name)
        found = [(item.prompt, json.loads(item.extra)["upsampled_prompt"]) for item in again.items]
        assert found == [(p, f"{text} {n}") for n, p in enumerate(prompts)]


def test_update_in_place_keeps_every_backup(finished: Finished, tmp_path: Path) -> None:
    for _ in range(3):
        plan, table = finished("output.specs=in_place", content=json.dumps(ITEMS))
        write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert sorted(p.name for p in tmp_path.glob("*.bak*")) == [f"prompts.json.bak{n}" for n in ("", "2", "3")]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ITEMS, ensure_ascii=False, indent=4).encode("utf-8-sig"),
        json.dumps(ITEMS, ensure_ascii=False, indent="\t").replace("\n", "\r\n").encode(),
        json.dumps(ITEMS, ensure_ascii=False, indent=2).encode("utf-16"),
        b"[\n" + b",\n".join(json.dumps(item).encode() for item in ITEMS) + b"\n]\n",
        b"name;prompt\r\na/b;A boat\r\n",
        b"name\tprompt\na/b\tA boat\n",
    ],
    ids=["BOM and 4 spaces", "tabs and CRLF", "UTF-16", "an item a line", "; and CRLF", "tab-separated"],
)
def test_update_in_place_keeps_the_style(finished: Finished, tmp_path: Path, content: bytes) -> None:
    """Byte order mark, encoding, indentation, line ends and separator: what is added looks like what was there."""
    file = tmp_path / ("prompts.csv" if content[:1] == b"n" else "prompts.json")

    def styled(data: bytes) -> tuple[object, ...]:
        encoding = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe[": "utf-16"}.get(data[:3], "utf-8")
        lines = data.decode(encoding).splitlines(keepends=True)
        second = lines[1] if file.suffix == ".json" else ""
        ends = {
            line[len(line.rstrip("\r\n")) :] for line in (lines if second else lines[:1])
        }  # texts have some of their own
        separators = next((mark for mark in ";\t" if mark in lines[0]), "")
        return encoding, second[: len(second) - len(second.lstrip())], ends, separators

    finished()  # the clip is there
    file.write_bytes(content)
    plan, table = finished("output.specs=in_place", content=None, name=file.name)
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    assert file.read_bytes() != content and b"upsampled_prompt" in file.read_bytes().replace(b"\0", b"")
    assert styled(file.read_bytes()) == styled(content)


def test_spreadsheets_find_no_formula(finished: Finished, tmp_path: Path) -> None:
    formula = '=HYPERLINK("http://example.com", "x")'
    plan, table = finished(content=json.dumps([{"name": "-1+1", "prompt": formula}]))
    write_exports(plan, zip(plan.items, table, strict=True), RunPaths(tmp_path / "run"), NOW)
    data = (tmp_path / "run" / "summary.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")  # so that a spreadsheet reads it as UTF-8
    [line] = csv.DictReader(data.decode("utf-8-sig").splitlines())
    assert (line["original_prompt"], line["name"]) == (f"'{formula}", "'-1+1")
