"""How is a data file of any format (CSV, TSV, Parquet, JSONL) found and read into a table?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftsweep.data.csv_files import read_delimited
from peftsweep.data.decoding import DecodingError, TextFormat, decode_file
from peftsweep.data.parquet_files import read_parquet
from peftsweep.data.table import Table, missing_columns
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import PATH, shortened, word
from peftsweep.system import json_files, names, plain_files
from peftsweep.system.package_paths import PACKAGE, packaged
from peftsweep.system.suggest import did_you_mean_file

FORMATS = (".csv", ".tsv", ".parquet", ".jsonl")
# Unlike str.splitlines, which also splits at characters that may occur inside JSON strings.
LINE = re.compile(r"\r\n|\r|\n")


def read_table(
    place: str,
    key: str,
    wanted: Sequence[str],
    form: TextFormat,
    warn: Callable[[str], object],
    *,
    whole: bool = False,
    as_0_1: bool = False,
) -> Table:
    """Read the wanted columns of a file.

    Args:
        place: a path, or `package://module/path`.
        key: the key of the study file or the option that names it, for messages.
        warn: receives warnings about the encoding and about quotation marks.
        whole: read all columns. A row of JSONL that lacks a column has None there.
        as_0_1: read it as version 0.1 did; see `read_parquet`.

    Raises:
        DataError: the file or a column is missing, the file is broken (with the row), or it has no rows.
    """
    try:
        path = _checked_path(place, key)
        doubts: list[str] = []
        if _ending(path) == ".parquet":
            table = read_parquet(path, place, wanted, whole, as_0_1=as_0_1)
        elif _ending(path) == ".jsonl":
            table, doubts = _read_jsonl(path, place, wanted, whole, form)
        else:
            table, doubts = read_delimited(path, place, wanted, whole, form)
        for doubt in doubts:
            warn(f"{place}: {doubt}")
    except OSError as error:
        raise DataError(f"{key}: {word(place, PATH)} cannot be read: {error.strerror or error}") from error
    if not table.rows:
        raise DataError(f"{place}: no rows")
    return table


def _checked_path(place: str, key: str) -> Path:
    path = packaged(place, key, DataError) if place.startswith(PACKAGE) else names.parse_path(place, key, DataError)
    if not path.exists():
        raise DataError(f"{key}: {word(place, PATH)} is not there{did_you_mean_file(path)}")
    if _ending(path) not in FORMATS:
        raise DataError(f"{key}: {word(place, PATH)} has no supported format; supported are {', '.join(FORMATS)}")
    try:
        plain_files.check(path)
    except ValueError as error:
        raise DataError(f"{key}: {word(place, PATH)}: {error}") from error
    return path


def file_stamp(place: str) -> tuple[int, ...] | None:
    """A value that changes when the file is rewritten or replaced; None if there is no such file."""
    try:
        found = _checked_path(place, "").stat()
    except (OSError, DataError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _ending(path: Path) -> str:
    return path.suffix.lower()


def _read_jsonl(path: Path, name: str, wanted: Sequence[str], whole: bool, form: TextFormat) -> tuple[Table, list[str]]:
    records: dict[int, dict[str, Any]] = {}
    try:
        text, doubts = decode_file(path, name, form)
    except DecodingError as error:
        raise error.as_data_error(name, len(LINE.findall(error.before)) + 1) from error
    for number, line in enumerate(LINE.split(text), start=1):
        if not line.strip():
            continue
        try:
            record = json_files.parse(line, once=True)
        except json.JSONDecodeError as error:
            raise DataError(f"{name}: row {number} is not JSON: {error.msg} at character {error.colno}") from error
        except ValueError as error:  # such as thousands of digits, deep nesting, a repeated key
            why = shortened(str(error), 200)
            raise DataError(f"{name}: row {number} is JSON that cannot be read: {why}") from error
        if not isinstance(record, dict):
            hint = "; it is a list: write each of its objects on a separate line" if isinstance(record, list) else ""
            raise DataError(f"{name}: row {number} is not a JSON object{hint}")
        if any(column not in record for column in wanted):
            raise missing_columns(f"row {number}: {name}", wanted, list(record))
        records[number] = record if whole else {column: record[column] for column in wanted}
    names = dict.fromkeys(column for record in records.values() for column in record)
    columns = {column: [record.get(column) for record in records.values()] for column in names}
    return Table(name, columns, list(records)), doubts
