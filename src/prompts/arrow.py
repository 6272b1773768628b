"""Prompt lists in Parquet files and Hugging Face `datasets` folders.

They need pyarrow, which is an extra: without it, all else works and these formats name what to install.

A dataset folder is what `Dataset.save_to_disk` and `DatasetDict.save_to_disk` leave behind: Arrow streams, named in
order by state.json (datasets, src/datasets/arrow_dataset.py and dataset_dict.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .fields import FileProblem, Reading

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_A_TIME = 1000
_MAGIC = {b"PAR1": "parquet", b"ARRO": "arrow", b"\xff\xff\xff\xff": "arrow"}  # the last: an Arrow stream


def kind_of(head: bytes) -> str | None:
    """parquet or arrow, by the first bytes of a file; None for every other one."""
    return _MAGIC.get(head[:4])


def require() -> None:
    """Raises InputError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError:
        raise InputError(
            "Parquet files and dataset folders need pyarrow, which is not installed here",
            hint="pip install pyarrow, or the extra data",
        ) from None


def dataset_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a dataset folder in order, split after split; None for any other folder.

    Raises InputError for a dataset folder that is damaged, or one that maps its rows through an index.
    """
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = _names(json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
            return [file for split in splits for file in _split_files(folder / split)]
        if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            return _split_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise InputError(
            f"{folder}: not a readable dataset folder ({type(e).__name__}: {e})",
            hint="save it again with save_to_disk",
        ) from e
    return None


def _split_files(folder: Path) -> list[Path]:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(f"{folder}: maps its rows through an index", hint="call flatten_indices() before save_to_disk")
    return [folder / name for name in _names([file["filename"] for file in state["_data_files"]])]


def _names(names: list[str]) -> list[str]:
    """Names of a dataset's own files and folders; ValueError for one that leads out of it."""
    for name in names:
        if not name or name in (".", "..") or Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file in it")
    return names


def read_rows(file: Path, kind: str, text_fields: Collection[str], reading: Reading) -> Iterator[dict[str, Any]]:
    """The rows of a file in order, one batch in memory at a time, as JSON values.

    Columns that JSON has no type for (bytes, times, decimals) are left out, and so are nulls; NaN is null.
    text_fields must be text. Raises FileProblem, also when no column is known to hold a prompt or a clip.
    """
    require()
    import pyarrow as pa

    try:
        for batch in _batches(file, kind, text_fields, reading):
            batch.validate(full=True)  # a damaged file may point anywhere in memory
            for start in range(0, batch.num_rows, ROWS_AT_A_TIME):
                for row in batch.slice(start, ROWS_AT_A_TIME).to_pylist():
                    yield {key: plain for key, value in row.items() if (plain := _plain(value)) is not None}
    except (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError, MemoryError) as e:
        reason = str(e).strip().split("\n")[0] or type(e).__name__
        raise FileProblem(f"not a valid {kind.capitalize()} file: {reason[:200]}") from e


def _batches(file: Path, kind: str, text_fields: Collection[str], reading: Reading) -> Iterator[pa.RecordBatch]:
    from pyarrow import ipc, parquet

    with open(file, "rb") as f:
        if kind == "parquet":
            with parquet.ParquetFile(f, pre_buffer=False) as table:
                kinds = {field.name: field.type for field in table.schema_arrow}
                names = _columns(table.schema_arrow, text_fields, reading)
                names = [name if _json_can_hold(kinds[name]) else f"{name}.path" for name in names]
                yield from table.iter_batches(ROWS_AT_A_TIME, columns=names, use_threads=False)
            return
        in_blocks = f.read(6) == b"ARROW1"
        f.seek(0)
        schema: pa.Schema = (ipc.open_file(f) if in_blocks else ipc.open_stream(f)).schema
        names = _columns(schema, text_fields, reading)
        options = ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
        f.seek(0)
        if in_blocks:
            blocks = ipc.open_file(f, options=options)
            yield from (blocks.get_batch(n) for n in range(blocks.num_record_batches))
        else:
            yield from ipc.open_stream(f, options=options)


def _columns(schema: pa.Schema, text_fields: Collection[str], reading: Reading) -> list[str]:
    """The columns to read; FileProblem when they cannot be prompts."""
    import pyarrow as pa

    for name in schema.names:
        if schema.names.count(name) > 1:
            raise FileProblem(f'has the column "{name}" twice')
    if not reading.knows_any(schema.names):
        raise FileProblem(
            f"has no column that names a prompt or a clip; it has {', '.join(schema.names)[:200] or 'none'}; "
            "columns.prompt=NAME and columns.video=NAME name them"
        )
    for field in schema:
        if field.name in text_fields and not (_is_text(field.type) or pa.types.is_null(field.type)):
            raise FileProblem(f"column {field.name}: is {field.type}, not text")
    clips = {name for name in schema.names if (role := reading.role_of(name)) and role[0] == "video"}
    held = [f.name for f in schema if _json_can_hold(f.type) or (f.name in clips and _has_path(f.type))]
    if clips and not clips & {*held}:
        raise FileProblem(
            f"column {min(clips)}: is {schema.field(min(clips)).type}; clips are read from paths, as text"
        )
    return held


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _has_path(kind: pa.DataType) -> bool:
    """Whether values are files of Hugging Face's datasets, which have a path beside their bytes."""
    from pyarrow import types

    return bool(types.is_struct(kind) and any(field.name == "path" and _is_text(field.type) for field in kind))


def _json_can_hold(kind: pa.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _json_can_hold(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _json_can_hold(kind.value_type)
    if types.is_struct(kind):
        return all(_json_can_hold(field.type) for field in kind)
    simple = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)
    return bool(simple or _is_text(kind))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if not isinstance(inner, bytes)}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
