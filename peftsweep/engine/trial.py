"""A trial as the engine sees it: what it is given, what it reports, how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig

Scores = dict[str, float]  # see Task.scores
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One fine-tune: its number in the study, its own seed, its hyperparameters, the folder of its checkpoints."""

    number: int
    seed: int
    params: TrainConfig
    folder: Path


@dataclass(frozen=True)
class Evaluation:
    """One look at the validation split. `index` counts from 1; `step` is the optimizer step it followed."""

    index: int
    step: int
    epoch: float
    train_loss: float  # mean since the last evaluation
    learning_rate: float
    scores: Scores


@dataclass(frozen=True)
class Report:
    trial: Trial
    evaluation: Evaluation
    seconds: float  # the trial's share of the pack's time so far


@dataclass(frozen=True)
class SlotStatus:
    """A slot as a person sees it while it runs; `trial` is None in an empty one."""

    slot: int
    trial: int | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    last: float | None = None  # the objective at the last evaluation
    best: float | None = None
    rate: float = 0.0  # samples per second
    evaluated: int = 0  # evaluations that were made, of so many
    evaluations: int = 0


@dataclass(frozen=True)
class Result:
    """How a trial ended. `best` is None when it ended before its first evaluation."""

    state: State
    reason: str
    step: int
    seconds: float  # its share of the pack's time
    best: Evaluation | None
    parameters: int  # trained ones
    status: SlotStatus  # the slot's last
    weights: Mapping[str, NDArray[Any]] | None = None  # of a complete trial's best evaluation, by `path:parameter`
    logits: NDArray[np.float32] | None = None  # [n, C] on the validation split, of the best evaluation
