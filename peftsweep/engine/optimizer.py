"""AdamW and SGD over the rows of a stack: each slot has hyperparameters, moments and a step count of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.engine.oom import translate_oom
from peftsweep.engine.slot_params import SlotParameters
from peftsweep.layers.staging_buffer import to_device

BETA1, BETA2, EPS, MOMENTUM = 0.9, 0.999, 1e-8, 0.9  # torch's own defaults
COLUMNS = ("runs", "limit", "rate", "decay", "coupled", "sgd", "keep1", "gain1", "keep2", "gain2", "fix1", "fix2")


@dataclass(frozen=True)
class SlotUpdate:
    """What a slot's update needs: its index, the steps it has done before, its learning rate."""

    index: int
    done: int
    rate: float
    params: TrainConfig

    def column(self) -> tuple[float, ...]:
        """The values of `COLUMNS`. torch's SGD adds weight decay to the gradient, AdamW takes it off the weights."""
        sgd, decay = self.params.optimizer == "sgd", self.params.weight_decay
        first = (MOMENTUM, 1.0) if sgd else (BETA1, 1 - BETA1)
        corrections = (1 - BETA1 ** (self.done + 1), (1 - BETA2 ** (self.done + 1)) ** 0.5)
        decays = (0.0, decay) if sgd else (decay, 0.0)
        return (1.0, self.params.max_grad_norm, self.rate, *decays, float(sgd), *first, BETA2, 1 - BETA2, *corrections)


@translate_oom()
@torch.no_grad()
def step(stack: SlotParameters, turns: Sequence[SlotUpdate]) -> Tensor:
    """Clip and update the rows of some slots; the others' stay as they are. Returns the norms of all gradients [K].

    A gradient that is not finite spoils its own row alone. All memory is asked for before anything is written, so that
    a step that finds none can be taken again.
    """
    norms: Tensor = stack.grads.norm(dim=1)
    values = np.zeros((len(COLUMNS), len(stack.weights), 1), str(stack.weights.dtype).removeprefix("torch."))
    for turn in turns:
        values[:, turn.index, 0] = turn.column()
    columns = to_device(values, stack.weights.device)  # [columns, K, 1]
    limit = columns[COLUMNS.index("limit")]
    clips = (limit > 0) & (norms[:, None] > limit)
    clip = torch.where(clips, limit / (norms[:, None] + 1e-6), 1.0)  # [K, 1]
    on_gpu = stack.weights.device.type == "cuda"
    update = _compiled() if on_gpu else _update
    # All rows in one launch on a GPU; on a CPU row by row, for a row stays in the cache from one operation to the next.
    for row in [slice(None)] if on_gpu else [slice(turn.index, turn.index + 1) for turn in turns]:
        for cut, decays in stack.cuts:
            matrices = (stack.weights, stack.grads, *stack.moments.values())
            update([matrix[row, cut] for matrix in matrices], clip[row], columns[:, row], decays)
    return norms


def _update(matrices: Sequence[Tensor], clip: Tensor, columns: Tensor, decays: bool) -> None:
    """In place: AdamW as in Loshchilov & Hutter, 2019 (arXiv:1711.05101), and SGD with momentum, as torch has them.

    Args:
        matrices: weights, gradients, first and second moments, [k, p] each.
        clip: [k, 1].
        columns: [columns, k, 1].
    """
    weights, grads, first, second = matrices
    runs, _, rate, decay, coupled, sgd, keep1, gain1, keep2, gain2, fix1, fix2 = columns.unbind()
    grad = grads * clip
    if decays:
        grad = grad + coupled * weights
    new_first = keep1 * first + gain1 * grad
    new_second = keep2 * second + gain2 * grad * grad
    adam = (new_first / fix1) / (new_second.sqrt() / fix2 + EPS)
    kept = weights * (1 - rate * decay) if decays else weights
    new_weights = kept - rate * torch.where(sgd > 0, new_first, adam)
    taking = runs > 0  # selected, not multiplied: what does not take part has divided by zero
    first.copy_(torch.where(taking, new_first, first))
    second.copy_(torch.where(taking, new_second, second))
    weights.copy_(torch.where(taking, new_weights, weights))


@cache
def _compiled() -> Any:
    """One pass over memory instead of a dozen. To choose among ways to launch it, the compiler would copy all matrices
    that it writes, which is most of what the slots take."""
    return torch.compile(_update, dynamic=False, options={"triton.autotune_pointwise": False})
