"""How is everything that the page shows gathered, in one pass over the storage?"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from peftsweep.comparison.compare import Group, group
from peftsweep.comparison.history import History, history
from peftsweep.comparison.leaderboard import Leader, leader
from peftsweep.comparison.study_data import Held
from peftsweep.storage import guarded
from peftsweep.study import results


@dataclass(frozen=True)
class Comparison:
    """The studies of a storage.

    Attributes:
        leaders: group by group, the best first; in each, studies without a complete trial come last.
        groups: one for each set of validation rows.
        histories: one for each study, in the order of `leaders`.
        only: the studies that were asked for; None for all.
    """

    leaders: list[Leader]
    groups: list[Group]
    histories: list[History]
    only: list[str] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"leaders": [leader.as_dict() for leader in self.leaders]}


def compare(
    storage: str = results.STORAGE, studies: Sequence[str] | None = None, warn: results.Warn = results.unheard
) -> Comparison:
    """Compare all studies, or only the named ones, as they are now.

    Args:
        warn: called with a line about each thing in the storage that cannot be used.

    Raises:
        UsageError: nothing is stored there, or a named study is not.
        StorageError: the storage does not answer.
    """
    with guarded(storage), _collecting_seldom():
        opened, found = results.opened(storage, studies, warn)
        studied, scored = {study.study_name: study for study in found}, results.validation_fingerprints(found)
        helds = [
            Held(name, study, study.record, study.records(), opened.folder(name), scored[name])
            for name, study in studied.items()
        ]
        by_rows: dict[str, list[Held]] = {}
        for held in helds:
            by_rows.setdefault(held.validation_fingerprint, []).append(held)
        groups = sorted(
            map(group, by_rows.values()), key=lambda group: not group.studies
        )  # the sort keeps the order of names
        ordered = [(group, held) for group in groups for held in _ordered(group, by_rows[group.validation_fingerprint])]
        return Comparison(
            [leader(held, group.intervals, group.untested.get(held.name)) for group, held in ordered],
            groups,
            [history(held) for _, held in ordered],
            None if studies is None else list(studies),
        )


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Collect garbage less often inside the block. Tens of thousands of trials are read into objects that stay, and at
    Python's usual pace the collector takes as long as the reading."""
    usual = gc.get_threshold()
    gc.set_threshold(max(usual[0], 50_000) if usual[0] else 0, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _ordered(group: Group, helds: Sequence[Held]) -> list[Held]:
    """The studies of a group, the best first. Those without a complete trial come last, by name."""
    places = {name: place for place, name in enumerate(group.studies)}
    return sorted(helds, key=lambda held: (places.get(held.name, len(places)), held.name))
