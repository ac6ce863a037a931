"""What is the state of a trial in its slot? Its step, losses and evaluations. Its weights are a row of the stack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.engine.schedule import Schedule
from peftsweep.engine.trial import Evaluation, Result, SlotStatus, Trial
from peftsweep.trial_state import Ended, TrialState


@dataclass(frozen=True)
class BestEvaluation:
    """What is kept of a trial's best evaluation, in host memory."""

    weights: Mapping[str, Tensor]  # by `path:parameter`
    logits: NDArray[np.float32]  # [n, C] on the validation split


@dataclass(eq=False)
class Slot:
    """The state of a running trial. Only what a checkpoint holds decides how it goes on."""

    index: int
    trial: Trial
    schedule: Schedule
    parameters: int  # number of trained parameters
    objective: str = "macro_f1"  # the score by which evaluations are compared
    step: int = 0
    loss_sum: float = 0.0  # over the steps since the last evaluation
    loss_count: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0  # its share of the pack's time
    loss: float | None = None
    rate: float = 0.0
    max_tokens: int | None = None  # of its batch in one pass, once a whole batch did not fit into memory
    best_kept: BestEvaluation | None = None

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far; the earliest of equal ones."""
        return max(self.evaluations, key=lambda e: (e.scores[self.objective], -e.index), default=None)

    @property
    def due(self) -> bool:
        """Whether the trial must be evaluated after the step that it is at."""
        return self.schedule.is_evaluated_after(self.step) and not self.evaluated

    @property
    def evaluated(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    @property
    def is_done(self) -> bool:
        """Whether the trial has taken all its steps."""
        return self.step >= self.schedule.steps

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self.schedule.learning_rate(self.step)

    def record(self, loss: float, seconds: float) -> None:
        """Note the loss of the last step, and how long the step took."""
        self.loss = loss
        self.loss_sum += loss
        self.loss_count += 1
        rate = self.trial.params.batch_size / seconds
        self.rate = rate if self.rate == 0 else 0.9 * self.rate + 0.1 * rate

    def not_finite(self, norm: float) -> str:
        """What of the last step is not finite: its loss, or the norm of its gradient. Empty if both are."""
        if self.loss is not None and not math.isfinite(self.loss):
            return f"loss is {self.loss}"
        return "" if math.isfinite(norm) else f"gradient norm is {norm}"

    def add_evaluation(self, scores: dict[str, float]) -> Evaluation:
        """Add the scores of the present weights. If they are the best, `best_kept` is to be set."""
        evaluation = Evaluation(
            index=len(self.evaluations) + 1,
            step=self.step,
            epoch=self.step / self.schedule.steps_per_epoch,
            train_loss=self.loss_sum / max(1, self.loss_count),
            learning_rate=self.schedule.learning_rate(self.step - 1),
            scores=scores,
        )
        self.evaluations.append(evaluation)
        self.loss_sum, self.loss_count = 0.0, 0
        return evaluation

    def status(self) -> SlotStatus:
        best = self.best
        return SlotStatus(
            slot=self.index,
            trial=self.trial.number,
            step=self.step,
            steps=self.schedule.steps,
            loss=self.loss,
            last=self.evaluations[-1].scores[self.objective] if self.evaluations else None,
            best=best.scores[self.objective] if best else None,
            rate=self.rate,
            evaluated=len(self.evaluations),
            evaluations=self.schedule.evaluations,
            batch_size=self.trial.params.batch_size,
        )

    def result(self, state: Ended, reason: str) -> Result:
        """How the trial ended."""
        best = self.best_kept if state == TrialState.COMPLETE else None
        return Result(
            state=state,
            reason=reason,
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            parameters=self.parameters,
            status=self.status(),
            weights=None if best is None else {name: part.numpy() for name, part in best.weights.items()},
            logits=None if self.best_kept is None else self.best_kept.logits,
        )
