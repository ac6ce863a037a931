"""Rows of one text: which are left out, which two splits share, and the same text under several labels."""

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

Say = Callable[[str], object]
NORMALISED_TEXT = "\0copy"  # a second column of texts: those that are equal there are copies
MANY_CONFLICTS = 0.05  # of the texts, from which on it is told


def with_normalised_texts(table: Table, *, as_0_1: bool = False) -> Table:
    """The table, its copies known. Texts are copies if a reader sees no difference: letters with accents may be encoded
    in two ways (NFC, NFD), and spaces may be of any kind and number.

    Args:
        as_0_1: as version 0.1 knew them: by every character.
    """
    texts = table.column(TEXT)
    copies = texts if as_0_1 else [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]
    return Table(table.name, table.columns | {NORMALISED_TEXT: copies}, table.rows)


def conflicting_labels_warning(config: DataConfig, table: Table) -> str | None:
    """What to say where many texts stand in several rows with different labels, as in a table that has a row for each
    label of a text; else None."""
    columns = config.label_columns
    labels, rows = row_labels(table, columns), _rows_of_copies(table)
    torn = [own for own in rows.values() if len({labels[row] for row in own}) > 1]
    if not torn or len(torn) < MANY_CONFLICTS * len(rows):
        return None
    first, *others = torn[0]
    pair = [first, next(row for row in others if labels[row] != labels[first])]
    shown, hint = "", "put all of them into one row"
    if len(columns) == 1:
        shown = f" ({', '.join(quoted(table.column(columns[0])[row]) for row in pair)})"
        key = (config.labels.model_dump(exclude_defaults=True) if isinstance(config.labels, LabelColumn) else {}) | {
            "column": columns[0],
            "grouped": True,
        }
        hint = "this makes one text of its rows: " + in_yaml({"labels": key})
    kept = (
        "only its first row is kept (data.drop_duplicates)" if config.drop_duplicates else "each row counts as a text"
    )
    return (
        f"{len(torn):,} of {len(rows):,} texts ({len(torn) / len(rows):.0%}) stand in several rows with different "
        f"labels, such as {quoted(table.column(TEXT)[first])} in {table.numbers(pair)}{shown}; {kept}. If a text may "
        f"have several labels, {hint}"
    )


def _rows_of_copies(table: Table) -> dict[str, list[int]]:
    """The places of each text's rows."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(table.column(NORMALISED_TEXT)):
        rows.setdefault(text, []).append(row)
    return rows


def merge_labels_of_copies(table: Table, note: Say) -> Table:
    """A row for each text: its first one, with the labels of all."""
    rows, sets = _rows_of_copies(table), table.column(LABEL_SETS)
    if len(rows) < len(table):
        note(f"{table.name}: {len(table):,} rows are {len(rows):,} texts, each with the labels of all its rows")
    first = table.take(own[0] for own in rows.values())
    labels = [list(dict.fromkeys(label for row in own for label in sets[row])) for own in rows.values()]
    return Table(table.name, first.columns | {LABEL_SETS: labels}, first.rows)


def drop_copies(table: Table, columns: Sequence[str], note: Say) -> Table:
    """The first row of each text.

    Args:
        columns: of labels.
    """
    rows, labels = _rows_of_copies(table), row_labels(table, columns)
    if len(rows) < len(table):
        others = sum(labels[row] != labels[own[0]] for own in rows.values() for row in own)
        but = f", {others:,} of them with other labels" if others else ""
        note(f"{table.name}: {len(table) - len(rows):,} rows whose text came before were left out{but}")
    return table.take(own[0] for own in rows.values())


def without_leaks(tables: Mapping[str, Table], note: Say, warn: Say) -> dict[str, Table]:
    """Leave out of training the texts of validation and test. Validation stays as it is, whatever the test has: the
    test steers nothing.

    Raises:
        DataError: nothing is left.
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
    """The places of the texts that the other has too."""
    others = set(other.column(NORMALISED_TEXT))
    return [row for row, text in enumerate(table.column(NORMALISED_TEXT)) if text in others]
