"""What the check of a study's data made of its files, kept until the study loads them: they are read and cut once."""

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

Say = Callable[[str], object]
MAX_ROWS = 1_000_000  # rows that wait for being loaded; those of several studies, if they are fewer in all


@dataclass(frozen=True)
class LabelledSplits:
    """The splits by name: tables, and labels of their rows."""

    task: Task
    tables: dict[str, Table]
    labels: dict[str, Labels]

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def fingerprint(self, *names: str) -> str:
        """Sixteen hex digits of all texts and labels of these splits (of all, if none is named), in their order."""
        digest = hashlib.sha256(json.dumps([self.task.kind, self.task.labels]).encode())
        for name in names or self.tables:
            digest.update(json.dumps([name, self.tables[name].column(TEXT)]).encode())
            digest.update(self.labels[name].tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class CheckedData:
    """Rows of a section `data`.

    Attributes:
        stamps: of its files, as they were when they were read.
        said: what there was to be told, in its order.
    """

    config: DataConfig
    stamps: Sequence[object]
    rows: LabelledSplits
    said: Sequence[tuple[Literal["note", "warn"], str]]

    def tell(self, note: Say, warn: Say) -> LabelledSplits:
        for kind, text in self.said:
            {"note": note, "warn": warn}[kind](text)
        return self.rows


_kept: list[CheckedData] = []


def file_stamps(config: DataConfig) -> list[object]:
    """By which it is seen that a file has changed; None for one that is not there."""
    places = (config.source, config.train, config.validation, config.test)
    return [file_stamp(place) for place in places if place is not None]


def keep(checked: CheckedData) -> None:
    _drop(checked.config)
    _kept.append(checked)
    while len(_kept) > 1 and sum(len(one.rows) for one in _kept) > MAX_ROWS:
        del _kept[0]


def cached(config: DataConfig) -> CheckedData | None:
    """What was kept of this section, if its files are as they were."""
    now = file_stamps(config)
    return next((one for one in _kept if one.config == config and one.stamps == now), None)


def take(config: DataConfig) -> CheckedData | None:
    """The same, and no longer kept."""
    found = cached(config)
    _drop(config)
    return found


def _drop(config: DataConfig) -> None:
    _kept[:] = [one for one in _kept if one.config != config]
