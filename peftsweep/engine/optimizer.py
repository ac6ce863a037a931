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

        return clip_and_update(stack, values, EPS)
    norms: Tensor = stack.grads.norm(dim=1)
    found = norms.tolist()
    matrices = (stack.weights, stack.grads, *stack.moments.values())
    spare = torch.empty(2, stack.weights.shape[1], dtype=stack.weights.dtype, device=stack.weights.device)
    for update in updates:  # row by row: a row stays in a CPU's cache from one operation to the next
        for number, (group, used) in enumerate(zip(stack.groups, stack.used[update.index], strict=True)):
            parts = [*(matrix[update.index, used] for matrix in matrices), *spare[:, used]]
            _update(parts, found[update.index], values[number, :, update.index].tolist(), group.decays)
    stack.grads.zero_()
    return norms


def columns_of(stack: SlotParameters, updates: Sequence[SlotUpdate]) -> NDArray[np.floating[Any]]:
    """The values of `COLUMNS` for each group and slot: [groups, columns, K]."""
    dtype = str(stack.weights.dtype).removeprefix("torch.")
    values = np.zeros((len(stack.groups), len(COLUMNS), len(stack.weights)), dtype)
    for update in updates:
        values[:, :, update.index] = update.column()
        for number, group in enumerate(stack.groups):
            values[number, COLUMNS.index("rate"), update.index] *= group.rate_factor(update.params)
    return values


def _update(parts: Sequence[Tensor], norm: float, values: Sequence[float], decays: bool) -> None:
    """In place: AdamW as in Loshchilov & Hutter, 2019 (arXiv:1711.05101), and SGD with momentum, as torch has them.

    Args:
        parts: weights, gradients, first and second moments, and two spare rows, [p] each.
        norm: of all gradients of the slot.
        values: of `COLUMNS`.
    """
    weights, grad, first, second, spare, other = parts
    _, limit, rate, decay, coupled, sgd, keep1, gain1, keep2, gain2, fix1, fix2 = values
    if limit > 0 and norm > limit:
        grad.mul_(limit / (norm + 1e-6))
    if decays and coupled:
        grad.add_(weights, alpha=coupled)
    first.mul_(keep1).add_(grad, alpha=gain1)
    second.mul_(keep2).addcmul_(grad, grad, value=gain2)
    if decays:
        weights.mul_(1 - rate * decay)
    if sgd:
        weights.add_(first, alpha=-rate)
        return
    torch.sqrt(second, out=spare).div_(fix2).add_(EPS)
    torch.div(first, fix1, out=other).div_(spare)
    weights.add_(other, alpha=-rate)
