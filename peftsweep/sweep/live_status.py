"""How far is a sweep, and how long will the rest take? Put together from what its workers report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from peftsweep.engine import Progressed, SlotStatus
from peftsweep.progress import SweepStatus
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.study.results import done, ranked
from peftsweep.sweep.time_left import Pace, survival_rates, time_left
from peftsweep.sweep.trial_supply import TrialSupply


class TrialCounts(NamedTuple):
    """A study's trials and their counts. They are valid until a trial starts or ends."""

    trials: list[TrialRecord]
    begun: int
    done: int
    best: tuple[int, float] | None  # number and objective

    @classmethod
    def of(cls, trials: list[TrialRecord]) -> TrialCounts:
        best = [(trial.number, trial.value or 0.0) for trial in ranked(trials)[:1]]
        return cls(trials, sum(trial.begun for trial in trials), done(trials), best[0] if best else None)


class RemainingTime:
    """Estimates the time left.

    Args:
        halving: the pruner, if there is one.
        deadline: no trial starts after this time of `time.monotonic`.
    """

    def __init__(self, halving: Halving | None, deadline: float) -> None:
        self.pace, self._halving, self._deadline = Pace(), halving, deadline

    def update(self, event: Progressed, upcoming: int, trials: Sequence[TrialRecord]) -> float | None:
        """Record some steps; returns the seconds until the last trial ends, or None if they cannot be estimated yet.

        Args:
            upcoming: number of trials that have not started.
            trials: all trials of the study.
        """
        self.pace.add_trials(event.slots)
        self.pace.add_steps(event.steps)
        rates = survival_rates(trials, self._halving, self.pace.typical_trial().evaluations)
        return time_left(self.pace, event.slots, upcoming, rates, self._deadline - time.monotonic())


class LiveStatus:
    """The status of a running sweep.

    Args:
        halving: the pruner, if there is one.
    """

    def __init__(self, halving: Halving | None, supply: TrialSupply) -> None:
        self._halving, self._supply = halving, supply
        self._counts: TrialCounts | None = None  # None when trials have changed since
        self._slots: dict[int, Sequence[SlotStatus]] = {}  # each worker's, at its last report
        self._remaining: dict[int, RemainingTime] = {}  # each worker's
        self._left: dict[int, float | None] = {}  # seconds left by each worker's pace

    def outdate(self) -> None:
        """Trials have started or ended."""
        self._counts = None

    def ended(self, worker: int, status: SlotStatus) -> None:
        """A trial has left its slot, whose last status is given."""
        self._of(worker).pace.add_trials([status])
        self.outdate()

    def forget(self, worker: int) -> None:
        for kept in (self._slots, self._remaining, self._left):
            kept.pop(worker, None)

    def update(self, event: Progressed, worker: int) -> SweepStatus:
        """The status after a worker's report."""
        if self._counts is None:  # nothing trains while the storage is read
            self._counts = TrialCounts.of(self._supply.trials())
        trials, begun, done, best = self._counts
        self._slots[worker] = event.slots
        upcoming = -(-self._supply.upcoming(begun) // len(self._slots))  # as if workers shared the rest evenly
        self._left[worker] = self._of(worker).update(event, upcoming, trials)
        known = [left for left in self._left.values() if left is not None]
        slots = [slot for each in self._slots.values() for slot in each]
        return SweepStatus(slots, done, self._supply.total, best, max(known, default=None))

    def _of(self, worker: int) -> RemainingTime:
        if worker not in self._remaining:
            self._remaining[worker] = RemainingTime(self._halving, self._supply.deadline)
        return self._remaining[worker]
