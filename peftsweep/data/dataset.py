"""A study's data: from its sources to tokenised splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import DataConfig, SplitConfig
from peftsweep.data.decoding import Form
from peftsweep.data.doubts import doubts
from peftsweep.data.hub import HUB, read_hub
from peftsweep.data.labels import label_array, task_of
from peftsweep.data.reading import read
from peftsweep.data.rows import deduplicated, filtered, with_texts, without_leaks
from peftsweep.data.table import Table
from peftsweep.errors import DataError
from peftsweep.task import Labels, Task, stratified

Say = Callable[[str], object]
CHUNK = 4096  # texts tokenised at once


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
    """Splits for training and validation, maybe one for the test.

    Attributes:
        fingerprint: stands for the texts and labels of all of them.
        validation_fingerprint: of the validation rows alone, and of all labels: on those, scores are compared.
    """

    task: Task
    train: Split
    validation: Split
    test: Split | None
    fingerprint: str
    validation_fingerprint: str


def load(config: DataConfig, tokenizer: Any, *, note: Say, warn: Say) -> Dataset:
    """Read, check, split and tokenise.

    Args:
        tokenizer: a `transformers` tokenizer.
        note: told what was left out.
        warn: told what may spoil the results.

    Raises:
        DataError: the first thing that is wrong, with file, column and rows.
    """
    tables = without_leaks(_tables(config, note, warn), note, warn)
    task = task_of(config, tables["train"])
    if len(config.label_columns) == 1:
        (column,) = config.label_columns
        for doubt in doubts(task, column):
            warn(f"{tables['train'].name}: column {column}: {doubt}")
    labels = {name: label_array(config, table, task) for name, table in tables.items()}
    _check_classes(task, tables, labels, warn)
    splits = {name: _tokenised(config, table, labels[name], tokenizer, note) for name, table in tables.items()}
    return Dataset(
        task,
        splits["train"],
        splits["validation"],
        splits.get("test"),
        _fingerprint(task, splits),
        _fingerprint(task, {"validation": splits["validation"]}),
    )


def _tables(config: DataConfig, note: Say, warn: Say) -> dict[str, Table]:
    """The splits as tables, by name, their texts checked."""
    wanted = list(dict.fromkeys([config.text, *config.label_columns, *config.filter]))

    def local(key: str, place: str) -> Table:
        return read(place, f"data.{key}", wanted, Form(config.encoding, config.quoting), warn)

    if config.source is not None and config.source.startswith(HUB):
        tables = read_hub(config, wanted, note)
    elif config.source is not None:
        tables = {"train": local("source", config.source)}
    else:
        assert config.train is not None
        tables = {"train": local("train", config.train)}
        if config.validation is not None:
            tables["validation"] = local("validation", config.validation)
    if config.test is not None:
        tables["test"] = local("test", config.test)
    tables = {name: with_texts(filtered(table, config.filter, note), config.text) for name, table in tables.items()}
    if config.drop_duplicates:
        tables = {name: deduplicated(table, note) for name, table in tables.items()}
    if config.split is not None or "validation" not in tables:
        cut = _cut(tables.pop("train"), config, config.split or SplitConfig())
        for name in tables.keys() & cut.keys():
            note(f"data.split: {name} is cut from {config.source}'s training split; its own is not used")
        tables |= cut
    return {name: tables[name] for name in ("train", "validation", "test") if name in tables}


def _cut(table: Table, config: DataConfig, split: SplitConfig) -> dict[str, Table]:
    """Cut a table by label into test (if asked for), validation and train, in this order."""
    labels = label_array(config, table, task_of(config, table))
    left = np.arange(len(table))
    parts: dict[str, Table] = {}
    for name in ("test", "validation", "train"):
        size = getattr(split, name)
        if size is None:
            if name == "train":
                parts[name] = table.take(left)
            continue
        rows = size if isinstance(size, int) else max(1, round(size * len(table)))
        if name == "train" and isinstance(size, float) and rows == len(left) + 1:
            rows -= 1  # the fractions were rounded up, all of them
        if rows > len(left) or (rows == len(left) and name != "train"):
            raise DataError(
                f"data.split.{name}: {table.name} has {len(table):,} rows, of which {len(left):,} are left for "
                f"{name}; it cannot take {rows:,}"
            )
        chosen = np.arange(len(left)) if rows == len(left) else stratified(labels[left], rows, split.seed)
        parts[name] = table.take(left[chosen])
        left = np.delete(left, chosen)
    return parts


def _check_classes(task: Task, tables: dict[str, Table], labels: dict[str, Labels], warn: Say) -> None:
    for name, table in tables.items():
        counts = labels[name].sum(axis=0) if task.multi_label else np.bincount(labels[name], minlength=len(task.labels))
        absent = [label for label, count in zip(task.labels, counts, strict=True) if count == 0]
        if absent and name == "train":
            raise DataError(f"{table.name}: no row for training has the label {', '.join(absent)}; leave it out")
        if absent:
            warn(
                f"{table.name}: no row for {name} has the label {', '.join(absent)}: its F1 there is 0 and lowers "
                "macro-F1 in every trial alike"
            )


def _tokenised(config: DataConfig, table: Table, labels: Labels, tokenizer: Any, note: Say) -> Split:
    texts: list[str] = table.column(config.text)
    input_ids: list[NDArray[np.int64]] = []
    for start in range(0, len(texts), CHUNK):
        ids = tokenizer(texts[start : start + CHUNK], truncation=True, max_length=config.max_length)["input_ids"]
        input_ids += [np.array(text, dtype=np.int64) for text in ids]
    void = [i for i, ids in enumerate(input_ids) if len(ids) == 0]
    if void:
        raise DataError(f"{table.name}: column {config.text}: {table.numbers(void)} gave no token at all")
    longest = sum(len(ids) >= config.max_length for ids in input_ids)
    if longest > len(texts) // 20:
        share = longest / len(texts)
        note(f"{table.name}: {share:.0%} of the texts are cut at data.max_length: {config.max_length} tokens")
    return Split(tuple(texts), labels, tuple(input_ids))


def _fingerprint(task: Task, splits: dict[str, Split]) -> str:
    """Sixteen hex digits of all texts and labels, in their order."""
    digest = hashlib.sha256(json.dumps([task.kind, task.labels]).encode())
    for name, split in splits.items():
        digest.update(json.dumps([name, split.texts]).encode())
        digest.update(split.labels.tobytes())
    return digest.hexdigest()[:16]
