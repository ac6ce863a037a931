"""What is wrong with the files of a study, found before libraries and models are loaded, by the keys that name it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from peftsweep.config import DataConfig
from peftsweep.config.messages import Mistake
from peftsweep.data.check_cache import CheckedData, cached, file_stamps, keep
from peftsweep.data.dataset import file_keys, ignore, is_on_hub, label_splits, load_as_0_1, merge_copies, read_file
from peftsweep.data.labels import label_array, task_of
from peftsweep.data.row_filters import TEXT, filter_rows, with_checked_texts
from peftsweep.data.table import MissingColumnsError, Table, missing_columns
from peftsweep.errors import DataError

STARTS_WITH_KEY = re.compile(r"(data(?:\.\w+)+): (.*)", re.DOTALL)  # of messages that name the key themselves


def find_mistakes(config: DataConfig) -> list[Mistake]:
    """Everything that can be found wrong in the files: files and columns that are missing, then texts and labels.

    A dataset of the hub is not fetched here; of such a study, only files are checked.
    """
    if cached(config):
        return []  # of a study before, which is on the same data
    found: list[Mistake] = []
    tables: dict[str, Table] = {}
    before, said = file_stamps(config), _Recorder()
    for key, split in file_keys(config).items():
        with _collected(found, config, key):
            tables[split] = read_file(config, key, said.warn)
    if found or is_on_hub(config):
        return found
    first: list[Mistake] = []
    with _collected(first, config):
        keep(CheckedData(config, before, label_splits(config, tables, said.note, said.warn), said.all))
    if first and load_as_0_1(config, tables) is not None:
        return []  # a study of version 0.1 may go on
    return first and (_mistakes_in_rows(config, dict(tables)) or first)


class _Recorder:
    """What there is to be told once the study loads its data."""

    def __init__(self) -> None:
        self.all: list[tuple[Literal["note", "warn"], str]] = []

    def note(self, text: str) -> None:
        self.all.append(("note", text))

    def warn(self, text: str) -> None:
        self.all.append(("warn", text))


def _mistakes_in_rows(config: DataConfig, tables: dict[str, Table]) -> list[Mistake]:
    """What is wrong in any of the tables, and not only the first thing."""
    found: list[Mistake] = []
    for name, table in tables.items():
        with _collected(found, config, "filter"):
            tables[name] = filter_rows(table, config.filter, ignore)
        with _collected(found, config, "text"):
            tables[name] = with_checked_texts(tables[name], config.text)
    task = None
    for name in ("train", *(name for name in tables if name != "train")):
        table = tables[name]
        with _collected(found, config, "labels"):
            if TEXT in table.columns:
                table = merge_copies(config, table, tables.values(), ignore, ignore)
            if name == "train":
                task = task_of(config, table)
            if task is not None:
                label_array(config, table, task)
    return found


@contextmanager
def _collected(found: list[Mistake], config: DataConfig, *key: str) -> Iterator[None]:
    """Note a DataError as a mistake of this key of the section `data`, or of the key that its message begins with."""
    try:
        yield
    except MissingColumnsError as error:
        new = list(_columns(config, error))
    except DataError as error:
        own = STARTS_WITH_KEY.fullmatch(str(error))
        new = [(tuple(own[1].split(".")), own[2]) if own else (("data", *key), str(error))]
    else:
        new = []
    found.extend(mistake for mistake in new if mistake not in found)  # one file may be train and validation


def _columns(config: DataConfig, error: MissingColumnsError) -> Iterator[Mistake]:
    """A mistake for each key that names a missing column."""
    named: dict[tuple[str, ...], Sequence[str]] = {
        ("data", "text"): [config.text],
        ("data", "labels"): config.label_columns,
        **{("data", "filter", column): [column] for column in config.filter},
    }
    for key, columns in named.items():
        if absent := [column for column in columns if column in error.absent]:
            yield key, str(missing_columns(error.name, absent, error.there))
