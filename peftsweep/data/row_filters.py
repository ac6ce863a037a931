"""Which rows pass the filters of the study, and are all their texts valid?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftsweep.config import Filter
from peftsweep.data.label_spelling import BOOLEANS, FLAGS, WHOLE, class_name, is_missing, is_valid_unicode
from peftsweep.data.table import Table
from peftsweep.errors import DataError

Report = Callable[[str], object]


def filter_rows(table: Table, filters: Mapping[str, Filter], note: Report, *, as_0_1: bool = False) -> Table:
    """The rows that pass all filters. A row without a number fails a comparison; their count is noted.

    Args:
        as_0_1: filter as version 0.1 did, which compared texts only with texts and numbers only with numbers.

    Raises:
        DataError: no row passes.
    """
    for column, rule in filters.items():
        values = table.column(column)
        numbers = [_number(value) for value in values]
        equal = _equal(values, numbers, rule.equals)
        kept = [i for i, number in enumerate(numbers) if equal[i] and _within(number, rule)]
        if as_0_1:
            kept = [i for i, value in enumerate(values) if _passed(value, rule)]
        if not kept:
            raise DataError(f"{table.name}: no row passes data.filter.{column}")
        compared = rule.min is not None or rule.max is not None
        if compared and (without := sum(number is None for number in numbers)):
            note(f"{table.name}: {without:,} rows have no number in {column} and were left out")
        table = table.take(kept)
    return table


def _equal(values: Sequence[Any], numbers: Sequence[float | None], wanted: str | int | float | None) -> list[bool]:
    """Whether each value equals the wanted one (always, if that is None).

    Values are compared by the name that they would have as a class, so that the format of the file does not matter. In
    a column of booleans, or of zeros and ones, 1 equals true. A wanted number matches any spelling of it.
    """
    if wanted is None:
        return [True] * len(values)
    names = [_name(value) for value in values]
    name = _name(wanted)
    if name in FLAGS and set(names) - {""} <= FLAGS.keys():
        return [own != "" and FLAGS[own] == FLAGS[name] for own in names]
    number = None if isinstance(wanted, str | bool) else float(wanted)
    # compare whole numbers by name: as a float, 9007199254740993 would equal its neighbour
    return [
        own == name or (there == number is not None and own not in BOOLEANS and not WHOLE.fullmatch(own))
        for own, there in zip(names, numbers, strict=True)
    ]


def _name(value: Any) -> str:
    """The name of a class; Python's text for a date or another value that names no class; empty for an empty cell."""
    return "" if is_missing(value) else class_name(value) or str(value).strip()


def _within(number: float | None, rule: Filter) -> bool:
    if rule.min is None and rule.max is None:
        return True
    return number is not None and (rule.min is None or number >= rule.min) and (rule.max is None or number <= rule.max)


def _passed(value: Any, rule: Filter) -> bool:
    """Whether the row passed the filter in version 0.1."""
    if isinstance(rule.equals, str):
        return str(value) == rule.equals
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return (rule.equals is None or number == rule.equals) and _within(number, rule)


def _number(value: Any) -> float | None:
    """The number in a cell, also if written as text. A boolean is 0 or 1 in every format."""
    if (name := class_name(value)) in BOOLEANS:
        return float(FLAGS[name])
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # OverflowError: JSON has whole numbers of any length
        return None
    return None if math.isnan(number) or (isinstance(value, str) and "_" in value) else number


def with_checked_texts(table: Table, column: str) -> Table:
    """The table with its texts also in the column `TEXT`, after a check.

    Raises:
        DataError: a text is empty, null, not text or not valid Unicode; with the numbers of the rows.
    """
    texts = table.column(column)
    empty = [i for i, text in enumerate(texts) if text is None or (isinstance(text, str) and not text.strip())]
    if empty:
        raise DataError(f"{table.name}: column {column}: empty in {table.numbers(empty)}; remove these rows")
    other = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    if other:
        kind = type(texts[other[0]]).__name__
        raise DataError(f"{table.name}: column {column}: {kind} instead of text in {table.numbers(other)}")
    if broken := [i for i, text in enumerate(texts) if not is_valid_unicode(text)]:
        raise DataError(f"{table.name}: column {column}: broken characters in {table.numbers(broken)}")
    return Table(table.name, table.columns | {TEXT: texts}, table.rows)


TEXT = "\0text"  # an added column with the texts, so that their name in the study file is not needed
