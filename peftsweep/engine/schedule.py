"""Where a trial stands: its steps, evaluations, learning rate and batches, all functions of the step alone.

Nothing here is drawn from a running random stream, so a trial that goes on from a checkpoint sees what it would have
seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """A trial's plan over a training split of `rows` texts.

    Attributes:
        orders: of rows [rows], by seed and epoch, the last one asked for alone: a long split's are large.
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

    @cached_property  # asked for after each step
    def evaluations(self) -> tuple[int, ...]:
        """Steps after which the trial is evaluated, evenly spread; the last is the last step."""
        count = min(self.params.evals_per_epoch * self.params.epochs, self.steps)
        return tuple(round(self.steps * (i + 1) / count) for i in range(count))

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step` (from 0), as `transformers.get_scheduler` has it."""
        peak = self.params.learning_rate
        if self.params.scheduler == "constant":
            return peak
        warmup = math.ceil(self.steps * self.params.warmup)
        if step < warmup:
            return peak * step / max(1, warmup)
        if self.params.scheduler == "constant_with_warmup":
            return peak
        if self.params.scheduler == "linear":
            return peak * max(0.0, (self.steps - step) / max(1, self.steps - warmup))
        progress = (step - warmup) / max(1, self.steps - warmup)
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))

    def batch(self, step: int, seed: int) -> NDArray[np.int64]:
        """Rows of the training split in step `step` (from 0): each epoch in a new order, its last batch the rest."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if (seed, epoch) not in self.orders:
            self.orders.clear()
            self.orders[seed, epoch] = np.random.default_rng([seed, epoch]).permutation(self.rows)
        return self.orders[seed, epoch][place * self.params.batch_size : (place + 1) * self.params.batch_size]
