"""How do label columns become a task and an array of labels?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from peftsweep.config import DataConfig, LabelColumn
from peftsweep.data.label_spelling import (
    BOOLEANS,
    DIFFERENCE,
    FLAGS,
    class_name,
    distinguishable,
    is_missing,
    sort_key,
    visible_form,
)
from peftsweep.data.list_cells import (
    are_all_written_lists,
    is_written_list,
    label_names,
    read_cells,
    read_single_labels,
)
from peftsweep.data.suspect_labels import warn_of_joined_labels
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted
from peftsweep.task import Labels, Task

PAIRS = (("0", "1"), BOOLEANS)
LABEL_SETS = "\0sets"  # an added column: the list of labels of each row
MAX_NAME_LENGTH = 10_000  # characters: the database does not return longer names


def task_of(config: DataConfig, train: Table, *, as_0_1: bool = False) -> Task:
    """The task: multi-label for several 0/1 columns or one column of all labels, single-label for a column of classes.

    Args:
        as_0_1: see `class_name`.

    Raises:
        DataError: a class is empty, there is only one class or label, or a name is too long.
    """
    columns = config.label_columns
    if len(columns) > 1:
        _check_short(train, columns)
        return Task("multi-label", tuple(columns))
    if several := _holds_several(config, train):
        names = {label for labels in _label_sets(config, train) for label in labels}
    else:
        names = set(_classes(train, columns[0], as_0_1=as_0_1))
        if not as_0_1 and not names.isdisjoint(BOOLEANS) and names <= FLAGS.keys():
            names = {BOOLEANS[FLAGS[name]] for name in names}
    if len(names) < 2:
        what = f"only one {'label' if several else 'class'} ({quoted(names.pop())})" if names else "no labels"
        raise DataError(f"{train.name}: column {columns[0]} has {what}: there is nothing to distinguish")
    _check_short(train, names)
    return Task("multi-label" if several else "single-label", tuple(sorted(names, key=sort_key)))


def _check_short(train: Table, names: Iterable[str]) -> None:
    if long := [name for name in names if len(name) > MAX_NAME_LENGTH]:
        raise DataError(
            f"{train.name}: the name of a class or label has {len(max(long, key=len)):,} characters, but at most "
            f"{MAX_NAME_LENGTH:,} are allowed ({quoted(long[0])}): are data.text and data.labels swapped?"
        )


def label_array(config: DataConfig, table: Table, task: Task, *, as_0_1: bool = False) -> Labels:
    """float32 [n, C] of zeros and ones, or int64 [n] of classes.

    Args:
        as_0_1: see `class_name`.

    Raises:
        DataError: a label is neither 0 nor 1, or training lacks a class or label; with the rows.
    """
    columns = config.label_columns
    if len(columns) > 1:
        return np.array([_flags(table, column) for column in columns], dtype=np.float32).T
    numbers = {label: i for i, label in enumerate(task.labels)}
    if task.labels in PAIRS and not task.multi_label:
        numbers = FLAGS  # one file may say 0 and 1, another false and true
    if task.multi_label:
        sets = _label_sets(config, table)
        _check_known(table, columns[0], numbers, sets)
        found = np.zeros((len(table), len(numbers)), dtype=np.float32)
        for row, labels in enumerate(sets):
            found[row, [numbers[label] for label in labels]] = 1
        return found
    classes = _classes(table, columns[0], as_0_1=as_0_1)
    _check_known(table, columns[0], numbers, [[name] for name in classes])
    return np.array([numbers[label] for label in classes], dtype=np.int64)


def _check_known(table: Table, column: str, known: dict[str, int], sets: Sequence[Sequence[str]]) -> None:
    strange = [(i, label) for i, labels in enumerate(sets) for label in labels if label not in known]
    if strange:
        rows = list(dict.fromkeys(i for i, _ in strange))
        near = {visible_form(name): name for name in known}
        twin = next(([label, near[visible_form(label)]] for _, label in strange if visible_form(label) in near), None)
        hint = f"; {distinguishable(twin)} differ by {DIFFERENCE}" if twin else ""
        raise DataError(
            f"{table.name}: column {column}: {_examples([label for _, label in strange])} in {table.numbers(rows)}: no "
            f"row for training has it{hint}"
        )


def _holds_several(config: DataConfig, table: Table) -> bool:
    """Whether one column holds all labels of a text, because the study file says so or its cells are lists."""
    first, *others = config.label_columns
    if isinstance(config.labels, LabelColumn) or others:
        return not others
    return any(isinstance(value, list | tuple) for value in table.column(first))


def with_label_sets(config: DataConfig, table: Table, others: Iterable[Table] = ()) -> Table:
    """The table with the labels of each row in `LABEL_SETS`, if one column holds all labels.

    They are read before the table is split, because the other cells show how to read a cell.

    Args:
        others: all tables of the study. They show how to read this one if it has no list.

    Raises:
        DataError: a cell does not hold labels; with the rows.
    """
    if not _holds_several(config, table):
        return table
    return Table(table.name, table.columns | {LABEL_SETS: _label_sets(config, table, others)}, table.rows)


def row_labels(table: Table, columns: Sequence[str]) -> list[tuple[str | None, ...]]:
    """The labels of each row for comparison with other rows, even if they are invalid."""
    if LABEL_SETS in table.columns:
        return [tuple(sorted(labels)) for labels in table.columns[LABEL_SETS]]
    return list(zip(*([class_name(value) for value in table.column(column)] for column in columns), strict=True))


def _label_sets(config: DataConfig, table: Table, others: Iterable[Table] = ()) -> list[list[str]]:
    """The labels of each row."""
    if LABEL_SETS in table.columns:
        return table.columns[LABEL_SETS]
    (column,) = config.label_columns
    values = table.column(column)
    separator = config.labels.separator if isinstance(config.labels, LabelColumn) else None
    if separator is not None and are_all_written_lists(values, separator):
        raise DataError(
            f"{table.name}: column {column}: each cell is a list in brackets, such as {_examples(values[:1])}: to "
            f"read it as a list, leave the separator out: labels: {{column: {column}}}"
        )
    if separator is not None and (lists := [i for i, value in enumerate(values) if is_written_list(value, separator)]):
        others = [value for value in values if not is_written_list(value, separator)]
        is_split = any(cell is not None and len(cell) > 1 for cell in read_cells(others, separator))
        readable = not is_split and None not in read_cells(values, None)
        fix = f"leave it out: labels: {{column: {column}}}" if readable else "write them as in the other rows"
        raise DataError(
            f"{table.name}: column {column}: {_examples([values[i] for i in lists])} in {table.numbers(lists)}: "
            f"written lists cannot be split at a separator ({quoted(separator)}); {fix}"
        )
    grouped = isinstance(config.labels, LabelColumn) and config.labels.grouped
    elsewhere = [cell for other in others for cell in other.column(column)]
    cells = read_single_labels(values) if grouped and separator is None else read_cells(values, separator, elsewhere)
    found = [None if cell is None else label_names(cell) for cell in cells]
    if wrong := [i for i, labels in enumerate(found) if labels is None]:
        expected = f"labels separated by {quoted(separator)}"
        if grouped:
            expected = "a name or a number in each row"
        elif separator is None:
            expected = (
                "a list, such as ['joy', 'anger'], written as in the other rows; if labels have a separator, name "
            )
            expected += f'it: labels: {{column: {column}, separator: ";"}}'
        raise DataError(
            f"{table.name}: column {column}: {_examples([values[i] for i in wrong])} in {table.numbers(wrong)}: "
            f"expected {expected}"
        )
    if all(FLAGS.keys() >= set(labels or ()) for labels in found):
        sizes = {len(cell or ()) for cell, value in zip(cells, values, strict=True) if not is_missing(value)}
        if len(sizes) == 1 and min(sizes) > 1:
            raise DataError(
                f"{table.name}: column {column}: each list has {sizes.pop()} zeros and ones: expected the names of "
                "the labels that are on; or give each label a separate column and name them all: labels: [joy, anger]"
            )
    return [labels or [] for labels in found]


def _flags(table: Table, column: str) -> list[int]:
    values = table.column(column)
    flags = [FLAGS.get(class_name(value) or "", -1) for value in values]
    wrong = [i for i, flag in enumerate(flags) if flag < 0]
    if wrong:
        raise DataError(
            f"{table.name}: column {column}: {_examples([values[i] for i in wrong])} in {table.numbers(wrong)}: with "
            "several label columns, each must hold 0 or 1"
        )
    return flags


def _classes(table: Table, column: str, *, as_0_1: bool) -> list[str]:
    values = table.column(column)
    classes = [class_name(value, as_0_1=as_0_1) for value in values]
    wrong = [i for i, label in enumerate(classes) if label is None]
    if wrong:
        hint = _hint_at_joined_labels([label for label in classes if label is not None], column)
        raise DataError(
            f"{table.name}: column {column}: {_examples([values[i] for i in wrong])} in {table.numbers(wrong)}: "
            f"expected a name or a number in each row{hint}"
        )
    return [label for label in classes if label is not None]


def _hint_at_joined_labels(classes: Sequence[str], column: str) -> str:
    """A hint for a message that the classes look like joined labels, if they do: then empty cells may be correct."""
    task = Task("single-label", tuple(sorted(set(classes), key=sort_key)))
    warnings = list(warn_of_joined_labels(task, column)) if classes else []
    return "".join(f"; {doubt}" for doubt in warnings) + (
        "; then an empty cell is a text without labels" if warnings else ""
    )


def _examples(values: Sequence[Any]) -> str:
    """Up to three of the values, as they are in the file."""
    found = list(dict.fromkeys("empty" if value in (None, "") else quoted(value) for value in values[:1000]))
    return ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
