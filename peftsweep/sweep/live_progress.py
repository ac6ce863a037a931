"""How far is a sweep after a step, and how long will the rest take?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from peftsweep.engine import Progressed
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.study.results import done, ranked
from peftsweep.sweep.time_left import Pace, survival_rates, time_left


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
