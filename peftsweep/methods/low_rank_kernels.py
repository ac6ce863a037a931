"""Low-rank adapters of all slots on a GPU: three Triton kernels, and the linear layer made of them.

Each kernel is one launch for all slots (see layers/tile_kernels.py), and the order of summation depends on the slot's rows only.
Dropout masks are never stored: forward and backward compute them from the slot's seed and the element's place.

`linear_low_rank` is a custom operator, so that `torch.compile` sees through the layers around it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from peftsweep.layers.segments import TILE
from peftsweep.layers.tile_kernels import edges_of, tile_of

NARROWEST = 16  # the fewest columns that a tensor core multiplies


@triton.jit
def _kept(seed, salt, place, keep):  # type: ignore[no-untyped-def]
    """Whether an element is kept, by an integer hash (lowbias32, https://nullprogram.com/blog/2018/07/31)."""
    key = place.to(tl.uint32) ^ seed.to(tl.uint32)
    key = (key ^ (key >> 16)) * 0x7FEB352D
    key = (key ^ (key >> 15) ^ salt.to(tl.uint32)) * 0x846CA68B
    key = key ^ (key >> 16)
    return (key >> 8).to(tl.float32) < keep * 16777216.0


@triton.jit  # type: ignore[untyped-decorator]
def _shrink(  # type: ignore[no-untyped-def]
    x, matrix, out, factor, keep, seeds, salt, tiles, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """out[t, r] = factor[k] · Σ_d dropout(x)[t, d] · matrix[k, d, r] for the rows t of slot k."""
    tile = tl.program_id(0)
    slot, first, origin, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    rows = first + tl.arange(0, TILE)
    real = rows < end
    ranks = tl.arange(0, R)
    keeps, seed, grain = tl.load(keep + slot), tl.load(seeds + slot), tl.load(salt)
    total = tl.zeros((TILE, R), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < WIDTH
        part = tl.load(x + rows.to(tl.int64)[:, None] * WIDTH + columns, real[:, None] & inside, 0.0)
        if DROPS:
            place = (rows - origin)[:, None] * WIDTH + columns
            part = tl.where(_kept(seed, grain, place, keeps), part, 0.0).to(x.dtype.element_ty)
        held = (ranks < RANK) & inside[:, None]
        some = tl.load(matrix + slot * of_slot + columns[:, None] * of_width + ranks * of_rank, held, 0.0)
        total = tl.dot(part, some.to(part.dtype), total, input_precision="ieee" if EXACT else "tf32")
    scaled = total * (tl.load(factor + slot) / keeps)
    tl.store(out + rows.to(tl.int64)[:, None] * R + ranks, scaled.to(out.dtype.element_ty), real[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def]
    hidden, matrix, y, keep, seeds, salt, tiles, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """y[t, d] += mask[t, d] · Σ_r hidden[t, r] · matrix[k, d, r] for the rows t of slot k, in place."""
    tile, block = tl.program_id(0), tl.program_id(1)
    slot, first, origin, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    rows = first + tl.arange(0, TILE)
    real = rows < end
    ranks = tl.arange(0, R)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = real[:, None] & (columns < WIDTH)
    part = tl.load(hidden + rows.to(tl.int64)[:, None] * R + ranks, real[:, None], 0.0)
    held = (ranks < RANK)[:, None] & (columns < WIDTH)
    some = tl.load(matrix + slot * of_slot + columns * of_width + ranks[:, None] * of_rank, held, 0.0)
    added = tl.dot(part, some.to(part.dtype), input_precision="ieee" if EXACT else "tf32")
    if DROPS:
        place = (rows - origin)[:, None] * WIDTH + columns
        added = tl.where(_kept(tl.load(seeds + slot), tl.load(salt), place, tl.load(keep + slot)), added, 0.0)
    where = y + rows.to(tl.int64)[:, None] * WIDTH + columns
    before = tl.load(where, inside, 0.0)
    tl.store(where, (before.to(tl.float32) + added).to(y.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _outer(  # type: ignore[no-untyped-def]
    x, hidden, out, keep, seeds, salt, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """out[k, d, r] = Σ_t dropout(x)[t, d] · hidden[t, r] over the rows t of slot k, from first to last."""
    slot, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end, skipped = edges_of(slot, edges)
    ranks = tl.arange(0, R)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    keeps, seed, grain = tl.load(keep + slot), tl.load(seeds + slot), tl.load(salt)
    total = tl.zeros((BLOCK, R), tl.float32)
    for start in range(begin, end, TILE):
        rows = start + tl.arange(0, TILE)
        real = rows < end
        part = tl.load(x + rows.to(tl.int64) * WIDTH + columns[:, None], real & (columns < WIDTH)[:, None], 0.0)
        if DROPS:
            place = (rows - begin + skipped) * WIDTH + columns[:, None]
            part = tl.where(_kept(seed, grain, place, keeps), part, 0.0).to(x.dtype.element_ty)
        some = tl.load(hidden + rows.to(tl.int64)[:, None] * R + ranks, real[:, None], 0.0)
        total = tl.dot(part, some, total, input_precision="ieee" if EXACT else "tf32")
    held = (columns < WIDTH)[:, None] & (ranks < RANK)
    tl.store(out + slot * of_slot + columns[:, None] * of_width + ranks * of_rank, total, held)


class _Adapters:
    """The kernels over one layer's stacked parameters, with their common arguments: tiles, dropout, padded rank."""

    def __init__(self, keep: Tensor, seeds: Tensor, salt: Tensor, tiles: Tensor, edges: Tensor, rank: int) -> None:
        self.dropout = (keep, seeds, salt)
        self.tiles, self.edges, self.rank = tiles, edges, rank
        self.columns = max(NARROWEST, triton.next_power_of_2(rank))

    def _shape(self, matrix: Tensor, wide: int, like: Tensor, drops: bool) -> dict[str, Any]:
        """A stack [K, wide, r] or, with its last two sides swapped, [K, r, wide], as the kernels take it."""
        of_width, of_rank = (matrix.stride(1), matrix.stride(2)) if wide == 1 else (matrix.stride(2), matrix.stride(1))
        return {
            "WIDTH": matrix.shape[wide],
            "RANK": self.rank,
            "of_slot": matrix.stride(0),
            "of_width": of_width,
            "of_rank": of_rank,
            "R": self.columns,
            "TILE": TILE,
            "DROPS": drops,
            "EXACT": like.dtype == torch.float32,
        }

    def shrink(self, x: Tensor, matrix: Tensor, wide: int, factor: Tensor, drops: bool) -> Tensor:
        """[T, columns]"""
        out = x.new_empty(x.shape[0], self.columns)
        shape = self._shape(matrix, wide, x, drops)
        _shrink[(self.tiles.shape[0],)](
            x, matrix, out, factor, *self.dropout, self.tiles, self.edges, **shape, BLOCK=64
        )
        return out

    def expand_into(self, y: Tensor, hidden: Tensor, matrix: Tensor, wide: int, drops: bool) -> None:
        shape = self._shape(matrix, wide, y, drops)
        grid = (self.tiles.shape[0], triton.cdiv(shape["WIDTH"], 128))
        _expand[grid](hidden, matrix, y, *self.dropout, self.tiles, self.edges, **shape, BLOCK=128)

    def outer(self, x: Tensor, hidden: Tensor, like: Tensor, wide: int, drops: bool) -> Tensor:
        """Of the shape of the stack `like`, fp32."""
        out = like.new_empty(like.shape)
        shape = self._shape(out, wide, x, drops)
        grid = (like.shape[0], triton.cdiv(shape["WIDTH"], 64))
        _outer[grid](x, hidden, out, *self.dropout, self.edges, **shape, BLOCK=64)
        return out


def plain_weight(weight: Tensor, absmax: Tensor | None, out_features: int, like: Tensor) -> Tensor:
    """The frozen weight [d_out, d_in] in the activations' type; NF4 with its scales [blocks of 64] is unpacked."""
    if absmax is None:
        return weight
    shape = [out_features, like.shape[1]]
    unpacked: Tensor = torch.ops.bitsandbytes.dequantize_4bit(weight, absmax, 64, "nf4", shape, like.dtype)
    return unpacked


@torch.library.custom_op("peftsweep::linear_low_rank", mutates_args=())
def linear_low_rank(
    x: Tensor,
    weight: Tensor,
    absmax: Tensor | None,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    factor: Tensor,
    keep: Tensor,
    seeds: Tensor,
    salt: Tensor,
    tiles: Tensor,
    edges: Tensor,
    drops: bool,
) -> tuple[Tensor, Tensor]:
    """y = x Wᵀ + bias + factor·B A dropout(x), and the hidden rows factor·A dropout(x) for backward.

    Args:
        x: [T, d_in]. weight: [d_out, d_in], or NF4 with absmax. a: [K, r, d_in]. b: [K, d_out, r].
        factor, keep: [K] α/r (zero where a slot does not adapt the layer), and the share that dropout keeps.
        seeds: [K] of the slots' masks; salt: [1] of the layer's.
        tiles, edges: see `Segments`.
    """
    adapters = _Adapters(keep, seeds, salt, tiles, edges, a.shape[1])
    y = torch.nn.functional.linear(x, plain_weight(weight, absmax, b.shape[1], x), bias)
    hidden = adapters.shrink(x, a, 2, factor, drops)
    adapters.expand_into(y, hidden, b, 1, drops=False)
    return y, hidden


@linear_low_rank.register_fake
def _(x, weight, absmax, bias, a, b, factor, keep, seeds, salt, tiles, edges, drops):  # type: ignore[no-untyped-def]
    columns = max(NARROWEST, triton.next_power_of_2(int(a.shape[1])))
    return x.new_empty(x.shape[0], b.shape[1]), x.new_empty(x.shape[0], columns)


@torch.library.custom_op("peftsweep::linear_low_rank_backward", mutates_args=())
def linear_low_rank_backward(
    grad: Tensor,
    x: Tensor,
    hidden: Tensor,
    weight: Tensor,
    absmax: Tensor | None,
    a: Tensor,
    b: Tensor,
    factor: Tensor,
    keep: Tensor,
    seeds: Tensor,
    salt: Tensor,
    tiles: Tensor,
    edges: Tensor,
    drops: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x [T, d_in], a and b."""
    adapters = _Adapters(keep, seeds, salt, tiles, edges, a.shape[1])
    to_b = adapters.outer(grad, hidden, b, 1, drops=False)
    to_hidden = adapters.shrink(grad, b, 1, factor, drops=False)
    to_a = adapters.outer(x, to_hidden, a, 2, drops)
    to_x = grad @ plain_weight(weight, absmax, b.shape[1], x)
    adapters.expand_into(to_x, to_hidden, a, 2, drops)
    return to_x, to_a, to_b


@linear_low_rank_backward.register_fake
def _(grad, x, hidden, weight, absmax, a, b, factor, keep, seeds, salt, tiles, edges, drops):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), a.new_empty(a.shape), b.new_empty(b.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, absmax, _, a, b, factor, keep, seeds, salt, tiles, edges, drops = inputs
    ctx.save_for_backward(x, output[1], weight, absmax, a, b, factor, keep, seeds, salt, tiles, edges)
    ctx.drops = drops
    ctx.mark_non_differentiable(output[1])


def _back(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, hidden, weight, absmax, a, b, factor, keep, seeds, salt, tiles, edges = ctx.saved_tensors
    to_x, to_a, to_b = linear_low_rank_backward(
        grad.contiguous(), x, hidden, weight, absmax, a, b, factor, keep, seeds, salt, tiles, edges, ctx.drops
    )
    return to_x, None, None, None, to_a, to_b, *(None,) * 7


linear_low_rank.register_autograd(_back, setup_context=_keep)
