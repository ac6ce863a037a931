"""Attention within each text on a GPU, for short texts: Triton kernels.

Flash attention gives each text its own tiles of 128 queries by 128 keys; a tweet of 27 tokens fills a twentieth of one.
Here a tile is `TILE` rows of one slot, whatever texts they belong to. It reads the rows from the beginning of its first
text to the end of its last one, and each row sees only those of its own text. Grouped heads read the same keys and
values, without copies.

A tile never loads another slot's rows, because masked values are still multiplied (0 · NaN).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from peftsweep.layers.segments import FAR as NOWHERE
from peftsweep.layers.segments import TILE
from peftsweep.layers.tile_kernels import tile_of

FAR = tl.constexpr(NOWHERE)  # a row that no tile reaches


@triton.jit
def _text_of(rows, real, begins, stops):  # type: ignore[no-untyped-def]
    """Where the texts of these rows begin and stop; nowhere, for rows that are not real."""
    return tl.load(begins + rows, real, FAR), tl.load(stops + rows, real, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _seen(rows, columns, begins, stops, left, CAUSAL: tl.constexpr):  # type: ignore[no-untyped-def]
    """[rows, columns] whether the query of a row sees the key of a column: of its own text, not after it where causal,
    and at most `left` away."""
    away = rows[:, None] - columns[None, :]
    seen = (columns[None, :] >= begins[:, None]) & (columns[None, :] < stops[:, None]) & (away <= left)
    if CAUSAL:
        return seen & (away >= 0)
    return seen & (-away <= left)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    q, k, v, out, lse, begins, stops, tiles, edges, scale, left, length,
    q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """out[t] = softmax(scale · q[t] kᵀ) v, and lse[t], the logarithm of the softmax's denominator."""
    tile, head = tl.program_id(0), tl.program_id(1)
    _, first, _, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    rows = first + tl.arange(0, TILE)
    real = rows < end
    begin, stop = _text_of(rows, real, begins, stops)
    low, high = tl.min(begin), tl.max(stop)
    if CAUSAL:
        high = tl.minimum(high, first + TILE)
    dims = tl.arange(0, D)
    inside = dims < WIDTH
    queries = tl.load(q + rows.to(tl.int64)[:, None] * q_row + head * q_head + dims, real[:, None] & inside, 0.0)
    group = head // GROUP
    most = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, D), tl.float32)
    for start in range(low, high, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        held = (columns < end)[:, None] & inside
        place = columns.to(tl.int64)[:, None]
        keys = tl.load(k + place * k_row + group * k_head + dims, held, 0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * scale
        scores = tl.where(_seen(rows, columns, begin, stop, left, CAUSAL), scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # a row that has seen nothing yet
        weights = tl.exp(scores - base[:, None])
        shrunk = tl.exp(most - base)
        values = tl.load(v + place * v_row + group * v_head + dims, held, 0.0)
        total = total * shrunk + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrunk[:, None], input_precision=precision)
        most = higher
    where = out + rows.to(tl.int64)[:, None] * out_row + head * out_head + dims
    tl.store(where, (sums / total[:, None]).to(out.dtype.element_ty), real[:, None] & inside)
    tl.store(lse + head.to(tl.int64) * length + rows, most + tl.log(total), real)


@triton.jit  # type: ignore[untyped-decorator]
def _to_queries(  # type: ignore[no-untyped-def]
    q, k, v, out, grad, lse, delta, to_q, begins, stops, tiles, edges, scale, left, length,
    q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head, grad_row, grad_head,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The queries' gradient, laid out as `out`, and delta[t] = grad[t] · out[t] for the keys' and values'."""
    tile, head = tl.program_id(0), tl.program_id(1)
    _, first, _, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    rows = first + tl.arange(0, TILE)
    real = rows < end
    begin, stop = _text_of(rows, real, begins, stops)
    low, high = tl.min(begin), tl.max(stop)
    if CAUSAL:
        high = tl.minimum(high, first + TILE)
    dims = tl.arange(0, D)
    inside = dims < WIDTH
    mine, wide = real[:, None] & inside, rows.to(tl.int64)[:, None]
    queries = tl.load(q + wide * q_row + head * q_head + dims, mine, 0.0)
    came = tl.load(grad + wide * grad_row + head * grad_head + dims, mine, 0.0)
    gave = tl.load(out + wide * out_row + head * out_head + dims, mine, 0.0)
    weight = tl.sum(came.to(tl.float32) * gave.to(tl.float32), 1)
    at = head.to(tl.int64) * length + rows
    tl.store(delta + at, weight, real)
    logs = tl.load(lse + at, real, 0.0)
    group = head // GROUP
    sums = tl.zeros((TILE, D), tl.float32)
    for start in range(low, high, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        held = (columns < end)[:, None] & inside
        place = columns.to(tl.int64)[:, None]
        keys = tl.load(k + place * k_row + group * k_head + dims, held, 0.0)
        values = tl.load(v + place * v_row + group * v_head + dims, held, 0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * scale
        seen = _seen(rows, columns, begin, stop, left, CAUSAL)
        weights = tl.where(seen, tl.exp(scores - logs[:, None]), 0.0)
        change = tl.dot(came, tl.trans(values), input_precision=precision)
        to_scores = weights * (change - weight[:, None]) * scale
        sums = tl.dot(to_scores.to(keys.dtype), keys, sums, input_precision=precision)
    tl.store(to_q + wide * out_row + head * out_head + dims, sums.to(to_q.dtype.element_ty), mine)


@triton.jit  # type: ignore[untyped-decorator]
def _to_keys(  # type: ignore[no-untyped-def]
    q, k, v, grad, lse, delta, to_k, to_v, begins, stops, tiles, edges, scale, left, length,
    q_row, q_head, k_row, k_head, v_row, v_head, grad_row, grad_head, to_row, to_head,
    GROUP: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """The keys' and values' gradients: a tile's rows are keys here, and look for the queries that see them."""
    tile, group = tl.program_id(0), tl.program_id(1)
    _, first, _, end = tile_of(tile, tiles, edges)
    if first >= end:
        return
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    rows = first + tl.arange(0, TILE)
    real = rows < end
    begin, stop = _text_of(rows, real, begins, stops)
    low, high = tl.min(begin), tl.max(stop)
    if CAUSAL:
        low = tl.maximum(low, first)
    dims = tl.arange(0, D)
    inside = dims < WIDTH
    mine, wide = real[:, None] & inside, rows.to(tl.int64)[:, None]
    keys = tl.load(k + wide * k_row + group * k_head + dims, mine, 0.0)
    values = tl.load(v + wide * v_row + group * v_head + dims, mine, 0.0)
    for_keys, for_values = tl.zeros((TILE, D), tl.float32), tl.zeros((TILE, D), tl.float32)
    for start in range(low, high, BLOCK):
        others = start + tl.arange(0, BLOCK)
        there = others < end
        opens, closes = _text_of(others, there, begins, stops)
        seen = tl.trans(_seen(others, rows, opens, closes, left, CAUSAL))
        held, place = there[:, None] & inside, others.to(tl.int64)[:, None]
        for member in range(GROUP):
            head = group * GROUP + member
            queries = tl.load(q + place * q_row + head * q_head + dims, held, 0.0)
            came = tl.load(grad + place * grad_row + head * grad_head + dims, held, 0.0)
            at = head.to(tl.int64) * length + others
            logs, weight = tl.load(lse + at, there, 0.0), tl.load(delta + at, there, 0.0)
            scores = tl.dot(keys, tl.trans(queries), input_precision=precision) * scale
            weights = tl.where(seen, tl.exp(scores - logs[None, :]), 0.0)
            for_values = tl.dot(weights.to(came.dtype), came, for_values, input_precision=precision)
            change = tl.dot(values, tl.trans(came), input_precision=precision)
            to_scores = weights * (change - weight[None, :]) * scale
            for_keys = tl.dot(to_scores.to(queries.dtype), queries, for_keys, input_precision=precision)
    where = wide * to_row + group * to_head + dims
    tl.store(to_k + where, for_keys.to(to_k.dtype.element_ty), mine)
    tl.store(to_v + where, for_values.to(to_v.dtype.element_ty), mine)


def _sizes(q: Tensor, k: Tensor, causal: bool) -> dict[str, Any]:
    width = q.shape[2]
    return {
        "GROUP": q.shape[1] // k.shape[1],
        "WIDTH": width,
        "D": triton.next_power_of_2(width),
        "TILE": TILE,
        "BLOCK": 32,  # with 64, the keys' gradients spill out of the registers
        "CAUSAL": causal,
        "EXACT": q.dtype == torch.float32,
        "num_warps": 4 if width <= 64 else 8,
        "num_stages": 2 if width <= 128 else 1,
    }


@torch.library.custom_op("peftsweep::attend_texts", mutates_args=())
def attend_texts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    begins: Tensor,
    stops: Tensor,
    tiles: Tensor,
    edges: Tensor,
    scale: float,
    left: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Attention of each row to the rows of its own text: out [T, heads, d], and what backward needs, [heads, T].

    Args:
        q: [T, heads, d]. k, v: [T, groups, d].
        begins, stops: [T] int32, of each row's text: its first row, and the row after its last.
        tiles, edges: see `Segments`.
        left: how far away a key may be that is seen.
    """
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_zeros(q.shape)  # rows of no slot
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    strides = (x.stride(i) for x in (q, k, v, out) for i in (0, 1))
    grid = (tiles.shape[0], q.shape[1])
    _forward[grid](
        q, k, v, out, lse, begins, stops, tiles, edges, scale, left, q.shape[0], *strides, **_sizes(q, k, causal)
    )
    return out, lse


@attend_texts.register_fake
def _(q, k, v, begins, stops, tiles, edges, scale, left, causal):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@torch.library.custom_op("peftsweep::attend_texts_backward", mutates_args=())
def attend_texts_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    begins: Tensor,
    stops: Tensor,
    tiles: Tensor,
    edges: Tensor,
    scale: float,
    left: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q [T, heads, d], k and v [T, groups, d]."""
    grad, q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in (grad, q, k, v))
    to_q, to_k, to_v = (x.new_zeros(x.shape) for x in (q, k, v))
    delta, sizes = torch.empty_like(lse), _sizes(q, k, causal)
    texts = (begins, stops, tiles, edges, scale, left, q.shape[0])
    strides = [x.stride(i) for x in (q, k, v) for i in (0, 1)]
    given = [grad.stride(0), grad.stride(1)]
    _to_queries[(tiles.shape[0], q.shape[1])](
        q, k, v, out, grad, lse, delta, to_q, *texts, *strides, out.stride(0), out.stride(1), *given, **sizes
    )
    _to_keys[(tiles.shape[0], k.shape[1])](
        q, k, v, grad, lse, delta, to_k, to_v, *texts, *strides, *given, to_k.stride(0), to_k.stride(1), **sizes
    )
    return to_q, to_k, to_v


@attend_texts_backward.register_fake
def _(grad, q, k, v, out, lse, begins, stops, tiles, edges, scale, left, causal):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:7])
    ctx.rest = inputs[7:]
    ctx.mark_non_differentiable(output[1])


def _back(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*attend_texts_backward(grad, *ctx.saved_tensors, *ctx.rest), *(None,) * 7)


attend_texts.register_autograd(_back, setup_context=_keep)
