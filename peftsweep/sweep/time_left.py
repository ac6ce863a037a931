"""How long will the rest of a sweep take? The steps left are simulated, and timed at the recent pace.

In one step of the pack, every slot that has a trial takes one step. In the simulation, each upcoming trial takes the
slot that becomes free first. It has as many steps as earlier trials had, and is pruned as often as they were. A step
takes as long as recent steps with as many trials and evaluations took. Only the first few hundred upcoming trials are
simulated; the rest are assumed to take as long on average.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving
from peftsweep.trial_state import TrialState

RECENT = 1000  # steps that the pace is estimated from, and trials that the survival rates are estimated from
DECAY = 0.995  # weight of a step, relative to the step after it
MIN_STEPS = 10  # fewer steps give no pace
DRAWS = 8  # simulations to average
SIMULATED = 500  # most upcoming trials in a simulation
GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly over the unit interval


class Pace:
    """How long a step takes, given the number of trials in it and of evaluations after it."""

    def __init__(self) -> None:
        self._seen: set[int | None] = set()
        self._trial_steps = self._trial_evaluations = 0  # sums over all trials seen
        self._steps: deque[StepTime] = deque(maxlen=RECENT)

    def add_trials(self, trials: Iterable[SlotStatus]) -> None:
        """Record trials. The same trial may be added many times."""
        for trial in trials:
            if trial.trial is not None and trial.trial not in self._seen:
                self._seen.add(trial.trial)
                self._trial_steps += trial.steps
                self._trial_evaluations += trial.evaluations

    def add_steps(self, steps: Iterable[StepTime]) -> None:
        """Record steps."""
        self._steps.extend(steps)

    def typical_trial(self) -> SlotStatus:
        """The mean of all trials seen. Each counts once: the trials running at any moment are mostly long ones."""
        count = max(1, len(self._seen))
        return SlotStatus(
            -1, steps=round(self._trial_steps / count), evaluations=round(self._trial_evaluations / count)
        )

    def costs(self) -> tuple[float, float, float] | None:
        """Seconds of a step's fixed part, of each trial's part, and of an evaluation; None before they are known. While
        the number of trials is always the same, the fixed part is assumed to equal the trials' parts."""
        if len(self._steps) < MIN_STEPS or not any(step.evaluations for step in self._steps):
            return None
        steps = [(step.seconds, step.trials, step.evaluations) for step in self._steps]
        seconds, trials, evaluations = np.array(steps, dtype=float).T
        weights = np.sqrt(DECAY ** np.arange(len(seconds))[::-1])
        usual = float(np.average(trials, weights=weights))
        columns = np.stack([np.ones_like(trials), trials / usual, evaluations], axis=1) * weights[:, None]
        even = np.array([1.0, -1.0, 0.0]) * math.sqrt(0.05 * float(np.square(weights).sum()))
        (fixed, each, evaluation), _ = nnls(np.vstack([columns, even]), np.append(seconds * weights, 0.0))
        return float(fixed), float(each) / usual, float(evaluation)


def time_left(
    pace: Pace,
    slots: Sequence[SlotStatus],
    upcoming: int,
    rates: Mapping[int, float],
    deadline: float = math.inf,
) -> float | None:
    """Seconds until the last trial ends; None before there is a pace.

    Args:
        slots: their status after a step.
        upcoming: number of trials that have not started.
        rates: see `survival_rates`.
        deadline: no trial starts after this many seconds.
    """
    costs = pace.costs()
    running = [slot for slot in slots if slot.trial is not None]
    if costs is None:
        return None
    (fixed, each, evaluation), typical = costs, pace.typical_trial()
    latest = deadline / max(1e-9, fixed + each * len(slots))
    seconds = 0.0
    for draw in range(DRAWS):
        steps, evaluations = _simulate(running, typical, upcoming, len(slots), rates, latest, draw / DRAWS)
        seconds += sum(count * (fixed + each * trials) for trials, count in steps.items()) + evaluations * evaluation
    return seconds / DRAWS


def survival_rates(trials: Sequence[TrialRecord], halving: Halving | None, evaluations: int) -> dict[int, float]:
    """Share of trials that survive each rung before the last evaluation. It is estimated from the trials that reached
    the rung; while these are few, it stays near the share that halving aims at.

    Args:
        evaluations: number of evaluations of a trial.
    """
    if halving is None:
        return {}
    rungs = list(halving.rungs(evaluations))
    passed, reached = Counter[int](), Counter[int]()
    for trial in trials[-RECENT:]:
        seen, pruned = max(trial.reported, default=0), trial.state == TrialState.PRUNED
        decided = seen if pruned else max(seen - 1, trial.kept)
        for rung in (rung for rung in rungs if rung <= decided):
            reached[rung] += 1
            passed[rung] += not (pruned and rung == seen)
    return {rung: (passed[rung] + 1) / (reached[rung] + halving.reduction) for rung in rungs}


def _simulate(
    running: Sequence[SlotStatus],
    typical: SlotStatus,
    upcoming: int,
    slots: int,
    rates: Mapping[int, float],
    latest: float,
    draw: float,
) -> tuple[dict[int, float], float]:
    """Steps left, by the number of trials in them, and evaluations left.

    Args:
        typical: what upcoming trials are like.
        latest: no trial starts after this step.
        draw: from 0 to 1; decides at which rungs trials are pruned.
    """
    evaluations, ends = 0.0, list[float]()
    for number, trial in enumerate(running):
        luck = (draw + GOLDEN * number) % 1
        last = _last_evaluation(trial, rates, luck)
        evaluations += last - trial.evaluated
        ends.append(max(1.0, trial.steps * last / max(1, trial.evaluations) - trial.step))
    free = ends + [0.0] * (slots - len(ends))
    heapq.heapify(free)
    started, taken = 0, 0.0  # simulated upcoming trials, and their evaluations
    while started < min(upcoming, SIMULATED) and free[0] <= latest:
        last = _last_evaluation(typical, rates, (draw + GOLDEN * (started + len(running))) % 1)
        started, taken = started + 1, taken + last
        heapq.heapreplace(free, free[0] + typical.steps * last / max(1, typical.evaluations))
    steps, before = dict[int, float](), 0.0
    for trials, end in zip(range(slots, 0, -1), sorted(free), strict=True):
        steps[trials] = end - before
        before = end
    if started == SIMULATED < upcoming and taken and typical.steps:  # the rest keep all slots busy for longer
        each = typical.steps * taken / started / max(1, typical.evaluations) / slots
        others = min(upcoming - started, max(0.0, (latest - free[0]) / each))
        steps[slots] += others * each
        taken *= 1 + others / started
    return steps, evaluations + taken


def _last_evaluation(trial: SlotStatus, rates: Mapping[int, float], luck: float) -> int:
    """The number of the evaluation at which a trial ends."""
    share = 1.0
    for rung in sorted(rung for rung in rates if trial.evaluated < rung < trial.evaluations):
        share *= rates[rung]
        if luck >= share:
            return rung
    return trial.evaluations
