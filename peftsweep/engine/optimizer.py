"""AdamW and SGD over the rows of a stack: each slot has hyperparameters, moments and a step count of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.config import TrainConfig
from peftsweep.engine.oom import translate_oom
from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.layers.staging_buffer import to_device
from peftsweep.layers.triton_devices import runs_triton

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
    """Clip and update the rows of some slots, and clear their gradients; the others stay as they are. Returns the norms
    of all gradients [K].

    A gradient that is not finite spoils its own row only. All memory is allocated before anything is written, so a step
    that runs out of memory can be repeated.
    """
    values = columns_of(stack, updates)
    if runs_triton(stack.weights.device):
        from peftsweep.engine.optimizer_kernels import clip_and_update

        return clip_and_update(stack, values[..., 0], EPS)
    columns = to_device(values, stack.weights.device)  # [groups, columns, K, 1]
    norms: Tensor = stack.grads.norm(dim=1)
    limit = columns[0, COLUMNS.index("limit")]
    clips = (limit > 0) & (norms[:, None] > limit)
    clip = torch.where(clips, limit / (norms[:, None] + 1e-6), 1.0)  # [K, 1]
    matrices = (stack.weights, stack.grads, *stack.moments.values())
    for update in updates:  # row by row: a row stays in a CPU's cache from one operation to the next
        row = slice(update.index, update.index + 1)
        for number, (group, used) in enumerate(zip(stack.groups, stack.used[update.index], strict=True)):
            parts = [matrix[row, used] for matrix in matrices]
            _update(parts, clip[row], columns[number, :, row], group.decays)
    stack.grads.zero_()
    return norms


def columns_of(stack: SlotParameters, updates: Sequence[SlotUpdate]) -> NDArray[np.floating[Any]]:
    """The values of `COLUMNS` for each group and slot: [groups, columns, K, 1]."""
    dtype = str(stack.weights.dtype).removeprefix("torch.")
    values = np.zeros((len(stack.groups), len(COLUMNS), len(stack.weights), 1), dtype)
    for update in updates:
        values[:, :, update.index, 0] = update.column()
        for number, group in enumerate(stack.groups):
            values[number, COLUMNS.index("rate"), update.index] *= group.rate_factor(update.params)
    return values


def _update(matrices: Sequence[Tensor], clip: Tensor, columns: Tensor, decays: bool) -> None:
    """In place: AdamW as in Loshchilov & Hutter, 2019 (arXiv:1711.05101), and SGD with momentum, as torch has them.

    Args:
        matrices: weights, gradients, first and second moments, [k, p] each.
        clip: [k, 1].
        columns: [columns, k, 1].
    """
    weights, grads, first, second = matrices
    rate, decay, coupled, sgd, keep1, gain1, keep2, gain2, fix1, fix2 = columns.unbind()[2:]
    grad = grads * clip
    if decays:
        grad = grad + coupled * weights
    new_first = keep1 * first + gain1 * grad
    new_second = keep2 * second + gain2 * grad * grad
    adam = (new_first / fix1) / (new_second.sqrt() / fix2 + EPS)
    kept = weights * (1 - rate * decay) if decays else weights
    new_weights = kept - rate * torch.where(sgd > 0, new_first, adam)
    first.copy_(new_first)
    second.copy_(new_second)
    weights.copy_(new_weights)
