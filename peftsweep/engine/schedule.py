"""Where a trial stands: its steps, evaluations, learning rate and batches, all functions of the step alone.

Nothing here is drawn from a running random stream, so a trial that goes on from a checkpoint sees what it would have
seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """A trial's plan over a training split of `rows` texts."""

    params: TrainConfig
    rows: int

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
        order = epoch_order(seed, epoch, self.rows)
        return order[place * self.params.batch_size : (place + 1) * self.params.batch_size]


@lru_cache(maxsize=512)  # a pack's slots, each somewhere in an epoch of its own
def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """The order of an epoch's rows [rows], to be read only."""
    return np.random.default_rng([seed, epoch]).permutation(rows)
