"""One trial in its slot: its optimizer, its place in the data, what it has seen so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.engine.schedule import Schedule
from peftsweep.engine.stack import Stack
from peftsweep.engine.trial import Evaluation, SlotStatus, Trial


def make_optimizer(stack: Stack, index: int, params: TrainConfig) -> torch.optim.Optimizer:
    """torch's own optimizer over the slot's row: nothing that it holds can leak into another slot, or stay behind."""
    groups: list[dict[str, object]] = []
    width = stack.weights.shape[1]
    for start, stop, decay in ((0, stack.decayed, params.weight_decay), (stack.decayed, width, 0.0)):
        if start < stop:
            parameter = nn.Parameter(stack.weights[index, start:stop])
            parameter.grad = stack.grads[index, start:stop]
            groups.append({"params": [parameter], "weight_decay": decay})
    if params.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=params.learning_rate, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=params.learning_rate, fused=True)


@dataclass
class Slot:
    """The state of a trial under way. What a checkpoint holds, and nothing else, decides how it goes on."""

    index: int
    trial: Trial
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    parameters: int  # trained ones
    step: int = 0
    loss_sum: float = 0.0  # of the steps since the last evaluation
    loss_count: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0  # its share of the pack's time
    loss: float | None = None
    rate: float = 0.0
    saved: Path | None = None  # the newest checkpoint
    best_logits: NDArray[np.float32] | None = None  # [n, C] on the validation split, of the best evaluation
    undecided: bool = False  # evaluated, but its source has not said yet whether it goes on

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far, the earliest among equals."""
        return max(self.evaluations, key=lambda e: (e.scores["macro_f1"], -e.index), default=None)

    @property
    def due(self) -> bool:
        """Whether the step just done is one after which the trial is evaluated."""
        return self.step in self.schedule.evaluations and not self.evaluated

    @property
    def evaluated(self) -> bool:
        return bool(self.evaluations) and self.evaluations[-1].step == self.step

    def update(self, learning_rate: float) -> None:
        """One optimizer step with the gradients in the slot's row."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def count(self, loss: float) -> None:
        self.step += 1
        self.loss = loss
        self.loss_sum += loss
        self.loss_count += 1

    def evaluated_as(self, scores: dict[str, float], logits: NDArray[np.float32]) -> Evaluation:
        """Note the scores of the weights as they are now, and the logits [n, C] that gave them."""
        evaluation = Evaluation(
            index=len(self.evaluations) + 1,
            step=self.step,
            epoch=self.step / self.schedule.steps_per_epoch,
            train_loss=self.loss_sum / max(1, self.loss_count),
            learning_rate=self.schedule.learning_rate(self.step - 1),
            scores=scores,
        )
        self.evaluations.append(evaluation)
        self.loss_sum, self.loss_count, self.undecided = 0.0, 0, True
        if self.best is evaluation:
            self.best_logits = logits
        return evaluation

    def status(self) -> SlotStatus:
        best = self.best
        return SlotStatus(
            slot=self.index,
            trial=self.trial.number,
            step=self.step,
            steps=self.schedule.steps,
            loss=self.loss,
            last=self.evaluations[-1].scores["macro_f1"] if self.evaluations else None,
            best=best.scores["macro_f1"] if best else None,
            rate=self.rate,
        )

    def optimizer_rows(self) -> dict[str, Tensor]:
        """The optimizer's vectors over the whole row [P], by name: exp_avg, exp_avg_sq or momentum_buffer."""
        states = [self.optimizer.state[group["params"][0]] for group in self.optimizer.param_groups]
        names = [name for name, value in states[0].items() if torch.is_tensor(value) and value.dim() == 1]
        return {name: torch.cat([state[name] for state in states]) for name in names}

    def restore_optimizer(self, rows: dict[str, Tensor]) -> None:
        """The inverse of `optimizer_rows`, at the slot's step."""
        at = 0
        for group in self.optimizer.param_groups:
            parameter = group["params"][0]
            stop = at + parameter.numel()
            state: dict[str, Tensor] = {name: row[at:stop].clone() for name, row in rows.items()}
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(self.step), device=parameter.device)
            self.optimizer.state[parameter] = state
            at = stop
