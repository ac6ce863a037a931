"""What is wrong with the files of a study? Found before libraries and models load, and reported by key."""

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

STARTS_WITH_KEY = re.compile(r"(data(?:\.\w+)+): (.*)", re.DOTALL)  # messages that name their key themselves


def find_mistakes(config: DataConfig) -> list[Mistake]:
    """All mistakes in the files: missing files and columns first, then wrong texts and labels.

    Hub datasets are not fetched here: of such a study only the files are checked.
    """
    if cached(config):
        return []  # an earlier study uses the same data
    found: list[Mistake] = []
    tables: dict[str, Table] = {}
    before, recorder = file_stamps(config), _Recorder()
    for key, split in file_keys(config).items():
        with _collected(found, config, key):
            tables[split] = read_file(config, key, recorder.warn)
    if found or is_on_hub(config):
        return found
    first: list[Mistake] = []
    with _collected(first, config):
        keep(CheckedData(config, before, label_splits(config, tables, recorder.note, recorder.warn), recorder.messages))
    if first and load_as_0_1(config, tables) is not None:
        return []  # version 0.1 may have begun the study: it can continue
    return first and (_mistakes_in_rows(config, dict(tables)) or first)


class _Recorder:
    """Keeps notes and warnings until the study loads its data."""

    def __init__(self) -> None:
        self.messages: list[tuple[Literal["note", "warn"], str]] = []

    def note(self, text: str) -> None:
        self.messages.append(("note", text))

    def warn(self, text: str) -> None:
        self.messages.append(("warn", text))


def _mistakes_in_rows(config: DataConfig, tables: dict[str, Table]) -> list[Mistake]:
    """The mistakes in all tables, not just the first one."""
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
    """Record a DataError as a mistake of this key of `data`, or of the key that its message begins with."""
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
        if missing := [column for column in columns if column in error.missing]:
            yield key, str(missing_columns(error.name, missing, error.there))
