"""Which rows stay: filters, empty texts, duplicates, and texts that two splits share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from peftsweep.config import Filter
from peftsweep.data.spelling import BOOLEANS, FLAGS, WHOLE, class_name, is_missing, is_whole
from peftsweep.data.table import Table
from peftsweep.errors import DataError

Say = Callable[[str], object]


def filtered(table: Table, filters: Mapping[str, Filter], note: Say) -> Table:
    """The rows that pass all filters. A row without a number does not pass a comparison; how many those were is said.

    Raises:
        DataError: no row passes.
    """
    for column, rule in filters.items():
        values = table.column(column)
        numbers = [_number(value) for value in values]
        equal = _equal(values, numbers, rule.equals)
        kept = [i for i, number in enumerate(numbers) if equal[i] and _within(number, rule)]
        if not kept:
            raise DataError(f"{table.name}: no row is left by data.filter.{column}")
        compared = rule.min is not None or rule.max is not None
        if compared and (void := sum(number is None for number in numbers)):
            note(f"{table.name}: {void:,} rows have no number in {column} and were left out")
        table = table.take(kept)
    return table


def _equal(values: Sequence[Any], numbers: Sequence[float | None], wanted: str | int | float | None) -> list[bool]:
    """Whether each value is the one that is wanted (all are, if none is): by its name, as that of a class, so that it
    is the same in every format. In a column of booleans, or of noughts and ones, 1 is true. A number that is wanted is
    one in any spelling."""
    if wanted is None:
        return [True] * len(values)
    names = [_name(value) for value in values]
    name = _name(wanted)
    if name in FLAGS and set(names) - {""} <= FLAGS.keys():
        return [own != "" and FLAGS[own] == FLAGS[name] for own in names]
    number = None if isinstance(wanted, str | bool) else float(wanted)
    # whole numbers by name alone: 9007199254740993 is no other number, but as a float it is
    return [
        own == name or (there == number is not None and own not in BOOLEANS and not WHOLE.fullmatch(own))
        for own, there in zip(names, numbers, strict=True)
    ]


def _name(value: Any) -> str:
    """That of a class; of a date or another value that names none, as Python writes it; of an empty cell, none."""
    return "" if is_missing(value) else class_name(value) or str(value).strip()


def _within(number: float | None, rule: Filter) -> bool:
    if rule.min is None and rule.max is None:
        return True
    return number is not None and (rule.min is None or number >= rule.min) and (rule.max is None or number <= rule.max)


def _number(value: Any) -> float | None:
    """The number that a cell has, or spells; that of a boolean is 0 or 1 in every format."""
    if (name := class_name(value)) in BOOLEANS:
        return float(FLAGS[name])
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # the last: JSON has whole numbers of any length
        return None
    return None if math.isnan(number) or (isinstance(value, str) and "_" in value) else number


def with_texts(table: Table, column: str) -> Table:
    """The table, its texts being texts.

    Raises:
        DataError: a row whose text is empty, null or no text, with the rows' numbers.
    """
    texts = table.column(column)
    empty = [i for i, text in enumerate(texts) if text is None or (isinstance(text, str) and not text.strip())]
    if empty:
        raise DataError(f"{table.name}: column {column}: empty in {table.numbers(empty)}; remove these rows")
    other = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    if other:
        kind = type(texts[other[0]]).__name__
        raise DataError(f"{table.name}: column {column}: {kind} instead of text in {table.numbers(other)}")
    if broken := [i for i, text in enumerate(texts) if not is_whole(text)]:
        raise DataError(f"{table.name}: column {column}: broken characters in {table.numbers(broken)}")
    return Table(table.name, table.columns | {TEXT: texts}, table.rows)


TEXT = "\0text"  # the texts' second name, so that rows can be compared without the study file


def deduplicated(table: Table, note: Say) -> Table:
    """The first row of each text."""
    seen: set[str] = set()
    kept = [i for i, text in enumerate(table.column(TEXT)) if not (text in seen or seen.add(text))]  # type: ignore[func-returns-value]
    if len(kept) < len(table):
        note(f"{table.name}: {len(table) - len(kept):,} rows whose text came before were left out")
    return table.take(kept)


def without_leaks(tables: Mapping[str, Table], note: Say, warn: Say) -> dict[str, Table]:
    """Leave out of training the texts of validation and test. Validation stays as it is, whatever the test has: the
    test steers nothing.

    Raises:
        DataError: nothing is left.
    """
    left = dict(tables)
    for name in ("validation", "test"):
        shared = _shared(left["train"], tables[name]) if name in tables else []
        if not shared:
            continue
        table = left["train"]
        left["train"] = table.take(sorted(set(range(len(table))) - set(shared)))
        texts = "1 text is" if len(shared) == 1 else f"{len(shared):,} texts are"
        note(f"{table.name}: {texts} in {name} too and left out of train: {table.numbers(shared)}")
        if not left["train"]:
            raise DataError(f"{table.name}: no rows are left: all its texts are in {name} too")
    if {"validation", "test"} <= tables.keys() and (shared := _shared(tables["validation"], tables["test"])):
        table, texts = tables["validation"], "1 text is" if len(shared) == 1 else f"{len(shared):,} texts are"
        warn(f"{table.name}: {texts} in test too, which flatters the score there: {table.numbers(shared)}")
    return left


def _shared(table: Table, other: Table) -> list[int]:
    """The places of the texts that the other has too."""
    others = set(other.column(TEXT))
    return [row for row, text in enumerate(table.column(TEXT)) if text in others]
