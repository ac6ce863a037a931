"""Parquet, whose types are more than Python's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from peftsweep.data.table import Table, places
from peftsweep.errors import DataError
from peftsweep.quoting import shortened


def read_parquet(path: Path, name: str, wanted: Sequence[str], whole: bool) -> Table:
    """The wanted columns (whole: all).

    Raises:
        DataError: not a whole Parquet file, no such column, broken text.
    """
    table = arrow_table(path, name, None if whole else wanted)
    columns = {
        column: list(_values(table.column(place), name))
        for column, place in places(name, wanted, table.column_names, whole).items()
    }
    return Table(name, columns, list(range(1, table.num_rows + 1)))


def arrow_table(path: Path, name: str, wanted: Sequence[str] | None = None) -> pyarrow.Table:
    """The file, or these columns of it.

    Raises:
        DataError: not a whole Parquet file, or no such column.
    """
    try:
        file = parquet.ParquetFile(path)
        if wanted is not None:
            places(name, wanted, file.schema_arrow.names, False)
        return file.read(columns=wanted)
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError, OverflowError) as error:
        why = shortened((str(error) or type(error).__name__).splitlines()[0], 200)
        raise DataError(f"{name} is not a whole Parquet file: {why}") from error


def _values(column: pyarrow.ChunkedArray, name: str) -> Iterator[Any]:
    for number, value in enumerate(column, start=1):
        try:
            yield _plain(value)
        except UnicodeDecodeError as error:
            broken = error.object[error.start : error.start + 1].hex()
            raise DataError(
                f"{name}: row {number} has bytes that are not utf-8 (0x{broken}), as Parquet wants it; write it again"
            ) from error


def _plain(value: pyarrow.Scalar) -> Any:
    """In Python, or as Arrow writes it where Python has no such value: a moment of the year 100,000."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, TypeError, KeyError, NotImplementedError, pyarrow.ArrowException):
        if isinstance(value, pyarrow.StructScalar):
            return {field: _plain(inner) for field, inner in value.items()}
        if (inside := getattr(value, "values", None)) is not None:
            return [_plain(inner) for inner in inside]
    for kind in (pyarrow.string(), pyarrow.int64()):  # the latter of a moment in a zone that nobody knows
        with contextlib.suppress(pyarrow.ArrowException):
            return str(value.cast(kind).as_py())
    return f"<{value.type}>"
