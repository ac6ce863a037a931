"""The update of all slots on a GPU, in Triton: one kernel for the norms, and one for each group of columns.

A program works on a stretch of one slot's row. What lies beyond the columns that a slot's trial uses, and slots that take
no part, cost nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from peftsweep.engine.slot_weights import SlotParameters
from peftsweep.layers.staging_buffer import StagingBuffer, to_device

BLOCK = 2048  # columns of a program


@triton.jit  # type: ignore[untyped-decorator]
def _squares(grads, out, stops, WIDTH, BLOCKS, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """out[k, block] = the sum of the squares of a block of slot k's gradients."""
    block, slot = tl.program_id(0), tl.program_id(1)
    stop = tl.load(stops + slot)
    if block * BLOCK >= stop:
        return
    at = block * BLOCK + tl.arange(0, BLOCK)
    grad = tl.load(grads + slot.to(tl.int64) * WIDTH + at, at < stop, 0.0)
    tl.store(out + slot * BLOCKS + block, tl.sum(grad * grad))


@triton.jit  # type: ignore[untyped-decorator]
def _update(  # type: ignore[no-untyped-def]
    weights, grads, first, second, norms, values, stops, START, WIDTH, SLOTS,
    EPS: tl.constexpr, DECAYS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One group's update, as `optimizer._update` has it. Gradients become zero.

    Args:
        values: [columns, K], see `optimizer.COLUMNS`.
        stops: [K] the column after the last one that the slot uses of this group, which begins at START.
    """
    block, slot = tl.program_id(0), tl.program_id(1)
    stop = tl.load(stops + slot)
    own = values + slot
    if (START + block * BLOCK >= stop) | (tl.load(own) == 0):
        return
    limit, rate, decay = tl.load(own + SLOTS), tl.load(own + 2 * SLOTS), tl.load(own + 3 * SLOTS)
    coupled, sgd = tl.load(own + 4 * SLOTS), tl.load(own + 5 * SLOTS)
    keep1, gain1 = tl.load(own + 6 * SLOTS), tl.load(own + 7 * SLOTS)
    keep2, gain2 = tl.load(own + 8 * SLOTS), tl.load(own + 9 * SLOTS)
    fix1, fix2 = tl.load(own + 10 * SLOTS), tl.load(own + 11 * SLOTS)
    norm = tl.load(norms + slot)
    clip = tl.where((limit > 0) & (norm > limit), limit / (norm + 1e-6), 1.0)
    columns = START + block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < stop
    at = slot.to(tl.int64) * WIDTH + columns
    weight, grad = tl.load(weights + at, inside, 0.0), tl.load(grads + at, inside, 0.0) * clip
    if DECAYS:
        grad += coupled * weight
    new_first = keep1 * tl.load(first + at, inside, 0.0) + gain1 * grad
    new_second = keep2 * tl.load(second + at, inside, 0.0) + gain2 * grad * grad
    adam = (new_first / fix1) / (tl.sqrt(new_second) / fix2 + EPS)
    kept = weight * (1 - rate * decay) if DECAYS else weight
    tl.store(weights + at, kept - rate * tl.where(sgd > 0, new_first, adam), inside)
    tl.store(first + at, new_first, inside)
    tl.store(second + at, new_second, inside)
    tl.store(grads + at, tl.zeros((BLOCK,), tl.float32), inside)


def clip_and_update(stack: SlotParameters, values: NDArray[np.floating[Any]], eps: float, block: int = BLOCK) -> Tensor:
    """See `optimizer.step`.

    Args:
        values: [groups, columns, K], see `optimizer.COLUMNS`.
        block: number of columns of a program.

    Returns:
        The norms of all gradients [K].
    """
    slots, width = stack.weights.shape
    stops = np.zeros((len(stack.groups) + 1, slots), np.int64)  # of each group, and of all
    for slot, used in enumerate(stack.used):
        stops[: len(used), slot], stops[-1, slot] = [columns.stop for columns in used], stack.stop(slot)
    staging = StagingBuffer({"values": values, "stops": stops, "none": np.zeros_like(stops)})
    there = staging.views(to_device(staging.words, stack.weights.device))
    blocks = max(1, triton.cdiv(int(stops.max()), block))
    squares = torch.zeros(slots, blocks, device=stack.weights.device)
    _squares[blocks, slots](stack.grads, squares, there["stops"][-1], width, blocks, BLOCK=block)
    norms = squares.sum(1).sqrt()
    # The first launches load kernels, for which memory may be full: they change nothing, so the step can be repeated.
    for ends in ("stops",) if stack.updated else ("none", "stops"):
        for number, group in enumerate(stack.groups):
            start = group.columns.start
            grid = max(1, triton.cdiv(int(stops[number].max()) - start, block)), slots
            _update[grid](
                stack.weights,
                stack.grads,
                *stack.moments.values(),
                norms,
                there["values"][number],
                there[ends][number],
                start,
                width,
                slots,
                EPS=eps,
                DECAYS=group.decays,
                BLOCK=block,
                num_warps=8,
            )
    stack.updated = True
    return norms
