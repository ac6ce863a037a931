"""How are Parquet files read, whose types Python does not all have?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from peftsweep.data.table import Table, column_positions
from peftsweep.errors import DataError, first_line
from peftsweep.safe_text.quoting import shortened
from peftsweep.system import plain_files

# Limits of a file, because all of it is held in memory.
ROWS, COLUMNS, GROUPS, LEVELS, BYTES = 10_000_000, 10_000, 100_000, 50, 1 << 31
OUT_OF_RANGE = "<value out of range"  # begins Arrow's text of a time that overflows
BATCH = 1000  # rows decoded at once
NARROW: dict[type[pyarrow.Scalar], type[np.floating[Any]]]
NARROW = {pyarrow.HalfFloatScalar: np.float16, pyarrow.FloatScalar: np.float32}


def read_parquet(path: Path, name: str, wanted: Sequence[str], whole: bool, *, as_0_1: bool = False) -> Table:
    """The wanted columns (all if `whole`).

    Args:
        as_0_1: read short floats as version 0.1 did: 0.9 in 32 bits as 0.8999999761581421.

    Raises:
        DataError: the file is not complete Parquet, a column is missing, or a text is broken.
    """
    table = read_arrow_table(path, name, None if whole else wanted)
    columns = {
        column: list(_values(table.column(place), name, as_0_1=as_0_1))
        for column, place in column_positions(name, wanted, table.column_names, whole).items()
    }
    return Table(name, columns, list(range(1, table.num_rows + 1)))


def read_arrow_table(path: Path, name: str, wanted: Sequence[str] | None = None) -> pyarrow.Table:
    """All columns of the file, or the wanted ones.

    Raises:
        DataError: the file is not complete Parquet, or a column is missing.
    """
    try:
        plain_files.check(path)
        file = parquet.ParquetFile(path)
        _check_size(file.metadata, name)
        if wanted is not None:
            column_positions(name, wanted, file.schema_arrow.names, False)
        return _whole(file, wanted, name)
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError, OverflowError) as error:
        why = shortened(first_line(error), 200)
        raise DataError(f"{name} is not a whole Parquet file: {why}") from error


def _check_size(footer: parquet.FileMetaData, name: str) -> None:
    """Check the sizes that the footer states, because a few bytes may expand to millions of rows.

    Raises:
        DataError: the file is too large, or its values are nested too deeply.
    """
    for count, limit, what in (
        (footer.num_rows, ROWS, "rows"),
        (footer.num_columns, COLUMNS, "columns"),
        (footer.num_row_groups, GROUPS, "row groups"),
    ):
        if count > limit:
            raise DataError(f"{name} has {count:,} {what}, but at most {limit:,} are allowed: save only a part of it")
    for number in range(footer.num_columns):
        if footer.schema.column(number).path.count(".") > LEVELS:
            raise DataError(f"{name} has values nested more than {LEVELS} levels deep; leave that column out")


def _whole(file: parquet.ParquetFile, wanted: Sequence[str] | None, name: str) -> pyarrow.Table:
    """Raises:
    DataError: it is too large for memory. A text that is stored once may occur in every row.
    """
    batches, size = [], 0
    for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
        batches.append(batch)
        if (size := size + _unpacked(batch)) > BYTES:
            raise DataError(f"{name} has more than {BYTES:,} bytes when decoded; save only a part of it")
    return pyarrow.Table.from_batches(batches) if batches else file.read(columns=wanted)


def _unpacked(batch: pyarrow.RecordBatch) -> int:
    """Bytes of its values, with dictionary-encoded ones expanded as in Python."""
    columns = (each.dictionary_decode() if isinstance(each, pyarrow.DictionaryArray) else each for each in batch)
    return sum(each.nbytes for each in columns)


def _values(column: pyarrow.ChunkedArray, name: str, *, as_0_1: bool) -> Iterator[Any]:
    for number, value in enumerate(column, start=1):
        try:
            yield _plain(value, as_0_1=as_0_1)
        except UnicodeDecodeError as error:
            broken = error.object[error.start : error.start + 1].hex()
            raise DataError(
                f"{name}: row {number} has bytes that are not utf-8 (0x{broken}), as Parquet requires; save it again"
            ) from error


def _plain(value: pyarrow.Scalar, *, as_0_1: bool = False) -> Any:
    """The value in Python, or as Arrow's text if Python has no such value (a date in the year 100,000)."""
    try:
        if as_0_1:
            return value.as_py()
        if isinstance(value, pyarrow.DictionaryScalar) and value.is_valid:
            return _plain(value.value)
        if isinstance(value, pyarrow.ListScalar) and value.is_valid and pyarrow.types.is_floating(_inner(value)):
            return [_plain(inner) for inner in value.values]
        found = value.as_py()
        # 0.9 in 32 bits becomes 0.9, as in CSV, and not 0.8999999761581421, which would be below 0.9
        return float(str(NARROW[type(value)](found))) if type(value) in NARROW and found is not None else found
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, TypeError, KeyError, NotImplementedError, pyarrow.ArrowException):
        if isinstance(value, pyarrow.StructScalar):
            return {field: _plain(inner) for field, inner in value.items()}
        if (inside := getattr(value, "values", None)) is not None:
            return [_plain(inner) for inner in inside]
    if isinstance(value, pyarrow.TimestampScalar) and value.type.tz is not None:
        utc = str(value.cast(pyarrow.timestamp(value.type.unit)).cast(pyarrow.string()).as_py())
        if utc.startswith(OUT_OF_RANGE):  # with a time zone, Arrow would make up a date
            return utc
    for kind in (pyarrow.string(), pyarrow.int64()):  # int64 for a time in an unknown time zone
        with contextlib.suppress(pyarrow.ArrowException):
            return str(value.cast(kind).as_py())
    return f"<{value.type}>"


def _inner(value: pyarrow.ListScalar) -> pyarrow.DataType:
    return getattr(value.type, "value_type", pyarrow.null())  # a map has no value_type
