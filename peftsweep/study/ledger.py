"""What does a sweep ask about all of its trials after every event? Counts and orders that change with the trials."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

from peftsweep.storage import StoredStudy, TrialRecord
from peftsweep.study.pruner import Rungs
from peftsweep.trial_state import TrialState


class Ledger:
    """Counts and orders of a study's trials.

    For a study in memory (`Studies.hold`), an answer takes the time of what has changed since the last one, however
    many trials there are.
    """

    def __init__(self, study: StoredStudy) -> None:
        self._study = study
        self._trials: dict[int, TrialRecord] = {}
        self._order: list[tuple[float, int]] = []  # of complete trials: value, with its sign changed, and number
        self._begun = self._ended = 0
        self._highest = -1  # number
        self._seen = 0  # changes; see `StoredStudy.changes`
        self._rungs = Rungs()

    @property
    def begun(self) -> int:
        """Number of trials that count towards the study's total; see `TrialRecord.begun`."""
        self._refresh()
        return self._begun

    @property
    def done(self) -> int:
        """How many of them have ended."""
        self._refresh()
        return self._ended

    def is_over(self, total: int) -> bool:
        """Whether at least `total` trials have begun, and all of them have ended."""
        self._refresh()
        return self._begun >= total and self._begun == self._ended

    @property
    def rungs(self) -> Rungs:
        """The values at each evaluation of all trials that have not failed."""
        self._refresh()
        return self._rungs

    def best(self, first: int, last: int) -> list[TrialRecord]:
        """Complete trials from one place of the ranking, counted from 0, to before another."""
        self._refresh()
        return [self._trials[number] for _, number in self._order[first:last]]

    def latest(self, count: int) -> Sequence[TrialRecord]:
        """The trials among the highest `count` numbers."""
        self._refresh()
        numbers = range(self._highest - count + 1, self._highest + 1)
        return [self._trials[number] for number in numbers if number in self._trials]

    def _refresh(self) -> None:
        changes, self._seen = self._study.changes(self._seen)
        for number, record in changes.items():
            before = self._trials.pop(number, None)
            if before is not None:
                self._count(before, -1)
            if record is not None:
                self._trials[number] = record
                self._highest = max(self._highest, number)
                self._count(record, 1)

    def _count(self, trial: TrialRecord, by: int) -> None:
        """Add a trial to the counts (1), or take it out (-1)."""
        self._begun += by * trial.begun
        self._ended += by * (trial.begun and trial.state.finished)
        if trial.state != TrialState.FAILED:
            self._rungs.count(trial.reported, by)
        if trial.state == TrialState.COMPLETE:
            place = (-(trial.value or 0.0), trial.number)
            if by > 0:
                insort(self._order, place)
            else:
                del self._order[bisect_left(self._order, place)]
