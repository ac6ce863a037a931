"""Rows of CSV that became part of a text: a quotation mark opens it, and another one, rows later, closes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

BREAK = re.compile(r"\r\n|\r|\n")
MOST = 0.8  # of the rows in such a cell, which look like other rows of the file


def lines_of(record: Sequence[str], mark: str) -> list[list[str]]:
    """The rows that a cell of this record may have swallowed, each of as many fields as the record: its own first.

    They are in a cell if its lines have as many fields as the rows would have: the first one those from the cell on,
    the last one those up to the cell, and what is between all of them. A table of one column has no such pattern.

    Args:
        mark: between the fields.
    """
    width = len(record)
    for place, cell in enumerate(record):
        if width == 1 or ("\n" not in cell and "\r" not in cell):
            continue
        first, *rest = BREAK.split(cell)
        inner = [line.split(mark) for line in rest[:-1] if line.strip()]
        opened, closed = first.split(mark), rest[-1].split(mark)
        fitting = [row for row in inner if len(row) == width]
        if (len(opened), len(closed)) == (width - place, place + 1) and len(fitting) >= MOST * len(inner):
            return [[*record[:place], *opened], *fitting, [*closed, *record[place + 1 :]]]
    return []


def swallowed(suspects: Mapping[int, list[list[str]]], records: Iterable[Sequence[str]]) -> list[int]:
    """The numbers of the records whose lines look like rows: in some column, what they have is in other rows as well,
    as the name of a class is.

    Args:
        suspects: the `lines_of` of some records, by number.
        records: all of them.
    """
    known: list[set[str]] = []
    for number, record in enumerate(records, start=1):
        known = known or [set() for _ in record]
        if number not in suspects:
            for values, value in zip(known, record, strict=True):
                values.add(value)
    return [number for number, lines in suspects.items() if any(map(_known, zip(*lines, strict=True), known))]


def _known(values: Sequence[str], known: set[str]) -> bool:
    return "" not in values and sum(value in known for value in values) >= MOST * len(values)
