"""Rows of CSV that became part of a text: a quotation mark opens it, and another one, rows later, closes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

BREAK = re.compile(r"\r\n|\r|\n")
MIN_SHARE = 0.8  # of the rows in such a cell, which look like other rows of the file
MANY_LINES = 6  # lines, which no text has that all begin, or all end, with the name of a class


def embedded_rows(record: Sequence[str], mark: str) -> list[list[str]]:
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
        if '"' in cell:  # it is written twice there, by a program that puts texts into such marks
            continue
        first, *rest = BREAK.split(cell)
        inner = [line.split(mark) for line in rest[:-1] if line.strip()]
        opened, closed = first.split(mark), rest[-1].split(mark)
        fitting = [row for row in inner if len(row) == width]
        if (len(opened), len(closed)) == (width - place, place + 1) and len(fitting) >= MIN_SHARE * len(inner):
            return [[*record[:place], *opened], *fitting, [*closed, *record[place + 1 :]]]
    return []


def find_swallowed_rows(suspects: Mapping[int, list[list[str]]], records: Iterable[Sequence[str]]) -> list[int]:
    """The numbers of the records whose lines are rows beyond doubt. People write texts of lines such as `No, thanks`
    where `No` is a class; so the lines must have values that other rows have, as the name of a class is, in two
    columns, or be many. And their fields begin with spaces, as words after a comma do, only where those of others do.

    Args:
        suspects: the `lines_of` of some records, by number.
        records: all of them.
    """
    others: list[_Column] = []
    for number, record in enumerate(records, start=1):
        others = others or [_Column() for _ in record]
        if number not in suspects:
            for column, value in zip(others, record, strict=True):
                column.add(value)
    return [number for number, lines in suspects.items() if _are_rows(lines, others)]


class _Column:
    """What the rows have in a column that are no suspects."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.spaced = self.rows = 0

    def add(self, value: str) -> None:
        self.values.add(value)
        self.rows += 1
        self.spaced += value[:1].isspace()

    def knows(self, values: Sequence[str]) -> bool:
        return "" not in values and sum(value in self.values for value in values) >= MIN_SHARE * len(values)

    def spaces(self, values: Sequence[str]) -> bool:
        """Whether these begin with spaces, most of them, and the column's do not."""
        return 2 * sum(value[:1].isspace() for value in values) >= len(values) and 2 * self.spaced < self.rows


def _are_rows(lines: Sequence[Sequence[str]], others: Sequence[_Column]) -> bool:
    columns = list(zip(*lines, strict=True))
    known = sum(column.knows(values) for values, column in zip(columns, others, strict=True))
    if not known or (known == 1 and len(lines) < MANY_LINES):
        return False
    return not any(column.spaces(values[1:]) for values, column in zip(columns, others, strict=True))
