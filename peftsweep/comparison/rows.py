"""All that the page shows, gathered in one pass over the storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftsweep import report
from peftsweep.comparison.groups import Group, group
from peftsweep.comparison.history import History, history
from peftsweep.comparison.leaders import Leader, leader
from peftsweep.comparison.reading import Held
from peftsweep.errors import UsageError
from peftsweep.storage import guarded


@dataclass(frozen=True)
class Comparison:
    """The studies of a storage, side by side.

    Attributes:
        leaders: data by data, best first; studies without a complete trial last.
        groups: one for each data.
        histories: of each study, in the order of `leaders`.
    """

    leaders: list[Leader]
    groups: list[Group]
    histories: list[History]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(storage: str = report.STORAGE, studies: Sequence[str] | None = None) -> Comparison:
    """What the studies, or only those that are named, have come to so far.

    Raises:
        UsageError: nothing is stored there, or not this study.
        StorageError: the storage does not answer.
    """
    with guarded(storage):
        opened, found = report.opened(storage, studies)
        helds = [
            Held(s.study_name, s, s.user_attrs, s.get_trials(deepcopy=False), opened.artifacts / s.study_name)
            for s in found
        ]
        if not helds:
            raise UsageError(f"nothing is stored in {storage} yet; to begin: peftsweep run --study demo")
        by_data: dict[str | None, list[Held]] = {}
        for held in helds:
            by_data.setdefault(held.fingerprint, []).append(held)
        leaders: list[Leader] = []
        groups: list[Group] = []
        for same in by_data.values():
            groups.append(group(same))
            places = {name: place for place, name in enumerate(groups[-1].studies)}
            leaders += [
                leader(held, groups[-1].intervals.get(held.name))
                for held in sorted(same, key=lambda held: (places.get(held.name, len(places)), held.name))
            ]
        by_name = {held.name: held for held in helds}
        return Comparison(leaders, groups, [history(by_name[row.study]) for row in leaders])
