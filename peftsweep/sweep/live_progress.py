"""How far is a sweep after a step, and how long will the rest take?"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from peftsweep.engine import Progress
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.study.results import done, ranked
from peftsweep.sweep.time_left import Pace, survival_rates, time_left

EVERY = 1.0  # seconds between two estimates of the time left: a simulation takes time in which nothing trains


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
    """Estimates the time left, once a second.

    Args:
        halving: the pruner, if there is one.
        deadline: no trial starts after this time of `time.monotonic`.
    """

    def __init__(self, halving: Halving | None, deadline: float) -> None:
        self.pace, self._halving, self._deadline = Pace(), halving, deadline
        self._estimated, self._left = -math.inf, math.inf

    def update(self, event: Progress, upcoming: int, trials: Sequence[TrialRecord]) -> float | None:
        """Record some steps; returns the seconds until the last trial ends, or None if they cannot be estimated yet.

        Args:
            upcoming: number of trials that have not started.
            trials: all trials of the study.
        """
        now, slots = time.monotonic(), event.slots
        self.pace.add_trials(slots)
        self.pace.add_steps(event.steps)
        if now >= self._estimated + EVERY:
            rates = survival_rates(trials, self._halving, self.pace.typical_trial().evaluations)
            left = time_left(self.pace, slots, upcoming, rates, self._deadline - now)
            self._estimated, self._left = now, math.inf if left is None else left
        return None if self._left == math.inf else max(0.0, self._left - (now - self._estimated))
