"""How long will the rest of a sweep take? The steps that are left, at the pace of recent steps."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.sweep.pace import Pace
from peftsweep.sweep.steps_left import Chances, Passed, Simulation
from peftsweep.trial_state import TrialState

RECENT = 1000  # trials that the pruner's shares, and what upcoming trials are like, are estimated from
DRAWS = 8  # simulations to average


class TimeLeft:
    """Estimates the time left to a worker.

    Args:
        halving: the pruner, if there is one.
        validation: number of texts in an evaluation.
    """

    def __init__(self, halving: Halving | None, validation: int) -> None:
        self._halving, self._pace = halving, Pace(validation)
        self._seen: set[int] = set()
        self._like = deque[SlotStatus](maxlen=RECENT)

    def add(self, slots: Iterable[SlotStatus], steps: Iterable[StepTime] = ()) -> None:
        """Record trials, which may be known already, and new steps."""
        for slot in slots:
            if slot.trial is not None and slot.trial not in self._seen:
                self._seen.add(slot.trial)
                self._like.append(slot)
        self._pace.add(steps)

    def seconds(
        self,
        slots: Sequence[SlotStatus],
        upcoming: int,
        trials: Sequence[TrialRecord],
        deadline: float = math.inf,
    ) -> float | None:
        """Seconds until the last trial ends; None before there is a pace.

        Args:
            slots: their status after a step. A trial that the pruner has dropped may still be in its slot.
            upcoming: number of trials that have not started.
            trials: the latest of the study, and those of the slots.
            deadline: no trial starts after this many seconds.
        """
        costs = self._pace.costs()
        if costs is None or not self._like:
            return None
        dropped = {trial.number for trial in trials if trial.dropped is not None}
        running = [slot for slot in slots if slot.trial is not None and slot.trial not in dropped]
        passed = passed_rungs(trials, self._halving)
        full = sum(slot.batch_size for slot in self._like) / len(self._like) * len(slots)
        latest = deadline / max(1e-9, costs.fixed + costs.sample * full)
        seconds = 0.0
        for draw in range(DRAWS):
            chances = Chances(self._halving, passed, draw / DRAWS)
            left = Simulation(chances, self._like, upcoming, len(slots), latest).run(running)
            seconds += left.steps * costs.fixed + left.samples * costs.sample + left.evaluations * costs.evaluation
        return seconds / DRAWS


def passed_rungs(trials: Sequence[TrialRecord], halving: Halving | None) -> Mapping[int, Passed]:
    """How many of the latest trials have reached each rung, and how many of them were kept."""
    reached, kept = Counter[int](), Counter[int]()
    for trial in trials if halving is not None else ():
        assert halving is not None
        lost = trial.dropped or (max(trial.reported, default=0) if trial.state == TrialState.PRUNED else 0)
        for rung in halving.rungs(max(trial.kept, lost) + 1):
            reached[rung] += 1
            kept[rung] += rung != lost
    return {rung: Passed(reached[rung], kept[rung]) for rung in reached}
