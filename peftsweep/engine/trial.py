"""What the engine asks of whoever gives it work: trials in, reports and results out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from peftsweep.config import TrainConfig

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
class Result:
    """How a trial ended. `best` is None when it ended before its first evaluation."""

    state: Literal["complete", "pruned", "failed"]
    reason: str
    step: int
    seconds: float  # its share of the pack's time
    best: Evaluation | None
    weights: Path | None  # of a complete trial, safetensors of the best evaluation: adapter and head by module path
    parameters: int  # trained ones
    logits: NDArray[np.float32] | None = None  # [n, C] on the validation split, of the best evaluation


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


class TrialSource(Protocol):
    """Gives trials to a pack and decides about them. All calls come from the pack's own thread."""

    def next(self) -> Trial | None:
        """The next trial for a free slot, or None when there is none now."""

    def report(self, reports: Sequence[Report]) -> Sequence[bool]:
        """Evaluations of all the slots that came to one in the same step; True at i keeps the i-th trial."""

    def finish(self, trial: Trial, result: Result) -> None:
        """The trial has left its slot."""

    def stepped(self, slots: Sequence[SlotStatus], seconds: float) -> bool:
        """After each step; False stops the pack, which checkpoints its slots and returns."""
