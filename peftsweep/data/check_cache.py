"""Which rows did the early check already read? It keeps them until the study loads its data, so files are read once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from peftsweep.config import DataConfig
from peftsweep.data.files import file_stamp
from peftsweep.data.row_filters import TEXT
from peftsweep.data.table import Table
from peftsweep.task import Labels, Task

Report = Callable[[str], object]
MAX_ROWS = 1_000_000  # rows that are kept in total, for one or several studies


@dataclass(frozen=True)
class LabelledSplits:
    """The splits by name: a table each, and the labels of its rows."""

    task: Task
    tables: dict[str, Table]
    labels: dict[str, Labels]

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def fingerprint(self, *names: str) -> str:
        """A hash (16 hex digits) of the texts and labels of these splits (by default all), in their order."""
        digest = hashlib.sha256(json.dumps([self.task.kind, self.task.labels]).encode())
        for name in names or self.tables:
            digest.update(json.dumps([name, self.tables[name].column(TEXT)]).encode())
            digest.update(self.labels[name].tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CheckedData:
    """The rows that a section `data` describes.

    Attributes:
        stamps: the `file_stamps` from before the files were read.
        messages: the notes and warnings about them, in order.
    """

    config: DataConfig
    stamps: Sequence[object]
    rows: LabelledSplits
    messages: Sequence[tuple[Literal["note", "warn"], str]]

    def report(self, note: Report, warn: Report) -> LabelledSplits:
        for kind, text in self.messages:
            {"note": note, "warn": warn}[kind](text)
        return self.rows


_kept: list[CheckedData] = []


def file_stamps(config: DataConfig) -> list[object]:
    """One stamp for each file of the section, which changes with the file; None for a missing file."""
    places = (config.source, config.train, config.validation, config.test)
    return [file_stamp(place) for place in places if place is not None]


def keep(checked: CheckedData) -> None:
    _drop(checked.config)
    _kept.append(checked)
    while len(_kept) > 1 and sum(len(one.rows) for one in _kept) > MAX_ROWS:
        del _kept[0]


def cached(config: DataConfig) -> CheckedData | None:
    """The rows kept for this section, unless its files have changed since."""
    now = file_stamps(config)
    return next((one for one in _kept if one.config == config and one.stamps == now), None)


def take(config: DataConfig) -> CheckedData | None:
    """The same as `cached`, but the rows are no longer kept."""
    found = cached(config)
    _drop(config)
    return found


def _drop(config: DataConfig) -> None:
    _kept[:] = [one for one in _kept if one.config != config]
