"""Results as Parquet and as a dataset folder: every value comes back, and the columns never change."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pyarrow import parquet

from src.reports.arrow import write_folder, write_parquet
from tests.harness.rows import table_row


def test_rows_come_back_equal() -> None:
    rows = [table_row(n) for n in range(1200)]
    rows.append(table_row(9, upsampled_prompt=None, frames=[], seconds=None))
    out = io.BytesIO()
    write_parquet(iter(rows), out)
    assert parquet.read_table(io.BytesIO(out.getvalue())).to_pylist() == rows


def test_columns_do_not_depend_on_rows() -> None:
    schemas = []
    sparse = table_row(1, seconds=None, frames=[], video_path=None, finish_reason=None)
    for rows in ([], [table_row(1)], [sparse]):
        out = io.BytesIO()
        write_parquet(rows, out)
        schemas.append(parquet.read_schema(io.BytesIO(out.getvalue())))
    assert schemas[0].equals(schemas[1]) and schemas[1].equals(schemas[2])


@pytest.mark.parametrize("count", [0, 1, 1200])
def test_datasets_opens_the_folder(tmp_path: Path, count: int) -> None:
    import datasets  # takes a second

    rows = [table_row(n) for n in range(count)]
    write_folder(iter(rows), tmp_path)
    opened = datasets.load_from_disk(str(tmp_path))
    assert opened.to_list() == rows
    assert set(opened.column_names) == set(table_row(0))
    assert opened.filter(lambda row: row["state"] == "failed").num_rows == 0


def test_datasets_opens_the_parquet_file(tmp_path: Path) -> None:
    import datasets

    rows = [table_row(n) for n in range(3)]
    with open(tmp_path / "results.parquet", "wb") as f:
        write_parquet(rows, f)
    opened = datasets.Dataset.from_parquet(str(tmp_path / "results.parquet"), cache_dir=str(tmp_path / "cache"))
    assert opened.to_list() == rows
