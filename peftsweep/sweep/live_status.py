"""How far is a sweep, and how long will the rest take? Put together from what its workers report."""

from __future__ import annotations

import math
import time

from peftsweep.engine import Progressed, SlotStatus
from peftsweep.progress import SweepStatus, WorkerStatus
from peftsweep.study import Halving
from peftsweep.sweep.running import Place
from peftsweep.sweep.time_left import RECENT, TimeLeft
from peftsweep.sweep.trial_supply import TrialSupply

INTERVAL = 0.9  # least seconds between two statuses of several workers, each of which reports about once a second


class LiveStatus:
    """The status of a running sweep.

    Args:
        halving: the pruner, if there is one.
        validation: number of texts in an evaluation.
    """

    def __init__(self, halving: Halving | None, supply: TrialSupply, validation: int) -> None:
        self._halving, self._supply, self._validation = halving, supply, validation
        self._workers: dict[int, WorkerStatus] = {}  # at their last reports
        self._left: dict[int, TimeLeft] = {}  # each worker's
        self._ends: dict[int, float] = {}  # when all will be done, by each worker's pace
        self._shown = -math.inf  # when the last status was given

    def ended(self, worker: int, status: SlotStatus) -> None:
        """A trial has left its slot, whose last status is given."""
        if worker in self._left:
            self._left[worker].add([status])

    def rate(self, worker: int) -> float:
        """A worker's samples per second at its last report."""
        return self._workers[worker].rate if worker in self._workers else 0.0

    def forget(self, worker: int) -> None:
        for kept in (self._workers, self._left, self._ends):
            kept.pop(worker, None)

    def update(self, event: Progressed, worker: int, place: Place) -> SweepStatus | None:
        """Record a worker's report. Returns the status, which is worked out once a second, however many workers report;
        None in between."""
        if worker not in self._left:
            self._left[worker] = TimeLeft(self._halving, self._validation)
        time_left, now = self._left[worker], time.monotonic()
        time_left.add(event.slots, event.steps)
        self._workers[worker] = WorkerStatus(worker, place.node, place.device, event.slots)
        if len(self._workers) > 1 and now < self._shown + INTERVAL:
            return None
        self._shown = now
        ledger = self._supply.ledger
        upcoming = -(-self._supply.upcoming() // len(self._workers))  # as if workers shared the rest evenly
        left = time_left.seconds(event.slots, upcoming, ledger.latest(RECENT), self._supply.deadline - now)
        if left is not None:
            self._ends[worker] = now + left
        eta = max(0.0, max(self._ends.values()) - now) if self._ends else None
        best = [(trial.number, trial.value or 0.0) for trial in ledger.best(0, 1)]
        return SweepStatus(
            list(self._workers.values()), ledger.done, self._supply.total, best[0] if best else None, eta
        )
