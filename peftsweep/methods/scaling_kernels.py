"""Activations times their slot's vector, on a GPU: two Triton kernels for all slots in one launch each.

`scale_rows` is a custom operator, so that `torch.compile` sees through the layers around it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from peftsweep.layers.segments import TILE
from peftsweep.layers.tile_kernels import edges_of, tile_of


@triton.jit  # type: ignore[untyped-decorator]
def _scale(  # type: ignore[no-untyped-def]
    x, scale, adapts, out, tiles, edges, WIDTH, of_slot, TILE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[t, d] = x[t, d] · scale[k, d] for the rows t of slot k, where it adapts the layer."""
    tile, block = tl.program_id(0), tl.program_id(1)
    slot, first, _, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    rows = first + tl.arange(0, TILE)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < end)[:, None] & (columns < WIDTH)
    place = rows.to(tl.int64)[:, None] * WIDTH + columns
    factor = tl.load(scale + slot * of_slot + columns, columns < WIDTH, 0.0)
    factor = tl.where(tl.load(adapts + slot) > 0, factor, 1.0)  # an idle slot's vector is zero
    part = tl.load(x + place, inside, 0.0)
    tl.store(out + place, (part.to(tl.float32) * factor).to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _inner(  # type: ignore[no-untyped-def]
    x, grad, adapts, out, edges, WIDTH, TILE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """out[k, d] = Σ_t grad[t, d] · x[t, d] over the rows t of slot k, from first to last."""
    slot, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end, _ = edges_of(slot, edges)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, end, TILE):
        rows = start + tl.arange(0, TILE)
        inside = (rows < end)[:, None] & (columns < WIDTH)
        place = rows.to(tl.int64)[:, None] * WIDTH + columns
        product = tl.load(x + place, inside, 0.0).to(tl.float32) * tl.load(grad + place, inside, 0.0).to(tl.float32)
        total += tl.sum(product, axis=0)
    tl.store(out + slot * WIDTH + columns, tl.where(tl.load(adapts + slot) > 0, total, 0.0), columns < WIDTH)


@torch.library.custom_op("peftsweep::scale_rows", mutates_args=())
def scale_rows(x: Tensor, scale: Tensor, adapts: Tensor, tiles: Tensor, edges: Tensor) -> Tensor:
    """x [T, d] times its slot's vector of scale [K, d], where adapts [K] is above zero."""
    out = x.clone()  # rows of no slot
    grid = (tiles.shape[0], triton.cdiv(x.shape[1], 128))
    _scale[grid](x, scale, adapts, out, tiles, edges, x.shape[1], scale.stride(0), TILE=TILE, BLOCK=128)
    return out


@scale_rows.register_fake
def _(x, scale, adapts, tiles, edges):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


@torch.library.custom_op("peftsweep::scale_rows_backward", mutates_args=())
def scale_rows_backward(
    grad: Tensor, x: Tensor, scale: Tensor, adapts: Tensor, tiles: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x [T, d] and scale [K, d]."""
    to_scale = scale.new_empty(scale.shape)
    grid = (scale.shape[0], triton.cdiv(x.shape[1], 128))
    _inner[grid](x, grad, adapts, to_scale, edges, x.shape[1], TILE=32, BLOCK=128)
    return scale_rows(grad, scale, adapts, tiles, edges), to_scale


@scale_rows_backward.register_fake
def _(grad, x, scale, adapts, tiles, edges):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), scale.new_empty(scale.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    to_x, to_scale = scale_rows_backward(grad.contiguous(), *ctx.saved_tensors)
    return to_x, to_scale, None, None, None


scale_rows.register_autograd(_back, setup_context=_keep)
