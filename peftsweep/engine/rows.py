"""Texts of all slots laid back to back in one row, without padding between them.

The base sees one sequence `[1, T]` whose position ids restart at each text. Only attention needs to know where texts
begin: it lays them out as a padded batch `[texts, longest]`, so no text sees another, and takes the pads away again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peftsweep.methods import Segments

Text = NDArray[np.int64]

ATTENTION = "peftsweep_rows"  # the name under which transformers finds `attend`
_rows: ContextVar[Rows] = ContextVar("rows")


@dataclass(frozen=True)
class Pooling:
    """Which token of a text the head reads, and where position ids start."""

    last: bool  # decoders: the last token that is not the pad token; encoders: the first
    pad_token_id: int
    first_position: int  # 0, or pad_token_id + 1 in the RoBERTa family

    def token(self, text: Text) -> int:
        """Index of the pooled token, as transformers' own heads choose it."""
        if not self.last:
            return 0
        real = np.flatnonzero(text != self.pad_token_id)
        return int(real[-1]) if len(real) else 0


@dataclass(frozen=True)
class Rows:
    """One forward pass: N texts of k slots, T tokens in all, the longest of them `longest` tokens."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    pooled: Tensor  # [N] the row of each text's pooled token
    tokens: Segments  # the slots' stretches of the T tokens
    texts: Segments  # the slots' stretches of the N texts
    spread: Tensor  # [N, longest] the row of each text's j-th token; its own last token where it is shorter
    real: Tensor  # [N, longest] whether there is a j-th token
    gather: Tensor  # [T] the place of each row in the flattened spread
    idle: Tensor | None  # [T, 1, 1] rows of no text, if there are any


def lay(
    slots: Sequence[int], batches: Sequence[Sequence[Text]], pooling: Pooling, device: torch.device, uniform: bool
) -> Rows:
    """Lay out one batch of texts for each slot.

    With `uniform`, each slot's stretch is filled up to the longest one with tokens that belong to no text, and its
    texts to the most with repetitions of its last, whose outputs nobody reads.
    """
    width = max(sum(map(len, batch)) for batch in batches) if uniform else 0
    depth = max(map(len, batches)) if uniform else 0
    ids, positions, pooled, starts, lengths = [], [], [], [], []
    token_bounds, text_bounds, at, texts = [], [], 0, 0
    for batch in batches:
        first, first_text = at, texts
        for text in batch:
            ids.append(text)
            positions.append(np.arange(len(text)) + pooling.first_position)
            pooled.append(at + pooling.token(text))
            starts.append(at)
            lengths.append(len(text))
            at += len(text)
        fill = max(width - (at - first), 0)
        ids.append(np.full(fill, pooling.pad_token_id))
        positions.append(np.full(fill, pooling.first_position))
        at += fill
        texts += max(depth, len(batch))
        pooled += [pooled[-1]] * (texts - first_text - len(batch))
        token_bounds.append((first, at))
        text_bounds.append((first_text, texts))
    sizes = np.array(lengths)
    column = np.arange(sizes.max())
    spread = np.array(starts)[:, None] + np.minimum(column, sizes[:, None] - 1)  # [N, longest]
    real = column < sizes[:, None]
    owner = np.zeros(at, np.int64)  # the row that each row reads: itself, or, of no text, its slot's last real one
    for (first, stop), batch in zip(token_bounds, batches, strict=True):
        owner[first:stop] = np.minimum(np.arange(first, stop), first + sum(map(len, batch)) - 1)
    place = np.empty(at, np.int64)
    place[spread[real]] = np.flatnonzero(real)
    gather, idle = place[owner], owner != np.arange(at)

    def tensor(values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)

    return Rows(
        input_ids=tensor(np.concatenate(ids))[None],
        position_ids=tensor(np.concatenate(positions))[None],
        pooled=tensor(np.array(pooled)),
        tokens=Segments(
            tuple(slots), tuple(token_bounds), tuple(sum(map(len, batch)) for batch in batches), bool(uniform)
        ),
        texts=Segments(tuple(slots), tuple(text_bounds), tuple(map(len, batches)), bool(uniform)),
        spread=tensor(spread),
        real=tensor(real),
        gather=tensor(gather),
        idle=tensor(idle)[:, None, None] if idle.any() else None,
    )


class _Spread(torch.autograd.Function):
    """Rows [T, …] to a padded batch [N, longest, …]. Pads repeat the text's own last token, so that whatever is wrong
    with one slot's numbers cannot reach another's through a masked product (0 · NaN)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x[rows.spread]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Attention masks pads as keys and `_Gather` drops them as queries: their gradient is nought, so each row's
        # gradient is that of its one place, and a gather (which has one order of summation) does for a scatter.
        rows: Rows = ctx.rows
        to_x = grad.flatten(0, 1)[rows.gather]
        return to_x if rows.idle is None else to_x.masked_fill_(rows.idle, 0), None


class _Gather(torch.autograd.Function):
    """A padded batch [N, longest, …] back to rows [T, …]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return x.flatten(0, 1)[rows.gather]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows: Rows = ctx.rows
        shape = (*rows.real.shape, *(1,) * (grad.dim() - 1))
        return grad[rows.spread].masked_fill_(~rows.real.view(shape), 0), None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each text: query [1, heads, T, d] → [1, T, heads, d], by transformers' own SDPA call."""
    rows = _rows.get()
    longest = rows.real.shape[1]
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), rows).transpose(1, 2) for x in (query, key, value))  # type: ignore[no-untyped-call]
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    mask = None
    if sliding_window is not None and longest > sliding_window:
        mask = _window(longest, sliding_window, causal, query.device)[None, None]  # [1, 1, longest, longest]
    if not causal:  # a causal text never looks right, where its pads are
        keys = rows.real[:, None, None, :]  # [N, 1, 1, longest]
        mask = keys.expand(-1, 1, longest, -1) if mask is None else mask & keys
    kwargs.pop("position_ids", None)
    out, _ = sdpa_attention_forward(module, q, k, v, mask, is_causal=causal, **kwargs)  # [N, longest, heads, d]
    return _Gather.apply(out, rows)[None], None  # type: ignore[no-untyped-call]


def _window(length: int, window: int, causal: bool, device: torch.device) -> Tensor:
    """Which keys a query sees in a sliding window, with transformers' bounds (masking_utils)."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window) if causal else distance.abs() <= window


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """`attend` makes its own masks."""


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _no_mask)


def forward_rows(backbone: nn.Module, rows: Rows) -> Tensor:
    """The backbone's last hidden state [T, d] for the rows."""
    token = _rows.set(rows)
    try:
        out = backbone(input_ids=rows.input_ids, position_ids=rows.position_ids)
    finally:
        _rows.reset(token)
    hidden: Tensor = out.last_hidden_state[0]
    return hidden
