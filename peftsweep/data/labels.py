"""Label columns to arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from peftsweep.config import DataConfig
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.task import Labels, Task

ON_OFF = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
MISSING = ("nan", "null", "none", "n/a", "na", "<na>")


def task_of(config: DataConfig, train: Table) -> Task:
    """What is to be predicted: several columns of noughts and ones, or one column of classes.

    Raises:
        DataError: an empty class, or one class alone.
    """
    columns = label_columns(config)
    if len(columns) > 1:
        return Task("multi-label", tuple(columns))
    classes = set(_classes(train, columns[0]))
    if len(classes) < 2:
        raise DataError(
            f"{train.name}: column {columns[0]} has one class alone ({classes.pop()}): nothing to tell apart"
        )
    return Task("single-label", tuple(sorted(classes, key=_order)))


def label_columns(config: DataConfig) -> list[str]:
    return [config.labels] if isinstance(config.labels, str) else list(config.labels)


def label_array(config: DataConfig, table: Table, task: Task) -> Labels:
    """float32 [n, C] of noughts and ones, or int64 [n] of classes.

    Raises:
        DataError: a label that is neither 0 nor 1, or a class that training has not; with the rows.
    """
    columns = label_columns(config)
    if task.multi_label:
        return np.array([_flags(table, column) for column in columns], dtype=np.float32).T
    numbers = {label: i for i, label in enumerate(task.labels)}
    classes = _classes(table, columns[0])
    strange = [i for i, label in enumerate(classes) if label not in numbers]
    if strange:
        raise DataError(
            f"{table.name}: column {columns[0]}: {_listed(classes, strange)} in {table.numbers(strange)}: no row for "
            "training has it"
        )
    return np.array([numbers[label] for label in classes], dtype=np.int64)


def _flags(table: Table, column: str) -> list[int]:
    values = table.column(column)
    flags = [ON_OFF.get(str(value).strip().lower(), -1) for value in values]
    wrong = [i for i, flag in enumerate(flags) if flag < 0]
    if wrong:
        raise DataError(
            f"{table.name}: column {column}: {_listed(values, wrong)} in {table.numbers(wrong)}: of several label "
            "columns, each holds 0 or 1"
        )
    return flags


def _classes(table: Table, column: str) -> list[str]:
    values = table.column(column)
    classes = [_class(value) for value in values]
    wrong = [i for i, label in enumerate(classes) if label is None]
    if wrong:
        raise DataError(
            f"{table.name}: column {column}: {_listed(values, wrong)} in {table.numbers(wrong)}: expected a name or a "
            "whole number for each row"
        )
    return [label for label in classes if label is not None]


def _class(value: Any) -> str | None:
    """One name for each spelling of a class: 1, 1.0, true and "1.0" are `1`."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return re.sub(r"^([+-]?\d+)\.0+$", r"\1", value.strip()) or None
    return None


def doubts(task: Task) -> Iterator[str]:
    """What looks wrong about the names of classes."""
    if task.multi_label:
        return
    missing = [label for label in task.labels if label.lower() in MISSING]
    if missing:
        yield f"the class {', '.join(missing)} looks like a missing label; if it is, remove its rows"
    alike: dict[str, list[str]] = {}
    for label in task.labels:
        alike.setdefault(" ".join(label.casefold().split()), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            yield f"{' and '.join(map(repr, names))} are classes of their own, and differ by case or spaces alone"


def _order(label: str) -> tuple[float, str]:
    """Whole numbers by value, names by letters."""
    return (float(label), "") if label.removeprefix("-").isdecimal() else (float("inf"), label)


def _listed(values: Sequence[Any], places: Sequence[int]) -> str:
    """Up to three of the values there, as they stand in the file."""
    found = list(dict.fromkeys("empty" if values[i] in (None, "") else repr(values[i]) for i in places))
    return ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
