"""Label columns to arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from peftsweep.config import DataConfig, LabelColumn
from peftsweep.data.label_spelling import BOOLEANS, DIFFERENCE, FLAGS, class_name, is_missing, order, seen, side_by_side
from peftsweep.data.list_cells import in_cells, names_in, one_each, torn, written_out
from peftsweep.data.suspect_labels import joined
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted
from peftsweep.task import Labels, Task

PAIRS = (("0", "1"), BOOLEANS)
SETS = "\0sets"  # a second column of labels, as they were read
LONGEST = 10_000  # characters of a name: the database gives back no longer one


def task_of(config: DataConfig, train: Table, *, older: bool = False) -> Task:
    """What is to be predicted: several columns of zeros and ones, one column of all labels, or one of classes.

    Args:
        older: see `class_name`.

    Raises:
        DataError: an empty class, one class or label alone, or one whose name is too long.
    """
    columns = config.label_columns
    if len(columns) > 1:
        _check_short(train, columns)
        return Task("multi-label", tuple(columns))
    if several := _holds_several(config, train):
        names = {label for labels in _sets(config, train) for label in labels}
    else:
        names = set(_classes(train, columns[0], older=older))
        if not older and not names.isdisjoint(BOOLEANS) and names <= FLAGS.keys():
            names = {BOOLEANS[FLAGS[name]] for name in names}
    if len(names) < 2:
        what = f"one {'label' if several else 'class'} alone ({quoted(names.pop())})" if names else "no label at all"
        raise DataError(f"{train.name}: column {columns[0]} has {what}: nothing to tell apart")
    _check_short(train, names)
    return Task("multi-label" if several else "single-label", tuple(sorted(names, key=order)))


def _check_short(train: Table, names: Iterable[str]) -> None:
    if long := [name for name in names if len(name) > LONGEST]:
        raise DataError(
            f"{train.name}: the name of a class or label has {len(max(long, key=len)):,} characters, and {LONGEST:,} "
            f"are the most ({quoted(long[0])}): are data.text and data.labels exchanged?"
        )


def label_array(config: DataConfig, table: Table, task: Task, *, older: bool = False) -> Labels:
    """float32 [n, C] of zeros and ones, or int64 [n] of classes.

    Args:
        older: see `class_name`.

    Raises:
        DataError: a label that is neither 0 nor 1, or a class or label that training has not; with the rows.
    """
    columns = config.label_columns
    if len(columns) > 1:
        return np.array([_flags(table, column) for column in columns], dtype=np.float32).T
    numbers = {label: i for i, label in enumerate(task.labels)}
    if task.labels in PAIRS and not task.multi_label:
        numbers = FLAGS  # another file may have the other of the two
    if task.multi_label:
        sets = _sets(config, table)
        _check_known(table, columns[0], numbers, sets)
        found = np.zeros((len(table), len(numbers)), dtype=np.float32)
        for row, labels in enumerate(sets):
            found[row, [numbers[label] for label in labels]] = 1
        return found
    classes = _classes(table, columns[0], older=older)
    _check_known(table, columns[0], numbers, [[name] for name in classes])
    return np.array([numbers[label] for label in classes], dtype=np.int64)


def _check_known(table: Table, column: str, known: dict[str, int], sets: Sequence[Sequence[str]]) -> None:
    strange = [(i, label) for i, labels in enumerate(sets) for label in labels if label not in known]
    if strange:
        rows = list(dict.fromkeys(i for i, _ in strange))
        near = {seen(name): name for name in known}
        twin = next(([label, near[seen(label)]] for _, label in strange if seen(label) in near), None)
        hint = f"; {side_by_side(twin)} differ by {DIFFERENCE}" if twin else ""
        raise DataError(
            f"{table.name}: column {column}: {_listed([label for _, label in strange])} in {table.numbers(rows)}: no "
            f"row for training has it{hint}"
        )


def _holds_several(config: DataConfig, table: Table) -> bool:
    """Whether the one column holds all labels of a text: the study file says so, or its cells are lists."""
    first, *others = config.label_columns
    if isinstance(config.labels, LabelColumn) or others:
        return not others
    return any(isinstance(value, list | tuple) for value in table.column(first))


def with_sets(config: DataConfig, table: Table, others: Iterable[Table] = ()) -> Table:
    """The table with the labels of each row, if one column holds all of them: read before it is cut, for how a cell is
    to be read is seen from the others.

    Args:
        others: all tables of the study, by which this one is read if it has no list.

    Raises:
        DataError: a cell that holds none, with the rows.
    """
    if not _holds_several(config, table):
        return table
    return Table(table.name, table.columns | {SETS: _sets(config, table, others)}, table.rows)


def row_labels(table: Table, columns: Sequence[str]) -> list[tuple[str | None, ...]]:
    """What each row has in place of labels, to be compared with other rows, whether that may stand there or not."""
    if SETS in table.columns:
        return [tuple(sorted(labels)) for labels in table.columns[SETS]]
    return list(zip(*([class_name(value) for value in table.column(column)] for column in columns), strict=True))


def _sets(config: DataConfig, table: Table, others: Iterable[Table] = ()) -> list[list[str]]:
    """The labels of each row."""
    if SETS in table.columns:
        return table.columns[SETS]
    (column,) = config.label_columns
    values = table.column(column)
    separator = config.labels.separator if isinstance(config.labels, LabelColumn) else None
    if separator is not None and written_out(values, separator):
        raise DataError(
            f"{table.name}: column {column}: each cell is a list in brackets, such as {_listed(values[:1])}: to read "
            f"it as one, leave the separator out: labels: {{column: {column}}}"
        )
    if separator is not None and (lists := [i for i, value in enumerate(values) if torn(value, separator)]):
        others = [value for value in values if not torn(value, separator)]
        parted = any(cell is not None and len(cell) > 1 for cell in in_cells(others, separator))
        readable = not parted and None not in in_cells(values, None)
        mend = f"leave it out: labels: {{column: {column}}}" if readable else "write them as in the other rows"
        raise DataError(
            f"{table.name}: column {column}: {_listed([values[i] for i in lists])} in {table.numbers(lists)}: lists "
            f"that are written out are not parted by a separator ({quoted(separator)}); {mend}"
        )
    grouped = isinstance(config.labels, LabelColumn) and config.labels.grouped
    elsewhere = [cell for other in others for cell in other.column(column)]
    cells = one_each(values) if grouped and separator is None else in_cells(values, separator, elsewhere)
    found = [None if cell is None else names_in(cell) for cell in cells]
    if wrong := [i for i, labels in enumerate(found) if labels is None]:
        expected = f"labels parted by {quoted(separator)}"
        if grouped:
            expected = "a name or a number for each row"
        elif separator is None:
            expected = (
                "a list, such as ['joy', 'anger'], written as in the other rows; if a mark parts its labels, name "
            )
            expected += f'it: labels: {{column: {column}, separator: ";"}}'
        raise DataError(
            f"{table.name}: column {column}: {_listed([values[i] for i in wrong])} in {table.numbers(wrong)}: expected "
            f"{expected}"
        )
    if all(FLAGS.keys() >= set(labels or ()) for labels in found):
        sizes = {len(cell or ()) for cell, value in zip(cells, values, strict=True) if not is_missing(value)}
        if len(sizes) == 1 and min(sizes) > 1:
            raise DataError(
                f"{table.name}: column {column}: each list has {sizes.pop()} zeros and ones: expected the names of "
                "the labels that are on; or give each label a column of its own, and name all of them: labels: [joy, "
                "anger]"
            )
    return [labels or [] for labels in found]


def _flags(table: Table, column: str) -> list[int]:
    values = table.column(column)
    flags = [FLAGS.get(class_name(value) or "", -1) for value in values]
    wrong = [i for i, flag in enumerate(flags) if flag < 0]
    if wrong:
        raise DataError(
            f"{table.name}: column {column}: {_listed([values[i] for i in wrong])} in {table.numbers(wrong)}: of "
            "several label columns, each holds 0 or 1"
        )
    return flags


def _classes(table: Table, column: str, *, older: bool) -> list[str]:
    values = table.column(column)
    classes = [class_name(value, older=older) for value in values]
    wrong = [i for i, label in enumerate(classes) if label is None]
    if wrong:
        raise DataError(
            f"{table.name}: column {column}: {_listed([values[i] for i in wrong])} in {table.numbers(wrong)}: expected "
            f"a name or a number for each row{_also([label for label in classes if label is not None], column)}"
        )
    return [label for label in classes if label is not None]


def _also(classes: Sequence[str], column: str) -> str:
    """That the other classes look joined, where they do: then the empty cells may be right."""
    task = Task("single-label", tuple(sorted(set(classes), key=order)))
    said = list(joined(task, column)) if classes else []
    return "".join(f"; {doubt}" for doubt in said) + ("; an empty cell is a text without labels then" if said else "")


def _listed(values: Sequence[Any]) -> str:
    """Up to three of the values, as they stand in the file."""
    found = list(dict.fromkeys("empty" if value in (None, "") else quoted(value) for value in values[:1000]))
    return ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
