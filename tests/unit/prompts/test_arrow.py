"""Parquet files, Arrow files and dataset folders as prompt lists."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from src.errors import InputError, SpecError
from src.prompts import arrow
from src.prompts.fields import Reading
from src.prompts.specs import PromptSpec, prompt_files, read_specs
from tests.harness.growth import assert_linear
from tests.unit.prompts.conftest import peak_bytes

Columns = dict[str, Any]
TWO: Columns = {
    "name": ["one", "two"],
    "prompt": ["A red car", "Ein blaues Auto, 红色 🚗"],
    "video_path": ["clips/one.mp4", None],
}


def as_parquet(table: pa.Table, file: Path) -> None:
    parquet.write_table(table, file)


def as_stream(table: pa.Table, file: Path) -> None:
    """As save_to_disk of Hugging Face's datasets writes it."""
    with pa.OSFile(str(file), "wb") as out, ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)


def as_feather(table: pa.Table, file: Path) -> None:
    with pa.OSFile(str(file), "wb") as out, ipc.new_file(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)


FORMS = pytest.mark.parametrize("form", [as_parquet, as_stream, as_feather])
Form = Callable[[pa.Table, Path], None]


def saved(folder: Path, shards: list[Columns], **state: Any) -> Path:
    """A dataset folder as save_to_disk (datasets 5.2.0) writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{len(shards):05d}.arrow" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        as_stream(pa.table(shard), folder / name)
    data_files = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": data_files, "_split": None, **state}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"prompt": {"dtype": "string"}}}))
    return folder


def specs(where: Path) -> list[PromptSpec]:
    return list(read_specs(prompt_files(str(where))))


def problems(where: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        specs(where)
    return [problem.replace(f"{where}, ", "").replace(f"{where}: ", "") for problem in caught.value.problems]


# What is read


@FORMS
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".json", ""])
def test_format_is_recognized_by_content(tmp_path: Path, form: Form, suffix: str) -> None:
    file = tmp_path / f"list{suffix}"
    form(pa.table(TWO), file)
    found = specs(file)
    assert [(s.name, s.prompt, s.video_path) for s in found] == list(
        zip(TWO["name"], TWO["prompt"], TWO["video_path"], strict=True)
    )
    assert found[0].video == tmp_path / "clips" / "one.mp4"
    assert [s.where for s in found] == ["row 1", "row 2"]
    assert {s.shape for s in found} == {"parquet" if form is as_parquet else "arrow"}


@FORMS
@pytest.mark.parametrize("field", ["video_path", "input_video_path", "visual_input"])
def test_video_column_may_have_other_names(tmp_path: Path, form: Form, field: str) -> None:
    form(pa.table({field: ["a.mp4", "b.mp4"]}), tmp_path / "x")
    assert [(s.name, s.video_path) for s in specs(tmp_path / "x")] == [("a-0001", "a.mp4"), ("b-0002", "b.mp4")]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_text_may_have_any_arrow_type(tmp_path: Path, kind: pa.DataType) -> None:
    as_parquet(pa.table({"prompt": pa.array(["a", "b", "a"], kind)}), tmp_path / "x.parquet")
    assert [s.prompt for s in specs(tmp_path / "x.parquet")] == ["a", "b", "a"]


@FORMS
def test_columns_without_json_type_are_left_out(tmp_path: Path, form: Form) -> None:
    table = pa.table({
        "prompt": ["a"],
        "score": [0.5],
        "missing": pa.array([float("nan")]),
        "tags": [["x", None]],
        "metadata": [{"fps": 24, "inner": {"deep": [1.5, float("inf")]}}],
        "picture": [b"\x89PNG"],
        "when": pa.array([0], pa.timestamp("ns")),
        "clip": [{"bytes": b"x", "path": "a.mp4"}],
    })  # fmt: skip
    form(table, tmp_path / "x")
    (spec,) = specs(tmp_path / "x")
    metadata = {"fps": 24, "inner": {"deep": [1.5, None]}}
    kept = {"prompt": "a", "score": 0.5, "tags": ["x", None], "metadata": metadata}
    assert spec.raw == kept | {"clip": {"path": "a.mp4"}}
    assert spec.video_path == "a.mp4"
    json.dumps(spec.raw, allow_nan=False)


def test_parquet_files_are_read_in_order(tmp_path: Path) -> None:
    for n in (2, 1):
        as_parquet(pa.table({"prompt": [f"{n}"]}), tmp_path / f"train-0000{n}.parquet")
    (tmp_path / "README.md").write_text("a dataset card")
    assert [s.prompt for s in specs(tmp_path)] == ["1", "2"]


def test_dataset_folder_is_read_in_order(tmp_path: Path) -> None:
    shards = [{"name": [f"{shard}-{n}" for n in range(3)], "prompt": ["p"] * 3} for shard in range(11)]
    found = specs(saved(tmp_path / "set", shards))
    assert [s.name for s in found] == [f"{shard}-{n}" for shard in range(11) for n in range(3)]


def test_splits_are_read_in_order(tmp_path: Path) -> None:
    for split in ("train", "a test"):
        saved(tmp_path / "set" / split, [{"name": [split], "prompt": ["p"]}])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "a test"]}')
    assert [s.name for s in specs(tmp_path / "set")] == ["train", "a test"]


def test_folder_of_specs_is_no_dataset(tmp_path: Path) -> None:
    for name in ("state.json", "robot.json"):
        (tmp_path / name).write_text('{"prompt": "a"}')
    assert [s.name for s in specs(tmp_path)] == ["robot", "state"]


# What is rejected


@FORMS
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"label": ["a"], "url": ["b"]},
            "has no column that names a prompt or a clip; it has label, url; columns.prompt=",
        ),
        ({"video": [b"a"], "prompt": ["a"]}, "column video: is binary; clips are read from paths"),
        ({"prompt": [5]}, "column prompt: is int64, not text"),
        ({"prompt": [b"a"]}, "column prompt: is binary, not text"),
        ({"prompt": [["a"]]}, "column prompt: is list<"),
        ({"prompt": ["a"], "video_path": [{"path": "a", "bytes": b""}]}, "column video_path: is struct<"),
        ({"prompt": ["a"], "name": [True]}, "column name: is bool, not text"),
        ({"prompt": [None]}, "row 1, prompt: is empty, and there is no video_path either"),
        ({"prompt": ["a", " "]}, "row 2, prompt: is empty, and there is no video_path either"),
        ({"prompt": ["a"], "metadata": [[1]]}, "row 1, metadata: is a list, not an object"),
        ({"prompt": pa.array([], pa.string())}, "has no prompts"),
        ({"name": ["n", "n"], "prompt": ["a", "b"]}, 'row 2, name: "n" is also the name of '),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_unusable_table_is_named_with_its_problem(tmp_path: Path, form: Form, columns: Columns, expected: str) -> None:
    form(pa.table(columns), tmp_path / "x")
    (problem,) = problems(tmp_path / "x")
    assert problem.startswith(expected)


def test_repeated_column_is_a_problem(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    as_stream(twice, tmp_path / "x")
    assert problems(tmp_path / "x") == ['has the column "prompt" twice']


@FORMS
def test_invalid_utf_8_text_is_a_problem(tmp_path: Path, form: Form) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    form(pa.table({"prompt": bad}), tmp_path / "x")
    (problem,) = problems(tmp_path / "x")
    assert "UTF8" in problem


@FORMS
def test_truncated_file_is_a_problem(tmp_path: Path, form: Form) -> None:
    form(pa.table({"prompt": [f"prompt {n}" for n in range(3000)]}), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in (4, 8, 20, len(whole) // 3, len(whole) // 2, len(whole) - 20):
        cut = tmp_path / f"cut-{length}"
        cut.write_bytes(whole[:length])
        (problem,) = problems(cut)
        assert problem.startswith("not a valid ")


@FORMS
def test_damaged_file_raises_only_spec_errors(tmp_path: Path, form: Form) -> None:
    form(pa.table({"name": [f"n{n}" for n in range(50)], "prompt": ["word"] * 50}), tmp_path / "whole")
    whole = bytearray((tmp_path / "whole").read_bytes())
    for at in range(8, len(whole), max(1, len(whole) // 150)):
        damaged = whole.copy()
        damaged[at] ^= 0xFF
        (tmp_path / "x").write_bytes(damaged)
        try:
            specs(tmp_path / "x")
        except SpecError:
            pass  # undetected damage is fine


@pytest.mark.parametrize(
    "state",
    ["", "[]", "{}", '{"_data_files": 5}', '{"_data_files": [{"filename": "../../etc/passwd"}]}',
     '{"_data_files": [{"filename": "/etc/passwd"}]}', '{"_data_files": [{}]}', '{"_data_files": [{"filename": 3}]}'],
)  # fmt: skip
def test_damaged_dataset_folder_is_named(tmp_path: Path, state: str) -> None:
    folder = saved(tmp_path / "set", [TWO])
    (folder / "state.json").write_text(state)
    with pytest.raises(InputError, match="not a readable dataset folder"):
        prompt_files(str(folder))


def test_dataset_with_an_index_is_rejected(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [TWO], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match="flatten_indices"):
        prompt_files(str(folder))


def test_missing_file_of_a_dataset_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", [TWO])
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        specs(folder)


def test_missing_pyarrow_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_parquet(pa.table(TWO), tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        specs(tmp_path / "x.parquet")


def test_other_formats_need_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.json").write_text('[{"prompt": "a"}]')
    assert len(specs(tmp_path / "x.json")) == 1


# Streaming


def many(count: int) -> pa.Table:
    return pa.table({"name": [f"item {n}" for n in range(count)], "prompt": ["word " * 140] * count})


@FORMS
def test_reading_time_grows_linearly(tmp_path: Path, form: Form) -> None:
    def seconds(count: int) -> float:
        form(many(count), tmp_path / "x")
        started = time.process_time()
        assert sum(1 for _ in read_specs([tmp_path / "x"])) == count
        return time.process_time() - started

    assert_linear(seconds, 200)


@FORMS
def test_rows_are_streamed(tmp_path: Path, form: Form) -> None:
    peaks = []
    for count in (2000, 8000):
        form(many(count), tmp_path / "x")
        kind = arrow.kind_of((tmp_path / "x").read_bytes()[:4]) or ""
        peaks.append(peak_bytes(arrow.read_rows(tmp_path / "x", kind, (), Reading())))
    assert peaks[1] < 1.2 * peaks[0] < 10_000_000


# Hugging Face's own library


def test_folder_saved_by_datasets_is_read(tmp_path: Path) -> None:
    import datasets  # takes a second

    datasets.Dataset.from_dict(TWO).save_to_disk(tmp_path / "set", num_shards=2)
    found = specs(tmp_path / "set")
    assert [(s.name, s.prompt, s.video_path) for s in found] == list(zip(*TWO.values(), strict=True))


def test_splits_saved_by_datasets_are_read(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_dict({"name": ["a"], "prompt": ["A"]})
    two = datasets.Dataset.from_dict({"name": ["b"], "prompt": ["B"]})
    datasets.DatasetDict(train=one, test=two).save_to_disk(tmp_path / "sets")
    assert [s.prompt for s in specs(tmp_path / "sets")] == ["A", "B"]
