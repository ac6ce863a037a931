"""Did a stray quotation mark in a CSV file make a text swallow the rows up to the next quotation mark?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

BREAK = re.compile(r"\r\n|\r|\n")
MIN_SHARE = 0.8  # share of the rows in such a cell that must look like other rows of the file
MANY_LINES = 6  # no real text has so many lines that all begin or end with the name of a class


def embedded_rows(record: Sequence[str], delimiter: str) -> list[list[str]]:
    """The rows that a cell of this record may have swallowed, the record's own first; each has as many fields as it.

    The lines of such a cell have as many fields as rows would leave: the first line those from the cell on, the last
    line those up to the cell, and the lines between them all fields. A table with one column has no such pattern.

    Args:
        delimiter: the text between fields.
    """
    width = len(record)
    for place, cell in enumerate(record):
        if width == 1 or ("\n" not in cell and "\r" not in cell):
            continue
        if '"' in cell:  # doubled marks: the program that wrote the file quotes texts properly
            continue
        first, *rest = BREAK.split(cell)
        inner = [line.split(delimiter) for line in rest[:-1] if line.strip()]
        opened, closed = first.split(delimiter), rest[-1].split(delimiter)
        fitting = [row for row in inner if len(row) == width]
        if (len(opened), len(closed)) == (width - place, place + 1) and len(fitting) >= MIN_SHARE * len(inner):
            return [[*record[:place], *opened], *fitting, [*closed, *record[place + 1 :]]]
    return []


def find_swallowed_rows(suspects: Mapping[int, list[list[str]]], records: Iterable[Sequence[str]]) -> list[int]:
    """The numbers of the records whose lines are surely rows.

    A text may contain a line such as `No, thanks`, and `No` may be a class. So the lines count as rows only if there
    are many of them, or if they share values with other rows in two columns, as names of classes do. A field may begin
    with a space, as a word after a comma does, only in columns where fields of other rows do, too.

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
    """The values of one column in the rows that are not suspected."""

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
        """Whether most of these values begin with spaces, but not those of the column."""
        return 2 * sum(value[:1].isspace() for value in values) >= len(values) and 2 * self.spaced < self.rows


def _are_rows(lines: Sequence[Sequence[str]], others: Sequence[_Column]) -> bool:
    columns = list(zip(*lines, strict=True))
    known = sum(column.knows(values) for values, column in zip(columns, others, strict=True))
    if not known or (known == 1 and len(lines) < MANY_LINES):
        return False
    return not any(column.spaces(values[1:]) for values, column in zip(columns, others, strict=True))
