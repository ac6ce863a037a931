"""Low-rank adapters of all slots on a GPU: three Triton kernels, and the linear layer made of them.

Each kernel is one launch for all slots (see layers/tile_kernels.py), and the order of summation depends on the slot's rows only.
Of the stacked matrices, only what belongs to a slot's own rank is read and written. Gradients of A and B are added to
those of the pack directly, in slots that have rows. Dropout masks are never stored: forward and backward compute them
from the slot's seed and the element's place.

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
MANY = 8192  # rows that keep any GPU busy; fewer are divided among more programs


@triton.jit
def _key(seed, salt):  # type: ignore[no-untyped-def]
    """The key of a slot's mask in a layer, by an integer hash (lowbias32, https://nullprogram.com/blog/2018/07/31)."""
    key = seed.to(tl.uint32)
    key = (key ^ (key >> 16)) * 0x7FEB352D
    key = (key ^ (key >> 15) ^ salt.to(tl.uint32)) * 0x846CA68B
    return key ^ (key >> 16)


@triton.jit
def _kept(key, place, threshold):  # type: ignore[no-untyped-def]
    """Whether an element is kept. Half of what dropout costs is this hash, so it has no more than two products, and the
    upper bits decide."""
    mixed = (place.to(tl.uint32) ^ key) * 0x9E3779B1
    mixed = (mixed ^ (mixed >> 15)) * 0x846CA68B
    return (mixed >> 8).to(tl.int32) < threshold


