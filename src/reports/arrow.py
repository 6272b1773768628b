"""Results as Parquet and as a folder for Hugging Face's `datasets`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..files import file_sha256
from ..prompts.arrow import ROWS_AT_A_TIME, require

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]  # of results.json


def write_parquet(rows: Iterable[Row], out: IO[bytes]) -> None:
    """Rows of results.json as Parquet, one group of rows at a time, always with the same columns."""
    require()
    from pyarrow import parquet

    schema = _results_schema()
    with parquet.ParquetWriter(out, schema) as writer:
        for batch in _record_batches(rows, schema):
            writer.write_batch(batch)


def write_folder(rows: Iterable[Row], folder: Path) -> None:
    """Rows of results.json as a folder that `datasets.load_from_disk` opens, one group of rows at a time.

    dataset_info.json names no features: then `Dataset` takes them from the Arrow schema (datasets,
    src/datasets/arrow_dataset.py).
    """
    require()
    from pyarrow import ipc

    schema, name = _results_schema(), "data-00000-of-00001.arrow"
    with open(folder / name, "wb") as f, ipc.new_stream(f, schema) as writer:
        for batch in _record_batches(rows, schema):
            writer.write_batch(batch)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name}],
        "_fingerprint": file_sha256(folder / name)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "dataset_info.json").write_text("{}\n", encoding="ascii")
    (folder / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="ascii")


def _record_batches(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    rest = iter(rows)
    while group := list(islice(rest, ROWS_AT_A_TIME)):
        yield pa.RecordBatch.from_pylist(group, schema=schema)


def _results_schema() -> pa.Schema:
    """The columns of results.json, whichever of them its rows use."""
    import pyarrow as pa

    text, count = pa.string(), pa.int64()
    numbers = ("predicted", "measured", "output", "image", "text", "output_reserved", "linear_estimate")
    frame = pa.struct({"sha256": text, "bytes": count, "size": text, "file": text})
    return pa.schema({
        **dict.fromkeys(("id", "name", "original_prompt", "upsampled_prompt", "video_path", "preprocessed_video"), text),
        **dict.fromkeys(("state", "reason", "note"), text),
        "attempts": count,
        "engine": text,
        "tokens": pa.struct(dict.fromkeys(numbers, count)),
        "finish_reason": text,
        "seconds": pa.float64(),
        "frames": pa.list_(frame),
        "shrunk_from": text,
        "flags": pa.list_(text),
        "review": pa.struct({"verdict": text, "at": text, "answer": text}),
    })  # fmt: skip
