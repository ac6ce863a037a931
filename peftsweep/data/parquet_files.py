"""Parquet, whose types are more than Python's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from peftsweep.data.table import Table, column_positions
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import shortened
from peftsweep.system import plain_files

# The most that a file may have. All of it is held in memory.
ROWS, COLUMNS, GROUPS, LEVELS, BYTES = 10_000_000, 10_000, 100_000, 50, 1 << 31
BATCH = 1000  # rows that are unpacked at once
NARROW: dict[type[pyarrow.Scalar], type[np.floating[Any]]]
NARROW = {pyarrow.HalfFloatScalar: np.float16, pyarrow.FloatScalar: np.float32}


def read_parquet(path: Path, name: str, wanted: Sequence[str], whole: bool, *, as_0_1: bool = False) -> Table:
    """The wanted columns (whole: all).

    Args:
        as_0_1: numbers of few bits as version 0.1 read them: 0.9 of 32 bits as 0.8999999761581421.

    Raises:
        DataError: not a whole Parquet file, no such column, broken text.
    """
    table = read_arrow_table(path, name, None if whole else wanted)
    columns = {
        column: list(_values(table.column(place), name, as_0_1=as_0_1))
        for column, place in column_positions(name, wanted, table.column_names, whole).items()
    }
    return Table(name, columns, list(range(1, table.num_rows + 1)))


def read_arrow_table(path: Path, name: str, wanted: Sequence[str] | None = None) -> pyarrow.Table:
    """The file, or these columns of it.

    Raises:
        DataError: not a whole Parquet file, or no such column.
    """
    try:
        plain_files.check(path)
        file = parquet.ParquetFile(path)
        _check_size(file.metadata, name)
        if wanted is not None:
            column_positions(name, wanted, file.schema_arrow.names, False)
        return _whole(file, wanted, name)
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError, OverflowError) as error:
        why = shortened((str(error) or type(error).__name__).splitlines()[0], 200)
        raise DataError(f"{name} is not a whole Parquet file: {why}") from error


def _check_size(footer: parquet.FileMetaData, name: str) -> None:
    """By what the footer says: a few bytes may stand for millions of rows.

    Raises:
        DataError: nobody can hold it, or it has values within values that no text and no label has.
    """
    for many, most, what in (
        (footer.num_rows, ROWS, "rows"),
        (footer.num_columns, COLUMNS, "columns"),
        (footer.num_row_groups, GROUPS, "row groups"),
    ):
        if many > most:
            raise DataError(f"{name} has {many:,} {what}; {most:,} are the most: write a part of it")
    for number in range(footer.num_columns):
        if footer.schema.column(number).path.count(".") > LEVELS:
            raise DataError(f"{name} has values nested more than {LEVELS} levels deep; leave that column out")


def _whole(file: parquet.ParquetFile, wanted: Sequence[str] | None, name: str) -> pyarrow.Table:
    """Raises:
    DataError: it is too large for memory: a text that is stored once may stand in every row.
    """
    batches, size = [], 0
    for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
        batches.append(batch)
        if (size := size + _unpacked(batch)) > BYTES:
            raise DataError(f"{name} has more than {BYTES:,} bytes, unpacked; write a part of it")
    return pyarrow.Table.from_batches(batches) if batches else file.read(columns=wanted)


def _unpacked(batch: pyarrow.RecordBatch) -> int:
    """Bytes of its values; of those that refer to a dictionary, as Python will have them."""
    columns = (each.dictionary_decode() if isinstance(each, pyarrow.DictionaryArray) else each for each in batch)
    return sum(each.nbytes for each in columns)


def _values(column: pyarrow.ChunkedArray, name: str, *, as_0_1: bool) -> Iterator[Any]:
    for number, value in enumerate(column, start=1):
        try:
            yield _plain(value, as_0_1=as_0_1)
        except UnicodeDecodeError as error:
            broken = error.object[error.start : error.start + 1].hex()
            raise DataError(
                f"{name}: row {number} has bytes that are not utf-8 (0x{broken}), as Parquet wants it; write it again"
            ) from error


def _plain(value: pyarrow.Scalar, *, as_0_1: bool = False) -> Any:
    """In Python, or as Arrow writes it where Python has no such value: a moment of the year 100,000."""
    try:
        if as_0_1:
            return value.as_py()
        if isinstance(value, pyarrow.DictionaryScalar) and value.is_valid:
            return _plain(value.value)
        if isinstance(value, pyarrow.ListScalar) and value.is_valid and pyarrow.types.is_floating(_inner(value)):
            return [_plain(inner) for inner in value.values]
        found = value.as_py()
        # 0.9 of 32 bits is 0.9, as CSV would have it, and no 0.8999999761581421, which is below 0.9
        return float(str(NARROW[type(value)](found))) if type(value) in NARROW and found is not None else found
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


def _inner(value: pyarrow.ListScalar) -> pyarrow.DataType:
    return getattr(value.type, "value_type", pyarrow.null())  # a map has none
