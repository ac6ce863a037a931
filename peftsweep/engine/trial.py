"""What is a trial to the engine? What it is given, what it reports, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig
from peftsweep.trial_state import Ended

Scores = dict[str, float]  # see Task.scores


@dataclass(frozen=True)
class Trial:
    """One fine-tune: its number in the study, its own seed, its hyperparameters, the folder of its checkpoints."""

    number: int
    seed: int
    params: TrainConfig
    folder: Path


@dataclass(frozen=True)
class Evaluation:
    """Scores on the validation split after optimizer step `step`. `index` counts from 1."""

    index: int
    step: int
    epoch: float
    train_loss: float  # mean since the last evaluation
    learning_rate: float
    scores: Scores


@dataclass(frozen=True)
class Report:
    """A trial's latest evaluation, for the study to decide on."""

    trial: Trial
    evaluation: Evaluation
    seconds: float  # the trial's share of the pack's time so far


@dataclass(frozen=True)
class SlotStatus:
    """A slot as it is shown to people. `trial` is None in an empty slot."""

    slot: int
    trial: int | None = None
    step: int = 0
    steps: int = 0
    loss: float | None = None
    last: float | None = None  # the objective at the last evaluation
    best: float | None = None
    rate: float = 0.0  # samples per second
    evaluated: int = 0  # evaluations so far
    evaluations: int = 0  # evaluations in all
    batch_size: int = 0  # samples in a step


@dataclass(frozen=True)
class Result:
    """How a trial ended. `best` is None if it ended before its first evaluation."""

    state: Ended
    reason: str
    step: int
    seconds: float  # its share of the pack's time
    best: Evaluation | None
    parameters: int  # number of trained parameters
    status: SlotStatus  # the slot's last status
    weights: Mapping[str, NDArray[Any]] | None = None  # of the best evaluation, by `path:parameter`; see `Leaders`
    logits: NDArray[np.float32] | None = None  # [n, C] on the validation split, of the best evaluation
