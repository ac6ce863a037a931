"""Which hyperparameters does every method have?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from peftsweep.config.hyperparameters.recordable import RecordableHyperparameters
from peftsweep.config.recordable_values import MAX_WHOLE_NUMBER

Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Optimizer = Literal["adamw", "sgd"]


class CommonHyperparameters(RecordableHyperparameters):
    """The hyperparameters that every method has."""

    epochs: int = Field(default=3, ge=1, le=MAX_WHOLE_NUMBER)
    """Number of passes over the training texts."""
    batch_size: int = Field(default=16, ge=1, le=MAX_WHOLE_NUMBER)
    """Texts per step of one trial."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """The peak learning rate, reached at the end of warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay. It is decoupled for AdamW and added to the gradient for SGD. Biases have none."""
    scheduler: Scheduler = "linear"
    """How the learning rate changes after warm-up. `constant` has no warm-up."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Fraction of all steps during which the learning rate rises from 0 to its peak."""
    optimizer: Optimizer = "adamw"
    """AdamW (β 0.9 and 0.999, ε 1e-8), or SGD with momentum 0.9."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Norm to which the gradient of each trial is clipped. 0 turns clipping off."""
    evals_per_epoch: int = Field(default=1, ge=1, le=MAX_WHOLE_NUMBER)
    """Evaluations per epoch, evenly spaced. A trial is scored and perhaps pruned at each."""
    seed: int = Field(default=0, ge=0, le=MAX_WHOLE_NUMBER)
    """Seed of the study. The seed of each trial is derived from it and the trial's number."""