@triton.jit
def _threshold(keep):  # type: ignore[no-untyped-def]
    """How many of 2²⁴ values are kept. Whole numbers compare faster than fractions."""
    return tl.ceil(keep * 16777216.0).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _shrink(  # type: ignore[no-untyped-def]
    x, matrix, out, ranks, factor, keep, seeds, salt, tiles, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """out[t, r] = factor[k] · Σ_d dropout(x)[t, d] · matrix[k, d, r] for the rows t of slot k."""
    slot, first, origin, end = tile_of(tl.program_id(0), tiles, edges)
    rows = first + tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    if first + tl.program_id(1) * ROWS >= end:
        return
    real = rows < end
    at, rank = tl.arange(0, R), tl.minimum(tl.load(ranks + slot), RANK)
    kept = tl.load(keep + slot)
    key, threshold = _key(tl.load(seeds + slot), tl.load(salt)), _threshold(kept)
    total = tl.zeros((ROWS, R), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < WIDTH
        part = tl.load(x + rows.to(tl.int64)[:, None] * WIDTH + columns, real[:, None] & inside, 0.0)
        if DROPS:
            place = (rows - origin)[:, None] * WIDTH + columns
            part = tl.where(_kept(key, place, threshold), part, 0.0).to(x.dtype.element_ty)
        held = (at < rank) & inside[:, None]
        some = tl.load(matrix + slot * of_slot + columns[:, None] * of_width + at * of_rank, held, 0.0)
        total = tl.dot(part, some.to(part.dtype), total, input_precision="ieee" if EXACT else "tf32")
    scaled = total * (tl.load(factor + slot) / kept)
    tl.store(out + rows.to(tl.int64)[:, None] * R + at, scaled.to(out.dtype.element_ty), real[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def]
    hidden, matrix, y, ranks, keep, seeds, salt, tiles, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """y[t, d] += mask[t, d] · Σ_r hidden[t, r] · matrix[k, d, r] for the rows t of slot k, in place."""
    slot, first, origin, end = tile_of(tl.program_id(0), tiles, edges)
    rank = tl.minimum(tl.load(ranks + slot), RANK)
    if (first >= end) | (rank == 0):
        return
    rows = first + tl.arange(0, ROWS)
    at = tl.arange(0, R)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < end)[:, None] & (columns < WIDTH)
    part = tl.load(hidden + rows.to(tl.int64)[:, None] * R + at, (rows < end)[:, None], 0.0)
    held = (at < rank)[:, None] & (columns < WIDTH)
    some = tl.load(matrix + slot * of_slot + columns * of_width + at[:, None] * of_rank, held, 0.0)
    added = tl.dot(part, some.to(part.dtype), input_precision="ieee" if EXACT else "tf32")
    if DROPS:
        place = (rows - origin)[:, None] * WIDTH + columns
        key, threshold = _key(tl.load(seeds + slot), tl.load(salt)), _threshold(tl.load(keep + slot))
        added = tl.where(_kept(key, place, threshold), added, 0.0)
    where = y + rows.to(tl.int64)[:, None] * WIDTH + columns
    before = tl.load(where, inside, 0.0)
    tl.store(where, (before.to(tl.float32) + added).to(y.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _outer(  # type: ignore[no-untyped-def]
    x, hidden, out, ranks, keep, seeds, salt, edges,
    WIDTH, RANK, of_slot, of_width, of_rank,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DROPS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """out[k, d, r] += Σ_t dropout(x)[t, d] · hidden[t, r] over the rows t of slot k, from first to last."""
    block, slot = tl.program_id(0), tl.program_id(1).to(tl.int64)
    begin, end, skipped = edges_of(slot, edges)
    rank = tl.minimum(tl.load(ranks + slot), RANK)
    if (begin >= end) | (rank == 0):
        return
    at = tl.arange(0, R)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    key, threshold = _key(tl.load(seeds + slot), tl.load(salt)), _threshold(tl.load(keep + slot))
    total = tl.zeros((BLOCK, R), tl.float32)
    for start in range(begin, end, ROWS):
        rows = start + tl.arange(0, ROWS)
        real = rows < end
        part = tl.load(x + rows.to(tl.int64) * WIDTH + columns[:, None], real & (columns < WIDTH)[:, None], 0.0)
        if DROPS:
            place = (rows - begin + skipped) * WIDTH + columns[:, None]
            part = tl.where(_kept(key, place, threshold), part, 0.0).to(x.dtype.element_ty)
        some = tl.load(hidden + rows.to(tl.int64)[:, None] * R + at, real[:, None], 0.0)
        total = tl.dot(part, some, total, input_precision="ieee" if EXACT else "tf32")
    held = (columns < WIDTH)[:, None] & (at < rank)
    where = out + slot * of_slot + columns[:, None] * of_width + at * of_rank
    tl.store(where, tl.load(where, held, 0.0) + total, held)


class _Adapters:
    """The kernels over one layer's stacked parameters, with their common arguments: ranks, dropout, tiles."""

    def __init__(
        self, ranks: Tensor, keep: Tensor, seeds: Tensor, salt: Tensor, tiles: Tensor, edges: Tensor, widest: int
    ) -> None:
        self.ranks, self.dropout, self.widest = ranks, (keep, seeds, salt), widest
        self.tiles, self.edges = tiles, edges
        self.columns = max(NARROWEST, triton.next_power_of_2(widest))

    def _shape(self, matrix: Tensor, wide: int, like: Tensor, drops: bool) -> dict[str, Any]:
        """A stack [K, wide, r] or, with its last two sides swapped, [K, r, wide], as the kernels take it."""
        of_width, of_rank = (matrix.stride(1), matrix.stride(2)) if wide == 1 else (matrix.stride(2), matrix.stride(1))
        return {
            "WIDTH": matrix.shape[wide],
            "RANK": self.widest,
            "of_slot": matrix.stride(0),
            "of_width": of_width,
            "of_rank": of_rank,
            "R": self.columns,
            "DROPS": drops,
            "EXACT": like.dtype == torch.float32,
        }

    def shrink(self, x: Tensor, matrix: Tensor, wide: int, factor: Tensor, drops: bool) -> Tensor:
        """[T, columns]"""
        out = x.new_empty(x.shape[0], self.columns)
        shape = self._shape(matrix, wide, x, drops)
        rows = TILE if self.columns > 32 and x.shape[0] >= MANY else TILE // 2
        grid = (self.tiles.shape[0], TILE // rows)
        _shrink[grid](
            x, matrix, out, self.ranks, factor, *self.dropout, self.tiles, self.edges, **shape, ROWS=rows, BLOCK=64
        )
        return out

    def expand_into(self, y: Tensor, hidden: Tensor, matrix: Tensor, wide: int, drops: bool) -> None:
        shape = self._shape(matrix, wide, y, drops)
        block = 64 if shape["WIDTH"] < 1024 else 128
        grid = (self.tiles.shape[0], triton.cdiv(shape["WIDTH"], block))
        _expand[grid](
            hidden, matrix, y, self.ranks, *self.dropout, self.tiles, self.edges, **shape, ROWS=TILE, BLOCK=block
        )

    def outer_into(self, total: Tensor, x: Tensor, hidden: Tensor, wide: int, drops: bool) -> None:
        """Add to a stack, which is fp32."""
        shape = self._shape(total, wide, x, drops)
        block = 64 if x.shape[0] >= MANY else 32
        grid = (triton.cdiv(shape["WIDTH"], block), total.shape[0])
        _outer[grid](x, hidden, total, self.ranks, *self.dropout, self.edges, **shape, ROWS=TILE, BLOCK=block)


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
    to_a: Tensor,
    to_b: Tensor,
    ranks: Tensor,
    factor: Tensor,
    keep: Tensor,
    seeds: Tensor,
    salt: Tensor,
    tiles: Tensor,
    edges: Tensor,
    drops: bool,
) -> tuple[Tensor, Tensor]:
    """y = x Wᵀ + bias + factor·B A dropout(x), and the hidden rows factor·A dropout(x) for backward.

    Backward adds the gradients of a and b to `to_a` and `to_b`, and gives autograd none: it would write them for all
    slots, at the widest rank, and then add what it wrote.

    Args:
        x: [T, d_in]. weight: [d_out, d_in], or NF4 with absmax.
        a, to_a: [K, r, d_in]. b, to_b: [K, d_out, r].
        ranks: [K] int32, of the slots' trials.
        factor, keep: [K] α/r (zero where a slot does not adapt the layer), and the share that dropout keeps.
        seeds: [K] of the slots' masks; salt: [1] of the layer's.
        tiles, edges: see `Segments`.
    """
    adapters = _Adapters(ranks, keep, seeds, salt, tiles, edges, a.shape[1])
    y = torch.nn.functional.linear(x, plain_weight(weight, absmax, b.shape[1], x), bias)
    hidden = adapters.shrink(x, a, 2, factor, drops)
    adapters.expand_into(y, hidden, b, 1, drops=False)
    return y, hidden


@linear_low_rank.register_fake
def _(x, weight, absmax, bias, a, b, to_a, to_b, ranks, factor, keep, seeds, salt, tiles, edges, drops):  # type: ignore[no-untyped-def]
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
    to_a: Tensor,
    to_b: Tensor,
    ranks: Tensor,
    factor: Tensor,
    keep: Tensor,
    seeds: Tensor,
    salt: Tensor,
    tiles: Tensor,
    edges: Tensor,
    drops: bool,
) -> Tensor:
    """The gradient of x [T, d_in]; those of a and b are added to `to_a` and `to_b`.

    That it writes to these is not declared. A graph would have to copy them, and autograd would refuse a layer that
    a base uses twice; and nothing else in a graph reads or writes them.
    """
    adapters = _Adapters(ranks, keep, seeds, salt, tiles, edges, a.shape[1])
    adapters.outer_into(to_b, grad, hidden, 1, drops=False)
    to_hidden = adapters.shrink(grad, b, 1, factor, drops=False)
    adapters.outer_into(to_a, x, to_hidden, 2, drops)
    to_x = grad @ plain_weight(weight, absmax, b.shape[1], x)
    adapters.expand_into(to_x, to_hidden, a, 2, drops)
    return to_x


# The compiler keeps it also where nobody reads the gradient of x.
torch.fx.node.has_side_effect(torch.ops.peftsweep.linear_low_rank_backward.default)


@linear_low_rank_backward.register_fake
def _(grad, x, hidden, weight, absmax, a, b, to_a, to_b, ranks, factor, keep, seeds, salt, tiles, edges, drops):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, absmax, _, *others, drops = inputs
    ctx.save_for_backward(x, output[1], weight, absmax, *others)
    ctx.drops = drops
    ctx.mark_non_differentiable(output[1])


def _back(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return linear_low_rank_backward(grad.contiguous(), *ctx.saved_tensors, ctx.drops), *(None,) * 15


linear_low_rank.register_autograd(_back, setup_context=_keep)
