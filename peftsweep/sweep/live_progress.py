"""What a person is shown of a sweep after each step: how far it is, and how long the rest takes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

from peftsweep.engine import Progress
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.study.results import done, ranked
from peftsweep.sweep.time_left import Pace, chances, time_left

ASKED = 1.0  # seconds between two questions for the time that is left: a simulation a step would show on a GPU


class Shown(NamedTuple):
    """A study's trials, counted once for all steps until one begins or ends."""

    trials: list[TrialRecord]
    begun: int
    done: int
    best: tuple[int, float] | None  # number and objective

    @classmethod
    def of(cls, trials: list[TrialRecord]) -> Shown:
        best = [(trial.number, trial.value or 0.0) for trial in ranked(trials)[:1]]
        return cls(trials, sum(trial.begun for trial in trials), done(trials), best[0] if best else None)


class Clock:
    """The time that is left.

    Args:
        halving: by which trials are pruned, if they are.
        deadline: when the last trial may begin, by `time.monotonic`.
    """

    def __init__(self, halving: Halving | None, deadline: float) -> None:
        self.pace, self._halving, self._deadline = Pace(), halving, deadline
        self._asked, self._left = -math.inf, math.inf

    def stepped(self, event: Progress, coming: int, trials: Sequence[TrialRecord]) -> float | None:
        """Take note of some steps: seconds until the last trial ends, when there is something to estimate them from.

        Args:
            coming: trials that have not begun.
            trials: of the study.
        """
        at, slots = time.monotonic(), event.slots
        self.pace.sees(slots)
        self.pace.stepped(event.steps)
        if at >= self._asked + ASKED:
            shares = chances(trials, self._halving, self.pace.usual().evaluations)
            left = time_left(self.pace, slots, coming, shares, self._deadline - at)
            self._asked, self._left = at, math.inf if left is None else left
        return None if self._left == math.inf else max(0.0, self._left - (at - self._asked))
