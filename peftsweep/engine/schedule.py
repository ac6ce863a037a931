"""Which texts does a trial see in each step, and when is it evaluated? Both follow from its seed and step alone.

Nothing here depends on a running random stream, so a trial that resumes from a checkpoint sees the same batches as
without the interruption.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig
from peftsweep.engine.learning_rate import learning_rate


@dataclass(frozen=True)
class Schedule:
    """A trial's steps over a training split of `rows` texts.

    Attributes:
        orders: the order of the rows [rows], by seed and epoch. Only the latest is kept: for a long split it is large.
    """

    params: TrainConfig
    rows: int
    orders: dict[tuple[int, int], NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.rows / self.params.batch_size)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.params.epochs

    @property
    def evaluations(self) -> int:
        """How often the trial is evaluated."""
        return min(self.params.evals_per_epoch * self.params.epochs, self.steps)

    def evaluation_step(self, index: int) -> int:
        """The step after which evaluation `index` comes, from 1. They are evenly spread; the last comes after the last
        step."""
        return round(self.steps * index / self.evaluations)

    def is_evaluated_after(self, step: int) -> bool:
        near = round(step * self.evaluations / self.steps)
        return any(self.evaluation_step(index) == step for index in (near - 1, near, near + 1) if index >= 1)

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step`, from 0."""
        return learning_rate(self.params, step, self.steps)

    def batch(self, step: int, seed: int) -> NDArray[np.int64]:
        """Rows of the training split in step `step`, from 0. Each epoch is shuffled anew; its last batch is short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if (seed, epoch) not in self.orders:
            self.orders.clear()
            self.orders[seed, epoch] = np.random.default_rng([seed, epoch]).permutation(self.rows)
        return self.orders[seed, epoch][place * self.params.batch_size : (place + 1) * self.params.batch_size]
