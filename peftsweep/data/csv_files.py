"""CSV, and TSV as it is exchanged: tabs, and quotation marks that mean nothing."""

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
# Excel's own first line, which says what parts fields; it may have lost that mark, or got more of them as it was saved.
EXCEL_SEP_LINE = re.compile(r'"?sep=(?:([^\w"\s]|\t| )\1*)?"?[,;\t ]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
csv.field_size_limit(1 << 30)  # texts are long at times


@dataclass(frozen=True)
class Dialect:
    """How fields are parted and quoted. `tabs`: whether the file's name says that they are parted by tabs."""

    tabs: bool
    mark: str
    quoting: bool

    def reader(self, text: str, *, strict: bool = True) -> Iterator[list[str]]:
        options: dict[str, Any] = {"strict": strict} if self.quoting else {"quoting": csv.QUOTE_NONE}
        return csv.reader(io.StringIO(text, newline=""), delimiter=self.mark, **options)

    def stray(self) -> str:
        what = {"\t": "tab", ",": "comma"}.get(self.mark, repr(self.mark))
        return what + (" or quotation mark" if self.quoting else "")


def read_delimited(
    path: Path, name: str, wanted: Sequence[str], whole: bool, form: TextFormat
) -> tuple[Table, list[str]]:
    """The wanted columns (whole: all), and what is doubtful about the file.

    Raises:
        DataError: broken bytes, another mark between the fields, no such column, a row that is none.
    """
    tabs = path.suffix.lower() == ".tsv"
    quoting = not tabs if form.quoting is None else form.quoting
    try:
        text, doubts = decode_file(path, name, form)
    except DecodingError as error:
        before, dialect = _dialect(error.before, tabs, quoting)
        raise error.told(name, sum(map(bool, dialect.reader(before, strict=False))) - 1) from error
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
        if quoting and (lines := embedded_rows(record, dialect.mark)):
            suspects.append((number, lines))
    if form.quoting is None and tabs and _has_quoted_fields(columns):
        doubts.append(f"its fields seem to stand in quotation marks, which mean nothing in TSV; {form.unquote}")
    if suspects:
        doubts += _swallowed_row_warnings(dict(suspects), dialect, text, form)
    return Table(name, columns, rows), doubts


def _swallowed_row_warnings(
    suspects: dict[int, list[list[str]]], dialect: Dialect, text: str, form: TextFormat
) -> Iterator[str]:
    records = filter(None, dialect.reader(text))
    width = len(next(records))
    found = find_swallowed_rows(suspects, records)
    plain = Dialect(dialect.tabs, dialect.mark, quoting=False).reader(text)
    if not (fits := not found or all(len(record) == width for record in plain if record)):
        found = [number for number in found if len(suspects[number]) >= MANY_LINES]
    if found:
        lines, more = len(suspects[found[0]]), f", as do those of {len(found) - 1:,} more rows" if found[1:] else ""
        yield (
            f"row {found[0]} has a text of {lines:,} lines that look like rows of their own{more}: a quotation mark "
            "that opens a text takes all up to the next one, and one that is no such mark is written twice"
            + (form.plain if fits else "")
        )


def _dialect(text: str, tabs: bool, quoting: bool) -> tuple[str, Dialect]:
    """The text without Excel's line, and how its fields are parted."""
    said = EXCEL_SEP_LINE.match(text)
    mark = said[1] if said and said[1] else "\t" if tabs else ","
    return text[said.end() :] if said else text, Dialect(tabs, mark, quoting)


def _records(dialect: Dialect, text: str, name: str, form: TextFormat) -> Iterator[list[str]]:
    """All but empty lines, the header first."""
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
    DataError: the wanted columns are there, but parted by something else, or in quotation marks that mean nothing.
    """
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0].strip()
    if set(wanted) <= set(line.split(dialect.mark)):
        return
    if set(wanted) <= set(_bare(line, dialect.mark)):
        if not dialect.quoting:
            raise DataError(f"{name}: its header stands in quotation marks, which mean nothing in TSV; {form.unquote}")
        return
    ours = {"\t": "tabs", ",": "commas"}.get(dialect.mark, repr(dialect.mark))
    for theirs, advice in OTHER_DELIMITERS.items():
        if set(wanted) <= set(_bare(line, theirs)):
            raise DataError(f"{name}: its fields are not parted by {ours} but by {advice}")


def _bare(line: str, mark: str) -> list[str]:
    return [field.strip(' "') for field in line.split(mark)]


def _has_quoted_fields(columns: dict[str, list[Any]]) -> bool:
    """Whether quotation marks look like those of a writer, such as pandas, that puts fields into them: each mark inside
    is doubled, and some are or all fields of the column have them."""
    for values in columns.values():
        inside = [value[1:-1] for value in values if len(value) > 1 and value[0] == value[-1] == '"']
        doubled = sum('""' in text for text in inside)
        if (doubled or len(inside) == len(values) > 0) and not any('"' in text.replace('""', "") for text in inside):
            return True
    return False
