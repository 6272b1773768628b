"""Tables with a header: CSV in the dialects of spreadsheets, and .xlsx. Rows and columns without a value are left out.

.xlsx needs openpyxl, which is an extra.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import log
from ..errors import InputError
from .fields import FileProblem, Reading

DELIMITERS = (",", ";", "\t", "|")
Row = tuple[str, dict[str, Any] | str]
# What zipfile and openpyxl raise where bytes or XML are not as they expect.
_DAMAGED = (KeyError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError, OverflowError)


def delimiter_of(header: str, reading: Reading) -> str | None:
    """What separates the columns of a header; None where no column of it is known."""

    def known(delimiter: str) -> int:
        return sum(reading.knows_any([column]) for column in _cells(header, delimiter))

    best = max(DELIMITERS, key=known)
    return best if known(best) else None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def csv_rows(f: io.TextIOBase, delimiter: str) -> Iterator[Row]:
    """("line N", row or what is wrong with it) of a CSV file; N is the line where the row starts."""
    csv.field_size_limit(1 << 30)  # a prompt may be as long in CSV as in JSON
    rows = csv.reader(f, delimiter=delimiter, strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = rows.line_num + 1
            try:
                yield line, next(rows)
            except StopIteration:
                return
            except csv.Error as e:
                raise FileProblem(
                    f"is not CSV: {e}, in the row that starts here; a quotation mark inside a text is written twice, and "
                    'the text in quotation marks: "he said ""stop"" and left"',
                    f", line {line}",
                ) from None

    return _rows(numbered(), "line")


def _rows(numbered: Iterator[tuple[int, Sequence[str]]], unit: str) -> Iterator[Row]:
    """Rows under their header, the first row that has a value. Raises FileProblem for a header that names a column twice."""
    columns: list[str] = []
    for number, cells in numbered:
        if not any(cell.strip() for cell in cells):
            continue
        if not columns:
            columns = [cell.strip() for cell in cells]
            twice = sorted(c for c in {*columns} if c and columns.count(c) > 1)
            if twice:
                raise FileProblem(f'has the column "{twice[0]}" twice')
            continue
        where = f"{unit} {number}"
        if any(cell.strip() for cell in cells[len(columns) :]):
            hint = "; a text with a comma in it stands in quotation marks" if unit == "line" else ""
            yield where, f"has {len(cells)} values for {len(columns)} columns{hint}"
        elif unnamed := [cell for column, cell in zip(columns, cells, strict=False) if cell.strip() and not column]:
            yield where, f"has the value {unnamed[0][:40]!r} in a column without a name"
        else:
            yield where, {c: cell for c, cell in zip(columns, cells, strict=False) if cell}


def xlsx_rows(file: Path, reading: Reading) -> Iterator[Row]:
    """The same of the first sheet of a workbook whose header has a column that is known, else of its first one."""
    import zipfile
    import zlib

    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise InputError(
            f"{file}: .xlsx needs openpyxl, which is not installed here",
            hint="pip install openpyxl, or the extra excel; or save it as CSV",
        ) from None
    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # of what some programs write there, rows and columns would be missing
            sheets = {sheet.title: _texts(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
            chosen = next((title for title in sheets if _is_known(book[title], reading)), next(iter(sheets)))
            if others := [title for title in sheets if title != chosen]:
                log.get().warning("sheets_not_read", file=str(file), read=chosen, not_read=", ".join(others))
            yield from _rows(enumerate(sheets[chosen], start=1), "row")
        finally:
            book.close()
    except (InvalidFileException, zipfile.BadZipFile, zlib.error, OSError, EOFError, SyntaxError, *_DAMAGED) as e:
        raise FileProblem(f"is not a readable workbook ({type(e).__name__}: {e})") from e


def _is_known(sheet: Any, reading: Reading) -> bool:
    first = _texts(itertools.islice(sheet.iter_rows(values_only=True), 20))
    return reading.knows_any(next((row for row in first if any(row)), []))


def _texts(rows: Iterable[Sequence[Any]]) -> Iterator[list[str]]:
    """Cells as a person reads them: 3 in place of 3.0, a date without its midnight."""

    def text(cell: Any) -> str:
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)
        return "" if cell is None else str(cell).removesuffix(" 00:00:00")

    return ([text(cell) for cell in row] for row in rows)
