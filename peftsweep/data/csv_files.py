"""How are CSV and TSV files read? By default quotation marks group fields in CSV and mean nothing in TSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftsweep.data.decoding import DecodingError, TextFormat, decode_file
from peftsweep.data.swallowed_rows import MANY_LINES, embedded_rows, find_swallowed_rows
from peftsweep.data.table import Table, column_positions
from peftsweep.errors import DataError

OTHER_DELIMITERS = {";": "semicolons; write it with commas", "|": "bars; write it with commas"}
OTHER_DELIMITERS |= {"\t": "tabs; let its name end in .tsv", ",": "commas; let its name end in .csv"}
# The first line that Excel adds to name the delimiter. Saving may have removed the delimiter or repeated it.
EXCEL_SEP_LINE = re.compile(r'"?sep=(?:([^\w"\s]|\t| )\1*)?"?[,;\t ]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
csv.field_size_limit(1 << 30)  # some texts are long


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted. `tabs` says whether the file name promises tabs (.tsv)."""

    tabs: bool
    delimiter: str
    quoting: bool

    def reader(self, text: str, *, strict: bool = True) -> Iterator[list[str]]:
        options: dict[str, Any] = {"strict": strict} if self.quoting else {"quoting": csv.QUOTE_NONE}
        return csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, **options)

    def stray(self) -> str:
        what = {"\t": "tab", ",": "comma"}.get(self.delimiter, repr(self.delimiter))
        return what + (" or quotation mark" if self.quoting else "")


def read_delimited(
    path: Path, name: str, wanted: Sequence[str], whole: bool, form: TextFormat
) -> tuple[Table, list[str]]:
    """The wanted columns (all if `whole`), and warnings about the file.

    Raises:
        DataError: broken bytes, another delimiter, a missing column, or a row with a wrong number of fields.
    """
    tabs = path.suffix.lower() == ".tsv"
    quoting = not tabs if form.quoting is None else form.quoting
    try:
        text, doubts = decode_file(path, name, form)
    except DecodingError as error:
        before, dialect = _dialect(error.before, tabs, quoting)
        raise error.as_data_error(name, sum(map(bool, dialect.reader(before, strict=False))) - 1) from error
    text, dialect = _dialect(text, tabs, quoting)
    if not text.strip():
        raise DataError(f"{name} is empty")
    records = _records(dialect, text, name, form)
    _check_header(name, wanted, text, dialect, form)
    header = next(records, [])
    taken = column_positions(name, wanted, header, whole)
    columns: dict[str, list[Any]] = {column: [] for column in taken}
    rows, suspects = [], []
    for number, record in enumerate(records, start=1):
        if len(record) != len(header):
            marks = any(field.startswith('"') for field in record) and not quoting
            raise DataError(
                f"{name}: row {number} has {len(record)} fields, the header {len(header)}: a stray {dialect.stray()}"
                + (f"; if quotation marks hold its fields together, {form.unquote}" if marks else "")
            )
        for column, place in taken.items():
            columns[column].append(record[place])
        rows.append(number)
        if quoting and (lines := embedded_rows(record, dialect.delimiter)):
            suspects.append((number, lines))
    if form.quoting is None and tabs and _has_quoted_fields(columns):
        doubts.append(f"its fields seem to be in quotation marks, which mean nothing in TSV; {form.unquote}")
    if suspects:
        doubts += _swallowed_row_warnings(dict(suspects), dialect, text, form)
    return Table(name, columns, rows), doubts


def _swallowed_row_warnings(
    suspects: dict[int, list[list[str]]], dialect: Dialect, text: str, form: TextFormat
) -> Iterator[str]:
    records = filter(None, dialect.reader(text))
    width = len(next(records))
    found = find_swallowed_rows(suspects, records)
    plain = Dialect(dialect.tabs, dialect.delimiter, quoting=False).reader(text)
    if not (fits := not found or all(len(record) == width for record in plain if record)):
        found = [number for number in found if len(suspects[number]) >= MANY_LINES]
    if found:
        lines, more = len(suspects[found[0]]), f", as do those of {len(found) - 1:,} more rows" if found[1:] else ""
        yield (
            f"row {found[0]} has a text of {lines:,} lines that look like separate rows{more}: a quotation mark at the "
            "start of a field takes everything up to the next one; one that is part of a text must be doubled"
            + (form.plain if fits else "")
        )


def _dialect(text: str, tabs: bool, quoting: bool) -> tuple[str, Dialect]:
    """The text without Excel's first line, and how its fields are separated."""
    line = EXCEL_SEP_LINE.match(text)
    delimiter = line[1] if line and line[1] else "\t" if tabs else ","
    return text[line.end() :] if line else text, Dialect(tabs, delimiter, quoting)


def _records(dialect: Dialect, text: str, name: str, form: TextFormat) -> Iterator[list[str]]:
    """All lines that are not empty, the header first."""
    number, records = 0, dialect.reader(text)
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            where = f"row {number}" if number else "the header"
            why = str(error).replace("unexpected end of data", "a quotation mark that opens there is never closed")
            raise DataError(f"{name}: {where} is not CSV: {why}{form.plain if dialect.quoting else ''}") from error
        if record:
            number += 1
            yield record


def _check_header(name: str, wanted: Sequence[str], text: str, dialect: Dialect, form: TextFormat) -> None:
    """Raises:
    DataError: the header has the wanted columns, but with another delimiter or in quotation marks that mean nothing.
    """
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0].strip()
    if set(wanted) <= set(line.split(dialect.delimiter)):
        return
    if set(wanted) <= set(_bare_fields(line, dialect.delimiter)):
        if not dialect.quoting:
            raise DataError(f"{name}: its header is in quotation marks, which mean nothing in TSV; {form.unquote}")
        return
    ours = {"\t": "tabs", ",": "commas"}.get(dialect.delimiter, repr(dialect.delimiter))
    for theirs, advice in OTHER_DELIMITERS.items():
        if set(wanted) <= set(_bare_fields(line, theirs)):
            raise DataError(f"{name}: its fields are separated not by {ours} but by {advice}")


def _bare_fields(line: str, delimiter: str) -> list[str]:
    return [field.strip(' "') for field in line.split(delimiter)]


def _has_quoted_fields(columns: dict[str, list[Any]]) -> bool:
    """Whether a writer such as pandas seems to have quoted the fields of a column: every mark inside is doubled, and
    there is one, or all fields are quoted."""
    for values in columns.values():
        inside = [value[1:-1] for value in values if len(value) > 1 and value[0] == value[-1] == '"']
        doubled = sum('""' in text for text in inside)
        if (doubled or len(inside) == len(values) > 0) and not any('"' in text.replace('""', "") for text in inside):
            return True
    return False
