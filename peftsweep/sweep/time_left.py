"""How long the rest of a sweep takes: the steps that are left, over the present pace of steps.

A step of the pack is one of every slot that has a trial. So what is left is simulated: coming trials take the slots
that become free first, as many steps as the others have and as successive halving leaves of them, and seconds go by as
steps with so many trials, and evaluations, took lately. Of many coming trials the first few hundred are simulated;
the others take as long on average.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.trial import TrialState
from scipy.optimize import nnls

from peftsweep.engine import SlotStatus, StepTime
from peftsweep.storage import TrialRecord
from peftsweep.study import Halving

RECENT = 1000  # steps from which the pace is taken, newer ones the more; trials from which the pruned share is
FADES = 0.995  # weight of a step, as a part of that of the step after it
FEWEST = 10  # steps before there is a pace
DRAWS = 8  # simulations whose mean counts
SIMULATED = 500  # coming trials of a simulation
GOLDEN = 0.6180339887498949  # its multiples are spread evenly over a unit, however many they are


class Pace:
    """Seconds of a step, by how many trials took it and how many of them were evaluated after it."""

    def __init__(self) -> None:
        self._seen: set[int | None] = set()
        self._trial_steps = self._trial_evaluations = 0  # of all trials that were seen
        self._steps: deque[StepTime] = deque(maxlen=RECENT)

    def sees(self, trials: Iterable[SlotStatus]) -> None:
        """Take note of trials, each of which may be seen many times."""
        for trial in trials:
            if trial.trial is not None and trial.trial not in self._seen:
                self._seen.add(trial.trial)
                self._trial_steps += trial.steps
                self._trial_evaluations += trial.evaluations

    def stepped(self, steps: Iterable[StepTime]) -> None:
        """Take note of steps."""
        self._steps.extend(steps)

    def usual(self) -> SlotStatus:
        """A trial to come: as those that were seen, each of them once, for at any moment mostly long ones run."""
        count = max(1, len(self._seen))
        return SlotStatus(
            -1, steps=round(self._trial_steps / count), evaluations=round(self._trial_evaluations / count)
        )

    def costs(self) -> tuple[float, float, float] | None:
        """Seconds of a step with no trial in it, of each trial's part, and of an evaluation; None before they are
        known. As long as the number of trials is always the same, the first two are taken to be even then."""
        if len(self._steps) < FEWEST or not any(step.evaluations for step in self._steps):
            return None
        steps = [(step.seconds, step.trials, step.evaluations) for step in self._steps]
        seconds, trials, evaluations = np.array(steps, dtype=float).T
        weights = np.sqrt(FADES ** np.arange(len(seconds))[::-1])
        usual = float(np.average(trials, weights=weights))
        columns = np.stack([np.ones_like(trials), trials / usual, evaluations], axis=1) * weights[:, None]
        even = np.array([1.0, -1.0, 0.0]) * math.sqrt(0.05 * float(np.square(weights).sum()))
        (fixed, each, evaluation), _ = nnls(np.vstack([columns, even]), np.append(seconds * weights, 0.0))
        return float(fixed), float(each) / usual, float(evaluation)


def time_left(
    pace: Pace,
    slots: Sequence[SlotStatus],
    coming: int,
    chances: Mapping[int, float],
    deadline: float = math.inf,
) -> float | None:
    """Seconds until the last trial ends; None before there is a pace.

    Args:
        slots: as they are after a step.
        coming: trials that have not begun.
        chances: see `chances`.
        deadline: seconds after which no trial begins.
    """
    costs = pace.costs()
    running = [slot for slot in slots if slot.trial is not None]
    if costs is None:
        return None
    (fixed, each, evaluation), usual = costs, pace.usual()
    latest = deadline / max(1e-9, fixed + each * len(slots))
    seconds = 0.0
    for draw in range(DRAWS):
        steps, evaluations = _simulated(running, usual, coming, len(slots), chances, latest, draw / DRAWS)
        seconds += sum(count * (fixed + each * trials) for trials, count in steps.items()) + evaluations * evaluation
    return seconds / DRAWS


def chances(trials: Sequence[TrialRecord], halving: Halving | None, evaluations: int) -> dict[int, float]:
    """The share of trials that go on, by the rung before the last evaluation: as of those that came to it, and as
    halving means it to be as long as they are few.

    Args:
        evaluations: of a trial.
    """
    if halving is None:
        return {}
    rungs = [rung for rung in range(1, evaluations) if halving.is_rung(rung)]
    passed, came = Counter[int](), Counter[int]()
    for trial in trials[-RECENT:]:
        seen, pruned = max(trial.reported, default=0), trial.state == TrialState.PRUNED
        decided = seen if pruned else max(seen - 1, trial.kept)
        for rung in (rung for rung in rungs if rung <= decided):
            came[rung] += 1
            passed[rung] += not (pruned and rung == seen)
    return {rung: (passed[rung] + 1) / (came[rung] + halving.reduction) for rung in rungs}


def _simulated(
    running: Sequence[SlotStatus],
    usual: SlotStatus,
    coming: int,
    slots: int,
    chances: Mapping[int, float],
    latest: float,
    draw: float,
) -> tuple[dict[int, float], float]:
    """The steps that are left, by the number of trials in them, and the evaluations.

    Args:
        usual: a coming trial.
        latest: the step from which on no trial begins.
        draw: of 0 to 1; by which trials are dropped where.
    """
    evaluations, ends = 0.0, list[float]()
    for number, trial in enumerate(running):
        luck = (draw + GOLDEN * number) % 1
        last = _last_evaluation(trial, chances, luck)
        evaluations += last - trial.evaluated
        ends.append(max(1.0, trial.steps * last / max(1, trial.evaluations) - trial.step))
    free = ends + [0.0] * (slots - len(ends))
    heapq.heapify(free)
    begun, taken = 0, 0.0  # coming trials, and their evaluations
    while begun < min(coming, SIMULATED) and free[0] <= latest:
        last = _last_evaluation(usual, chances, (draw + GOLDEN * (begun + len(running))) % 1)
        begun, taken = begun + 1, taken + last
        heapq.heapreplace(free, free[0] + usual.steps * last / max(1, usual.evaluations))
    found, before = dict[int, float](), 0.0
    for trials, end in zip(range(slots, 0, -1), sorted(free), strict=True):
        found[trials] = end - before
        before = end
    if begun == SIMULATED < coming and taken and usual.steps:  # for the others all slots stay taken so much longer
        each = usual.steps * taken / begun / max(1, usual.evaluations) / slots
        others = min(coming - begun, max(0.0, (latest - free[0]) / each))
        found[slots] += others * each
        taken *= 1 + others / begun
    return found, evaluations + taken


def _last_evaluation(trial: SlotStatus, chances: Mapping[int, float], luck: float) -> int:
    """The number of the evaluation that ends a trial."""
    share = 1.0
    for rung in sorted(rung for rung in chances if trial.evaluated < rung < trial.evaluations):
        share *= chances[rung]
        if luck >= share:
            return rung
    return trial.evaluations
