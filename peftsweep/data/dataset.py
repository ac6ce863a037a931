"""How do a study's files or hub dataset become tokenised splits?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import DataConfig, LabelColumn, SplitConfig
from peftsweep.data.check_cache import LabelledSplits, take
from peftsweep.data.decoding import TextFormat
from peftsweep.data.duplicates import (
    NORMALISED_TEXT,
    conflicting_labels_warning,
    drop_copies,
    merge_labels_of_copies,
    with_normalised_texts,
    without_leaks,
)
from peftsweep.data.files import read_table
from peftsweep.data.hub import HUB, read_hub
from peftsweep.data.labels import label_array, task_of, with_label_sets
from peftsweep.data.row_filters import filter_rows, with_checked_texts
from peftsweep.data.splits import split_table
from peftsweep.data.suspect_labels import label_warnings
from peftsweep.data.table import Table
from peftsweep.data.unknown_tokens import unknown_token_warning
from peftsweep.errors import DataError
from peftsweep.task import Labels, Task

Report = Callable[[str], object]
CHUNK = 4096  # texts per call of the tokenizer


@dataclass(frozen=True)
class Split:
    """n texts, their labels (float32 [n, C] or int64 [n]) and token ids."""

    texts: tuple[str, ...]
    labels: Labels
    input_ids: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Dataset:
    """Splits for training and validation, and perhaps one for the test.

    Attributes:
        fingerprint: a hash of the texts and labels of all splits.
        validation_fingerprint: a hash of the validation rows and of the names of all labels. Scores are comparable if
            it is equal.
    """

    task: Task
    train: Split
    validation: Split
    test: Split | None
    fingerprint: str
    validation_fingerprint: str

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows in each split."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}


def load(config: DataConfig, tokenizer: Any, *, note: Report, warn: Report, resumed: str | None = None) -> Dataset:
    """Read, check, split and tokenise.

    Args:
        tokenizer: a `transformers` tokenizer.
        note: receives what was left out.
        warn: receives what may spoil the results.
        resumed: the fingerprint of a study that is continued. If version 0.1 began the study and this version would
            read or split its rows differently, they are read and split as in version 0.1.

    Raises:
        DataError: the first mistake, with file, column and rows.
    """
    rows = _read_or_resume(config, note, warn, resumed)
    splits = {name: _tokenise(config, table, rows.labels[name], tokenizer, note) for name, table in rows.tables.items()}
    if warning := unknown_token_warning(splits["train"].input_ids, tokenizer):
        warn(f"{rows.tables['train'].name}: column {config.text}: {warning}")
    return Dataset(
        rows.task,
        splits["train"],
        splits["validation"],
        splits.get("test"),
        rows.fingerprint(),
        rows.fingerprint("validation"),
    )


def label_splits(
    config: DataConfig, read: dict[str, Table], note: Report, warn: Report, *, as_0_1: bool = False
) -> LabelledSplits:
    """The splits and their labels.

    Args:
        read: the tables of the files, or of the splits of a hub dataset, by split.

    Raises:
        DataError: the first mistake.
    """
    tables = without_leaks(_splits(config, read, note, warn, as_0_1=as_0_1), note, warn)
    task = task_of(config, tables["train"], as_0_1=as_0_1)
    if len(config.label_columns) == 1:
        (column,) = config.label_columns
        for doubt in label_warnings(task, column):
            warn(f"{tables['train'].name}: column {column}: {doubt}")
    labels = {name: label_array(config, table, task, as_0_1=as_0_1) for name, table in tables.items()}
    _check_every_label_occurs(task, tables, labels, warn)
    return LabelledSplits(task, tables, labels)


def _read_or_resume(config: DataConfig, note: Report, warn: Report, resumed: str | None) -> LabelledSplits:
    as_0_1: LabelledSplits | None = None
    try:
        if checked := take(config):
            rows = checked.report(note, warn)
        else:
            rows = label_splits(config, _read(config, note, warn), note, warn)
    except DataError:  # for example, a filter that keeps no row in this version
        if (as_0_1 := _as_stored(config, resumed)) is None:
            raise
    else:
        if resumed in (None, rows.fingerprint()) or (as_0_1 := _as_stored(config, resumed)) is None:
            return rows
    warn(
        f"{config.name}: the study continues with the rows that an earlier version chose for it. That version put "
        "copies of a text into several splits, gave true and false other names, or kept other rows by a filter; a new "
        "study is better"
    )
    return as_0_1


def _as_stored(config: DataConfig, fingerprint: str | None) -> LabelledSplits | None:
    """The rows as version 0.1 read and split them, if their fingerprint is the given one."""
    rows = None if fingerprint is None else load_as_0_1(config)
    return rows if rows is not None and rows.fingerprint() == fingerprint else None


def load_as_0_1(config: DataConfig, read: dict[str, Table] | None = None) -> LabelledSplits | None:
    """The rows as version 0.1 read and split them; None if it rejected them.

    Args:
        read: the tables of the files as this version reads them. Version 0.1 differed only in Parquet files.
    """
    with contextlib.suppress(DataError):
        if read is None or any(getattr(config, key).lower().endswith(".parquet") for key in file_keys(config)):
            read = _read(config, ignore, ignore, as_0_1=True)
        return label_splits(config, read, ignore, ignore, as_0_1=True)
    return None


def ignore(text: str) -> None:
    """Drops a message that is reported elsewhere: when the study began, or when it loads its data."""


def _read(config: DataConfig, note: Report, warn: Report, *, as_0_1: bool = False) -> dict[str, Table]:
    tables = read_hub(config, used_columns(config), note) if is_on_hub(config) else {}
    return tables | {split: read_file(config, key, warn, as_0_1=as_0_1) for key, split in file_keys(config).items()}


def is_on_hub(config: DataConfig) -> bool:
    return config.source is not None and config.source.startswith(HUB)


def file_keys(config: DataConfig) -> dict[str, str]:
    """The keys of the section `data` that name files, with the split of each."""
    splits = {"source": "train", "train": "train", "validation": "validation", "test": "test"}
    given = {key: split for key, split in splits.items() if getattr(config, key) is not None}
    return {key: split for key, split in given.items() if key != "source" or not is_on_hub(config)}


def used_columns(config: DataConfig) -> list[str]:
    """The columns that the study reads."""
    return list(dict.fromkeys([config.text, *config.label_columns, *config.filter]))


def read_file(config: DataConfig, key: str, warn: Report, *, as_0_1: bool = False) -> Table:
    form = TextFormat(config.encoding, config.quoting)
    return read_table(getattr(config, key), f"data.{key}", used_columns(config), form, warn, as_0_1=as_0_1)


def _splits(
    config: DataConfig, read: dict[str, Table], note: Report, warn: Report, *, as_0_1: bool
) -> dict[str, Table]:
    """The splits as tables with checked texts, by name."""
    whole = {
        name: with_checked_texts(filter_rows(table, config.filter, note, as_0_1=as_0_1), config.text)
        for name, table in read.items()
    }
    tables = {
        name: merge_copies(config, table, whole.values(), note, warn, as_0_1=as_0_1) for name, table in whole.items()
    }
    if config.split is None and "validation" in tables:
        return _in_order(tables)
    split, source = config.split or SplitConfig(), tables.pop("train")
    for name in ("validation", "test"):
        if name in tables and getattr(split, name) is not None:
            note(
                f"data.split: {name} is split off from {config.source}'s train split; its own {name} split is not used"
            )
            del tables[name]
    if not as_0_1:
        source = without_leaks({"train": source} | tables, note, warn)["train"]
    labels = label_array(config, source, task_of(config, source, as_0_1=as_0_1), as_0_1=as_0_1)
    return _in_order(tables | split_table(source, source.column(NORMALISED_TEXT), labels, split, note, as_0_1=as_0_1))


def merge_copies(
    config: DataConfig, table: Table, others: Iterable[Table], note: Report, warn: Report, *, as_0_1: bool = False
) -> Table:
    """The rows of a source before it is split, with copies of a text merged or dropped as the study says.

    Args:
        others: all tables of the study. They show how lists of labels are written.
    """
    table = with_normalised_texts(with_label_sets(config, table, others), as_0_1=as_0_1)
    if isinstance(config.labels, LabelColumn) and config.labels.grouped:
        return merge_labels_of_copies(table, note)
    if warning := conflicting_labels_warning(config, table):
        warn(f"{table.name}: {warning}")
    return drop_copies(table, config.label_columns, note) if config.drop_duplicates else table


def _in_order(tables: dict[str, Table]) -> dict[str, Table]:
    return {name: tables[name] for name in ("train", "validation", "test") if name in tables}


def _check_every_label_occurs(task: Task, tables: dict[str, Table], labels: dict[str, Labels], warn: Report) -> None:
    for name, table in tables.items():
        counts = labels[name].sum(axis=0) if task.multi_label else np.bincount(labels[name], minlength=len(task.labels))
        absent = [label for label, count in zip(task.labels, counts, strict=True) if count == 0]
        if absent and name == "train":
            raise DataError(f"{table.name}: no row for training has the label {', '.join(absent)}; leave it out")
        if absent:
            warn(
                f"{table.name}: no row for {name} has the label {', '.join(absent)}: its F1 there is 0, which "
                "lowers the macro-F1 of every trial"
            )


def _tokenise(config: DataConfig, table: Table, labels: Labels, tokenizer: Any, note: Report) -> Split:
    texts: list[str] = table.column(config.text)
    input_ids: list[NDArray[np.int64]] = []
    for start in range(0, len(texts), CHUNK):
        ids = tokenizer(texts[start : start + CHUNK], truncation=True, max_length=config.max_length)["input_ids"]
        input_ids += [np.array(text, dtype=np.int64) for text in ids]
    empty = [i for i, ids in enumerate(input_ids) if len(ids) == 0]
    if empty:
        raise DataError(f"{table.name}: column {config.text}: {table.numbers(empty)} gave no token at all")
    truncated = sum(len(ids) >= config.max_length for ids in input_ids)
    if truncated > len(texts) // 20:
        share = truncated / len(texts)
        note(f"{table.name}: {share:.0%} of the texts are truncated at data.max_length: {config.max_length} tokens")
    return Split(tuple(texts), labels, tuple(input_ids))
