"""Files to tables: CSV, TSV, Parquet and JSONL, on disk or in an installed package."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftsweep.data.table import Table, missing_columns
from peftsweep.errors import DataError
from peftsweep.places import PACKAGE, did_you_mean, packaged

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
PARTED = {";": "semicolons; write it with commas", "|": "bars; write it with commas"}
PARTED |= {"\t": "tabs; let its name end in .tsv", ",": "commas; let its name end in .csv"}
csv.field_size_limit(1 << 30)  # texts are long at times


@dataclass(frozen=True)
class Form:
    """How CSV, TSV and JSONL files are written, and how a person would say that it is another way.

    Attributes:
        quoting: whether "…" holds a field together; None: in CSV it does, in TSV it means nothing.
        decode, unquote: what messages advise against bytes of another encoding, and against quotation marks in TSV.
    """

    encoding: str = "utf-8"
    quoting: bool | None = None
    decode: str = "data.encoding: latin-1"
    unquote: str = "to take them off: data.quoting: true; to keep them: data.quoting: false"


def read(
    place: str,
    key: str,
    wanted: Sequence[str],
    form: Form,
    warn: Callable[[str], object],
    *,
    whole: bool = False,
) -> Table:
    """Read the wanted columns of a file.

    Args:
        place: a path, or `package://module/path`.
        key: of the study file, or an option, for messages.
        warn: told that quotation marks of a TSV file seem to hold its fields together.
        whole: all its columns; None where a row of JSONL has not the column of another.

    Raises:
        DataError: no such file or column, a broken file, broken bytes (with the row), or no rows at all.
    """
    try:
        path = _path(place, key)
        if _ending(path) == ".parquet":
            table = _parquet(path, place, wanted, whole)
        elif _ending(path) == ".jsonl":
            table = _jsonl(path, place, wanted, whole, form)
        else:
            table = _delimited(path, place, wanted, whole, form)
            if form.quoting is None and _ending(path) == ".tsv" and _quoted(table):
                warn(f"{place}: its fields seem to stand in quotation marks, which mean nothing in TSV; {form.unquote}")
    except OSError as error:
        raise DataError(f"{key}: {place} cannot be read: {error.strerror or error}") from error
    if not table.rows:
        raise DataError(f"{place}: no rows")
    return table


def _path(place: str, key: str) -> Path:
    path = packaged(place, key, DataError) if place.startswith(PACKAGE) else Path(place).expanduser()
    if not path.exists():
        raise DataError(f"{key}: {place} is not there{did_you_mean(path)}")
    if _ending(path) not in FORMATS or path.is_dir():
        raise DataError(f"{key}: {place} is no file of a format that is read: {', '.join(FORMATS)}")
    return path


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _delimited(path: Path, name: str, wanted: Sequence[str], whole: bool, form: Form) -> Table:
    """CSV, or TSV as it is exchanged: tabs, and quotation marks that mean nothing."""
    tabs = _ending(path) == ".tsv"
    quoting = not tabs if form.quoting is None else form.quoting
    options: dict[str, Any] = {"delimiter": "\t"} if tabs else {}
    options |= {"strict": True} if quoting else {"quoting": csv.QUOTE_NONE}
    try:
        text = _decoded(path, form.encoding)
    except UnicodeDecodeError as error:
        before = io.StringIO(_before(error, form.encoding), newline="")
        row = sum(1 for record in csv.reader(before, **options | {"strict": False}) if record) - 1
        raise _broken_bytes(name, row, form, error) from error
    _check_header(name, wanted, text, form, tabs=tabs, quoting=quoting)
    records = csv.reader(io.StringIO(text, newline=""), **options)
    try:
        header = next(records, [])
    except csv.Error as error:
        raise DataError(f"{name}: the header is not CSV: {error}") from error
    places = _places(name, wanted, header, whole)
    columns: dict[str, list[Any]] = {column: [] for column in places}
    rows = []
    for number, record in enumerate(_records(records, name), start=1):
        if len(record) != len(header):
            stray = ("tab" if tabs else "comma") + (" or quotation mark" if quoting else "")
            marks = any(field.startswith('"') for field in record) and not quoting
            raise DataError(
                f"{name}: row {number} has {len(record)} fields, the header {len(header)}: a stray {stray}"
                + (f"; if quotation marks hold its fields together, {form.unquote}" if marks else "")
            )
        for column, place in places.items():
            columns[column].append(record[place])
        rows.append(number)
    return Table(name, columns, rows)


def _check_header(name: str, wanted: Sequence[str], text: str, form: Form, *, tabs: bool, quoting: bool) -> None:
    """Raises:
    DataError: the wanted columns are there, but parted by something else, or in quotation marks that mean nothing.
    """
    line = text.partition("\n")[0].strip()
    ours, mark = ("tabs", "\t") if tabs else ("commas", ",")
    if set(wanted) <= set(line.split(mark)):
        return
    if set(wanted) <= set(_bare(line, mark)):
        if not quoting:
            raise DataError(f"{name}: its header stands in quotation marks, which mean nothing in TSV; {form.unquote}")
        return
    for theirs, advice in PARTED.items():
        if set(wanted) <= set(_bare(line, theirs)):
            raise DataError(f"{name}: its fields are not parted by {ours} but by {advice}")


def _bare(line: str, mark: str) -> list[str]:
    return [field.strip(' "') for field in line.split(mark)]


def _quoted(table: Table) -> bool:
    """Whether quotation marks look like those of a writer, such as pandas, that puts fields into them: each mark inside
    is doubled, and some are or all fields of the column have them."""
    for values in table.columns.values():
        inside = [value[1:-1] for value in values if len(value) > 1 and value[0] == value[-1] == '"']
        doubled = sum('""' in text for text in inside)
        if (doubled or len(inside) == len(values) > 0) and not any('"' in text.replace('""', "") for text in inside):
            return True
    return False


def _records(records: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    """All but empty lines."""
    number = 0
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{name}: row {number + 1} is not CSV: {error}") from error
        if record:
            number += 1
            yield record


def _places(name: str, wanted: Sequence[str], header: Sequence[str], whole: bool) -> dict[str, int]:
    if any(column not in header for column in wanted):
        raise missing_columns(name, wanted, header)
    columns = header if whole else wanted
    for column in columns:
        if header.count(column) > 1:
            raise DataError(f"{name}: two columns are called {column}")
    return {column: header.index(column) for column in columns}


def _jsonl(path: Path, name: str, wanted: Sequence[str], whole: bool, form: Form) -> Table:
    records: dict[int, dict[str, Any]] = {}
    try:
        text = _decoded(path, form.encoding)
    except UnicodeDecodeError as error:
        raise _broken_bytes(name, _before(error, form.encoding).count("\n") + 1, form, error) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}: row {number} is not JSON: {error.msg} at character {error.colno}") from error
        except (ValueError, RecursionError) as error:  # thousands of digits or of brackets
            raise DataError(f"{name}: row {number} is not JSON that can be read: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{name}: row {number} is not a JSON object")
        if any(column not in record for column in wanted):
            raise DataError(f"row {number}: {missing_columns(name, wanted, list(record))}")
        records[number] = record if whole else {column: record[column] for column in wanted}
    names = dict.fromkeys(column for record in records.values() for column in record)
    columns = {column: [record.get(column) for record in records.values()] for column in names}
    return Table(name, columns, list(records))


def _parquet(path: Path, name: str, wanted: Sequence[str], whole: bool) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        names = list(_places(name, wanted, parquet.read_schema(path).names, whole))
        table = parquet.read_table(path, columns=names)
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} is not a whole Parquet file: {str(error).splitlines()[0]}") from error
    columns = {column: list(_values(table.column(column), name)) for column in names}
    return Table(name, columns, list(range(1, table.num_rows + 1)))


def _values(column: Any, name: str) -> Iterator[Any]:
    for number, value in enumerate(column, start=1):
        try:
            yield value.as_py()
        except UnicodeDecodeError as error:
            broken = error.object[error.start : error.start + 1].hex()
            raise DataError(
                f"{name}: row {number} has bytes that are not utf-8 (0x{broken}), as Parquet wants it; write it again"
            ) from error


def _decoded(path: Path, encoding: str) -> str:
    """The file's text, a byte-order mark left out."""
    return path.read_bytes().decode(encoding).removeprefix("\ufeff")


def _before(error: UnicodeDecodeError, encoding: str) -> str:
    """The text up to the bytes that could not be decoded, and one letter for those, as they may open their row."""
    return bytes(error.object[: error.start]).decode(encoding, "replace") + "\ufffd"


def _broken_bytes(name: str, row: int, form: Form, error: UnicodeDecodeError) -> DataError:
    broken = error.object[error.start : error.start + 1].hex()
    where = f"row {row}" if row else "the header"
    return DataError(
        f"{name}: {where} has bytes that are not {form.encoding} (0x{broken}); if the file is in another encoding, "
        f"name it: {form.decode}"
    )
