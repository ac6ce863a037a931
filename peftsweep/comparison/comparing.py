"""How is everything that the page shows gathered, in one pass over the storage?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftsweep.comparison.groups import Group, group
from peftsweep.comparison.history import History, history
from peftsweep.comparison.leaderboard import Leader, leader
from peftsweep.comparison.study_data import StudyData
from peftsweep.storage import guarded
from peftsweep.study import results
from peftsweep.system.default_places import STORAGE
from peftsweep.system.garbage import collected_seldom


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
    storage: str = STORAGE, studies: Sequence[str] | None = None, warn: results.Warn = results.unheard
) -> Comparison:
    """Compare all studies, or only the named ones, as they are now.

    Args:
        warn: called with a line about each thing in the storage that cannot be used.

    Raises:
        UsageError: nothing is stored there, or a named study is not.
        StorageError: the storage does not answer.
    """
    with guarded(storage), collected_seldom():
        opened, found = results.opened(storage, studies, warn)
        fingerprints = results.validation_fingerprints(found)
        by_rows: dict[str, list[StudyData]] = {}
        for stored in found:
            name = stored.study_name
            study = StudyData(name, stored, stored.record, stored.records(), opened.folder(name), fingerprints[name])
            by_rows.setdefault(study.validation_fingerprint, []).append(study)
        # The sort keeps the order of names.
        groups = sorted(map(group, by_rows.values()), key=lambda group: not group.studies)
        ordered = [(group, each) for group in groups for each in _ordered(group, by_rows[group.validation_fingerprint])]
        return Comparison(
            [leader(each, group.intervals, group.untested.get(each.name)) for group, each in ordered],
            groups,
            [history(each) for _, each in ordered],
            None if studies is None else list(studies),
        )


def _ordered(group: Group, studies: Sequence[StudyData]) -> list[StudyData]:
    """The studies of a group, the best first. Those without a complete trial come last, by name."""
    places = {name: place for place, name in enumerate(group.studies)}
    return sorted(studies, key=lambda study: (places.get(study.name, len(places)), study.name))
