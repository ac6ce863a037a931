"""What is wrong with the files of a study, found before libraries and models are loaded, by the keys that name it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from peftsweep.config import DataConfig
from peftsweep.config.messages import Mistake
from peftsweep.data.checked_files import Checked, keep, known, stamps
from peftsweep.data.dataset import as_older, files, is_of_hub, kept, labelled, read_file, silent
from peftsweep.data.labels import label_array, task_of
from peftsweep.data.row_filters import TEXT, filtered, with_texts
from peftsweep.data.table import MissingColumnsError, Table, missing_columns
from peftsweep.errors import DataError

OWN_KEY = re.compile(r"(data(?:\.\w+)+): (.*)", re.DOTALL)  # of messages that name the key themselves


def mistakes(config: DataConfig) -> list[Mistake]:
    """Everything that can be found wrong in the files: files and columns that are missing, then texts and labels.

    A dataset of the hub is not fetched here; of such a study, only files are checked.
    """
    if known(config):
        return []  # of a study before, which is on the same data
    found: list[Mistake] = []
    tables: dict[str, Table] = {}
    before, said = stamps(config), _Said()
    for key, split in files(config).items():
        with _noted(found, config, key):
            tables[split] = read_file(config, key, said.warn)
    if found or is_of_hub(config):
        return found
    first: list[Mistake] = []
    with _noted(first, config):
        keep(Checked(config, before, labelled(config, tables, said.note, said.warn), said.all))
    if first and as_older(config, tables) is not None:
        return []  # a study of version 0.1 may go on
    return first and (_rows(config, dict(tables)) or first)


class _Said:
    """What there is to be told once the study loads its data."""

    def __init__(self) -> None:
        self.all: list[tuple[Literal["note", "warn"], str]] = []

    def note(self, text: str) -> None:
        self.all.append(("note", text))

    def warn(self, text: str) -> None:
        self.all.append(("warn", text))


def _rows(config: DataConfig, tables: dict[str, Table]) -> list[Mistake]:
    """What is wrong in any of the tables, and not only the first thing."""
    found: list[Mistake] = []
    for name, table in tables.items():
        with _noted(found, config, "filter"):
            tables[name] = filtered(table, config.filter, silent)
        with _noted(found, config, "text"):
            tables[name] = with_texts(tables[name], config.text)
    task = None
    for name in ("train", *(name for name in tables if name != "train")):
        table = tables[name]
        with _noted(found, config, "labels"):
            if TEXT in table.columns:
                table = kept(config, table, tables.values(), silent, silent)
            if name == "train":
                task = task_of(config, table)
            if task is not None:
                label_array(config, table, task)
    return found


@contextmanager
def _noted(found: list[Mistake], config: DataConfig, *key: str) -> Iterator[None]:
    """Note a DataError as a mistake of this key of the section `data`, or of the key that its message begins with."""
    try:
        yield
    except MissingColumnsError as error:
        new = list(_columns(config, error))
    except DataError as error:
        own = OWN_KEY.fullmatch(str(error))
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
