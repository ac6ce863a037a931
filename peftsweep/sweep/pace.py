"""How long does a step of a pack take? A fixed part, a part for each sample, and one for each evaluation after it.

The parts are fitted to recent steps. Because of the fixed part, a step of few slots may take nearly as long as one of
many: on a GPU, and with a small base. Steps that all have the same samples, and come before the first evaluation, do
not tell the parts apart: a prior does.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from peftsweep.engine import StepTime

RECENT, DECAY = 1000, 0.995  # steps to fit, and the weight of a step relative to the next one
EVALUATED, EVALUATED_DECAY = 50, 0.95  # the same for steps with evaluations, which may be rare
MIN_STEPS = 10  # fewer steps give no pace
CLIP, FITS = 20.0, 4  # a step counts as at most CLIP times what is usual for it: the median, then what the fit says
FIXED, FIXED_SHARE = 0.008, 0.5  # prior: seconds of the fixed part, and its largest share of a usual step
FIXED_WEIGHT = 0.05  # of that prior, relative to the steps
FORWARD = 1 / 3  # prior: an evaluation's time for a text, relative to a step's
FORWARD_WEIGHT = 0.25  # of that prior, relative to a step with one evaluation


class Costs(NamedTuple):
    """Seconds that a step takes: `fixed + samples · sample + evaluations · evaluation`."""

    fixed: float
    sample: float
    evaluation: float


class Pace:
    """The steps of a worker.

    Args:
        validation: number of texts in an evaluation.
    """

    def __init__(self, validation: int) -> None:
        self._validation, self._begun = validation, False
        self._plain, self._evaluated = deque[StepTime](maxlen=RECENT), deque[StepTime](maxlen=EVALUATED)
        self._groups = (self._plain, DECAY), (self._evaluated, EVALUATED_DECAY)

    def add(self, steps: Iterable[StepTime]) -> None:
        """Record steps. The very first one is left out: it compiles code and allocates memory."""
        for step in steps:
            if self._begun:
                (self._evaluated if step.evaluations else self._plain).append(step)
            self._begun = True

    def costs(self) -> Costs | None:
        """What the next steps will cost; None before there are enough steps."""
        groups = [(group, decay) for group, decay in self._groups if group]
        if sum(len(group) for group, _ in groups) < MIN_STEPS:
            return None
        found = [(step.samples, step.evaluations, step.seconds) for group, _ in groups for step in group]
        samples, evaluations, seconds = np.array(found, dtype=float).T
        weights = np.concatenate([decay ** np.arange(len(group))[::-1] for group, decay in groups])
        most = CLIP * np.concatenate([np.full(len(group), _median(group)) for group, _ in groups])
        usual = max(1.0, float(np.average(samples, weights=weights)))
        rows = np.stack([np.ones_like(samples), samples / usual, evaluations], axis=1)
        prior_rows = np.array([[1.0, 0.0, 0.0], [0.0, -FORWARD * self._validation / usual, 1.0]])
        priors = np.array([min(FIXED, FIXED_SHARE * float(np.median(seconds))), 0.0])
        prior_weights = np.array([FIXED_WEIGHT * weights.sum(), FORWARD_WEIGHT])
        for _ in range(FITS):
            target = np.append(np.minimum(seconds, most), priors)
            parts = _least_squares(np.vstack([rows, prior_rows]), target, np.append(weights, prior_weights))
            most = CLIP * (rows @ parts)
        fixed, each, evaluation = parts.tolist()
        return Costs(fixed, each / usual, evaluation)


def _median(steps: Iterable[StepTime]) -> float:
    return float(np.median([step.seconds for step in steps]))


def _least_squares(
    rows: NDArray[np.float64], target: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The `x` without negative parts for which `rows @ x` is nearest to `target`.

    With three parts, trying every set of those that are not zero takes less time than importing a solver does.
    """
    normal, right = rows.T @ (rows * weights[:, None]), rows.T @ (target * weights)
    best, least = np.zeros(rows.shape[1]), 0.0
    for used in itertools.product((False, True), repeat=rows.shape[1]):
        keep = np.flatnonzero(used)
        x = np.zeros(rows.shape[1])
        x[keep] = np.linalg.solve(normal[np.ix_(keep, keep)], right[keep])
        error = float(x @ normal @ x - 2 * right @ x)
        if (x >= 0).all() and error < least:
            best, least = x, error
    return best
