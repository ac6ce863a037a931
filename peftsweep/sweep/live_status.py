"""How far is a sweep, and how long will the rest take? Put together from what its workers report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from peftsweep.engine import Progressed, SlotStatus
from peftsweep.progress import SweepStatus, WorkerStatus
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.sweep.running import Place
from peftsweep.sweep.time_left import RECENT, Pace, survival_rates, time_left
from peftsweep.sweep.trial_supply import TrialSupply

INTERVAL = 0.9  # least seconds between two statuses of several workers, each of which reports about once a second


class RemainingTime:
    """Estimates the time left.

    Args:
        halving: the pruner, if there is one.
        deadline: no trial starts after this time of `time.monotonic`.
    """

    def __init__(self, halving: Halving | None, deadline: float) -> None:
        self.pace, self._halving, self._deadline = Pace(), halving, deadline

    def record(self, event: Progressed) -> None:
        """Record some steps."""
        self.pace.add_trials(event.slots)
        self.pace.add_steps(event.steps)

    def seconds(self, slots: Sequence[SlotStatus], upcoming: int, trials: Sequence[TrialRecord]) -> float | None:
        """Seconds until the last trial ends, or None if they cannot be estimated yet.

        Args:
            upcoming: number of trials that have not started.
            trials: the latest of the study, for what share survives each rung.
        """
        rates = survival_rates(trials, self._halving, self.pace.typical_trial().evaluations)
        return time_left(self.pace, slots, upcoming, rates, self._deadline - time.monotonic())


class LiveStatus:
    """The status of a running sweep.

    Args:
        halving: the pruner, if there is one.
    """

    def __init__(self, halving: Halving | None, supply: TrialSupply) -> None:
        self._halving, self._supply = halving, supply
        self._workers: dict[int, WorkerStatus] = {}  # at their last reports
        self._remaining: dict[int, RemainingTime] = {}  # each worker's
        self._ends: dict[int, float] = {}  # when all will be done, by each worker's pace
        self._shown = -math.inf  # when the last status was given

    def ended(self, worker: int, status: SlotStatus) -> None:
        """A trial has left its slot, whose last status is given."""
        self._of(worker).pace.add_trials([status])

    def rate(self, worker: int) -> float:
        """A worker's samples per second at its last report."""
        return self._workers[worker].rate if worker in self._workers else 0.0

    def forget(self, worker: int) -> None:
        for kept in (self._workers, self._remaining, self._ends):
            kept.pop(worker, None)

    def update(self, event: Progressed, worker: int, place: Place) -> SweepStatus | None:
        """Record a worker's report. Returns the status, which is worked out once a second, however many workers report;
        None in between."""
        remaining, now = self._of(worker), time.monotonic()
        remaining.record(event)
        self._workers[worker] = WorkerStatus(worker, place.node, place.device, event.slots)
        if len(self._workers) > 1 and now < self._shown + INTERVAL:
            return None
        self._shown = now
        ledger = self._supply.ledger
        upcoming = -(-self._supply.upcoming() // len(self._workers))  # as if workers shared the rest evenly
        left = remaining.seconds(event.slots, upcoming, ledger.latest(RECENT))
        if left is not None:
            self._ends[worker] = now + left
        eta = max(0.0, max(self._ends.values()) - now) if self._ends else None
        best = [(trial.number, trial.value or 0.0) for trial in ledger.best(0, 1)]
        return SweepStatus(
            list(self._workers.values()), ledger.done, self._supply.total, best[0] if best else None, eta
        )

    def _of(self, worker: int) -> RemainingTime:
        if worker not in self._remaining:
            self._remaining[worker] = RemainingTime(self._halving, self._supply.deadline)
        return self._remaining[worker]
