"""Which rows hold the same text, and are they merged, dropped, or in two splits at once?"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence

from peftsweep.config import DataConfig, LabelColumn
from peftsweep.data.labels import LABEL_SETS, row_labels
from peftsweep.data.row_filters import TEXT
from peftsweep.data.suspect_labels import in_yaml
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted

Report = Callable[[str], object]
NORMALISED_TEXT = "\0copy"  # an added column: rows that are equal here hold copies of one text
MANY_CONFLICTS = 0.05  # share of the texts above which to warn


def with_normalised_texts(table: Table, *, as_0_1: bool = False) -> Table:
    """The table with a column `NORMALISED_TEXT`, in which copies of a text are equal.

    Texts are copies if a reader sees no difference: accented letters may be encoded in two ways (NFC, NFD), and spaces
    may differ in kind and number.

    Args:
        as_0_1: compare every character, as version 0.1 did.
    """
    texts = table.column(TEXT)
    copies = texts if as_0_1 else [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]
    return Table(table.name, table.columns | {NORMALISED_TEXT: copies}, table.rows)


def conflicting_labels_warning(config: DataConfig, table: Table) -> str | None:
    """A warning if many texts have several rows with different labels, as in a table with one row for each label of a
    text; else None."""
    columns = config.label_columns
    labels, rows = row_labels(table, columns), _rows_of_copies(table)
    conflicts = [own for own in rows.values() if len({labels[row] for row in own}) > 1]
    if not conflicts or len(conflicts) < MANY_CONFLICTS * len(rows):
        return None
    first, *others = conflicts[0]
    pair = [first, next(row for row in others if labels[row] != labels[first])]
    shown, hint = "", "put all of them into one row"
    if len(columns) == 1:
        shown = f" ({', '.join(quoted(table.column(columns[0])[row]) for row in pair)})"
        key = (config.labels.model_dump(exclude_defaults=True) if isinstance(config.labels, LabelColumn) else {}) | {
            "column": columns[0],
            "grouped": True,
        }
        hint = "this merges the rows of a text: " + in_yaml({"labels": key})
    kept = (
        "only its first row is kept (data.drop_duplicates)" if config.drop_duplicates else "each row counts as a text"
    )
    return (
        f"{len(conflicts):,} of {len(rows):,} texts ({len(conflicts) / len(rows):.0%}) are in several rows with "
        f"different labels, such as {quoted(table.column(TEXT)[first])} in {table.numbers(pair)}{shown}; {kept}. "
        f"If a text may have several labels, {hint}"
    )


def _rows_of_copies(table: Table) -> dict[str, list[int]]:
    """The positions of the rows of each text."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(table.column(NORMALISED_TEXT)):
        rows.setdefault(text, []).append(row)
    return rows


def merge_labels_of_copies(table: Table, note: Report) -> Table:
    """One row for each text: its first row, with the labels of all its rows."""
    rows, sets = _rows_of_copies(table), table.column(LABEL_SETS)
    if len(rows) < len(table):
        note(f"{table.name}: {len(table):,} rows are {len(rows):,} texts, each with the labels of all its rows")
    first = table.take(own[0] for own in rows.values())
    labels = [list(dict.fromkeys(label for row in own for label in sets[row])) for own in rows.values()]
    return Table(table.name, first.columns | {LABEL_SETS: labels}, first.rows)


def drop_copies(table: Table, columns: Sequence[str], note: Report) -> Table:
    """The first row of each text.

    Args:
        columns: the label columns.
    """
    rows, labels = _rows_of_copies(table), row_labels(table, columns)
    if len(rows) < len(table):
        others = sum(labels[row] != labels[own[0]] for own in rows.values() for row in own)
        but = f", {others:,} of them with other labels" if others else ""
        note(f"{table.name}: {len(table) - len(rows):,} rows repeat an earlier text and were left out{but}")
    return table.take(own[0] for own in rows.values())


def without_leaks(tables: Mapping[str, Table], note: Report, warn: Report) -> dict[str, Table]:
    """Remove the texts of validation and test from training.

    Validation keeps texts that are in the test split too, because the test split must not influence anything.

    Raises:
        DataError: no rows are left.
    """
    left = dict(tables)
    for name in ("validation", "test"):
        shared = _rows_shared_with(left["train"], tables[name]) if name in tables else []
        if not shared:
            continue
        table = left["train"]
        left["train"] = table.take(sorted(set(range(len(table))) - set(shared)))
        texts = "1 text is" if len(shared) == 1 else f"{len(shared):,} texts are"
        note(f"{table.name}: {texts} in {name} too and left out of train: {table.numbers(shared)}")
        if not left["train"]:
            raise DataError(f"{table.name}: no rows are left: all its texts are in {name} too")
    if {"validation", "test"} <= tables.keys() and (shared := _rows_shared_with(tables["validation"], tables["test"])):
        table, texts = tables["validation"], "1 text is" if len(shared) == 1 else f"{len(shared):,} texts are"
        warn(f"{table.name}: {texts} in test too, which flatters the score there: {table.numbers(shared)}")
    return left


def _rows_shared_with(table: Table, other: Table) -> list[int]:
    """The positions of the rows whose text the other table has too."""
    others = set(other.column(NORMALISED_TEXT))
    return [row for row, text in enumerate(table.column(NORMALISED_TEXT)) if text in others]
