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
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.layers.staging_buffer import to_device

BETA1, BETA2, EPS, MOMENTUM = 0.9, 0.999, 1e-8, 0.9  # torch's own defaults
COLUMNS = ("runs", "limit", "rate", "decay", "coupled", "sgd", "keep1", "gain1", "keep2", "gain2", "fix1", "fix2")


@dataclass(frozen=True)
class SlotUpdate:
    """What the update of a slot needs: its index, the number of steps done before, its learning rate."""

    index: int
    done: int
    rate: float
    params: TrainConfig

    def column(self) -> tuple[float, ...]:
        """The values of `COLUMNS`. As in torch, SGD adds weight decay to the gradient, and AdamW subtracts it from the
        weights."""
        sgd, decay = self.params.optimizer == "sgd", self.params.weight_decay
        first = (MOMENTUM, 1.0) if sgd else (BETA1, 1 - BETA1)
        corrections = (1 - BETA1 ** (self.done + 1), (1 - BETA2 ** (self.done + 1)) ** 0.5)
        decays = (0.0, decay) if sgd else (decay, 0.0)
        return (1.0, self.params.max_grad_norm, self.rate, *decays, float(sgd), *first, BETA2, 1 - BETA2, *corrections)


@translate_oom()
@torch.no_grad()
def step(stack: SlotParameters, updates: Sequence[SlotUpdate]) -> Tensor:
    """Clip and update the rows of some slots, and leave the others as they are. Returns the norms of all gradients [K].

    A gradient that is not finite spoils its own row only. All memory is allocated before anything is written, so a step
    that runs out of memory can be repeated.
    """
    norms: Tensor = stack.grads.norm(dim=1)
    dtype = str(stack.weights.dtype).removeprefix("torch.")
    values = np.zeros((len(stack.groups), len(COLUMNS), len(stack.weights), 1), dtype)
    for update in updates:
        values[:, :, update.index, 0] = update.column()
        for number, group in enumerate(stack.groups):
            values[number, COLUMNS.index("rate"), update.index] *= group.rate_factor(update.params)
    columns = to_device(values, stack.weights.device)  # [groups, columns, K, 1]
    limit = columns[0, COLUMNS.index("limit")]
    clips = (limit > 0) & (norms[:, None] > limit)
    clip = torch.where(clips, limit / (norms[:, None] + 1e-6), 1.0)  # [K, 1]
    on_gpu = stack.weights.device.type == "cuda"
    apply = _compiled() if on_gpu else _update
    matrices = (stack.weights, stack.grads, *stack.moments.values())
    # On a GPU, one launch for all rows. On a CPU, row by row: a row stays in the cache from one operation to the next.
    for row in [slice(None)] if on_gpu else [slice(update.index, update.index + 1) for update in updates]:
        for number, group in enumerate(stack.groups):
            parts = [matrix[row, group.columns] for matrix in matrices]
            apply(parts, clip[row], columns[number, :, row], group.decays)
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
    runs_now = runs > 0  # select, do not multiply: rows that take no part have divided by zero
    first.copy_(torch.where(runs_now, new_first, first))
    second.copy_(torch.where(runs_now, new_second, second))
    weights.copy_(torch.where(runs_now, new_weights, weights))


@cache
def _compiled() -> Any:
    """`_update` compiled: one pass over memory instead of a dozen. Autotuning is off, because it would copy all
    matrices that the kernel writes, which are most of the memory of the slots."""
    return torch.compile(_update, dynamic=False, options={"triton.autotune_pointwise": False})
