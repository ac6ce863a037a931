"""Texts of all slots laid back to back in one row, without padding between them.

The base sees one sequence `[1, T]` whose position ids restart at each text. Only attention needs to know where texts
begin: it lays them out as padded batches of texts of like length, so no text sees another, and takes the pads away
again.
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
BUCKET = 16  # tokens by which the padded lengths of attention's groups differ on a CPU
_rows: ContextVar[Rows] = ContextVar("rows")
_sdpa: Any = sdpa_attention_forward


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
class Group:
    """Some of the texts, n of them, as attention sees them: a batch padded to one length."""

    spread: Tensor  # [n, length] the row of each text's j-th token; its own last token where it is shorter
    real: Tensor  # [n, length] whether there is a j-th token


@dataclass(frozen=True)
class Rows:
    """One forward pass: N texts of k slots, T tokens in all."""

    input_ids: Tensor  # [1, T]
    position_ids: Tensor  # [1, T]
    pooled: Tensor  # [N] the row of each text's pooled token
    tokens: Segments  # the slots' stretches of the T tokens
    texts: Segments  # the slots' stretches of the N texts
    groups: tuple[Group, ...]
    gather: Tensor  # [T] the place of each row in the groups' spreads, flattened one after another
    idle: Tensor | None  # [T, 1, 1] rows of no text, if there are any


def lay(
    slots: Sequence[int], batches: Sequence[Sequence[Text]], pooling: Pooling, device: torch.device, uniform: bool
) -> Rows:
    """Lay out one batch of texts for each slot.

    Attention's groups cut its padding, at the price of a few more calls: worth it on a CPU alone.

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
    sizes, first_rows = np.array(lengths), np.array(starts)
    owner = np.zeros(at, np.int64)  # the row that each row reads: itself, or, of no text, its slot's last real one
    for (first, stop), batch in zip(token_bounds, batches, strict=True):
        owner[first:stop] = np.minimum(np.arange(first, stop), first + sum(map(len, batch)) - 1)
    # A text's padded length is a matter of its own length alone: then neighbours cannot change even its rounding.
    padded = np.full_like(sizes, sizes.max()) if uniform else -(-sizes // BUCKET) * BUCKET
    place, spreads, places = np.empty(at, np.int64), [], 0
    for length in np.unique(padded):
        some, column = np.flatnonzero(padded == length), np.arange(length)
        spread = first_rows[some, None] + np.minimum(column, sizes[some, None] - 1)
        real = column < sizes[some, None]
        place[spread[real]] = places + np.flatnonzero(real)
        places += real.size
        spreads.append((spread, real))
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
        groups=tuple(Group(tensor(spread), tensor(real)) for spread, real in spreads),
        gather=tensor(gather),
        idle=tensor(idle)[:, None, None] if idle.any() else None,
    )


class _Spread(torch.autograd.Function):
    """Rows [T, …] to the groups' padded batches [n, length, …]. Pads repeat the text's own last token, so that
    whatever is wrong with one slot's numbers cannot reach another's through a masked product (0 · NaN)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> tuple[Tensor, ...]:
        ctx.rows = rows
        return tuple(x[group.spread] for group in rows.groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Attention masks pads as keys and `_Gather` drops them as queries: their gradient is nought, so each row's
        # gradient is that of its one place, and a gather (which has one order of summation) does for a scatter.
        rows: Rows = ctx.rows
        to_x = torch.cat([grad.flatten(0, 1) for grad in grads])[rows.gather]
        return to_x if rows.idle is None else to_x.masked_fill_(rows.idle, 0), None


class _Gather(torch.autograd.Function):
    """The groups' padded batches [n, length, …] back to rows [T, …]."""

    @staticmethod
    def forward(ctx: Any, rows: Rows, *batches: Tensor) -> Tensor:
        ctx.rows = rows
        return torch.cat([batch.flatten(0, 1) for batch in batches])[rows.gather]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows: Rows = ctx.rows
        return None, *(grad[group.spread].masked_fill_(~group.real[:, :, None, None], 0) for group in rows.groups)


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
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    kwargs.pop("position_ids", None)
    q, k, v = (_Spread.apply(x[0].transpose(0, 1), rows) for x in (query, key, value))  # type: ignore[no-untyped-call]
    batches = []
    for group, *parts in zip(rows.groups, q, k, v, strict=True):
        mask = _mask(group, sliding_window, causal)
        padded = (part.transpose(1, 2) for part in parts)  # [n, heads, length, d]
        batches.append(_sdpa(module, *padded, mask, is_causal=causal, **kwargs)[0])
    return _Gather.apply(rows, *batches)[None], None  # type: ignore[no-untyped-call]


def _mask(group: Group, sliding_window: int | None, causal: bool) -> Tensor | None:
    """Which keys each query of a group sees, [n or 1, 1, length, length]; None for what `is_causal` says already."""
    length = group.real.shape[1]
    mask = None
    if sliding_window is not None and length > sliding_window:
        mask = _window(length, sliding_window, causal, group.real.device)[None, None]
    if not causal:  # a causal text never looks right, where its pads are
        keys = group.real[:, None, None, :]
        mask = keys.expand(-1, 1, length, -1) if mask is None else mask & keys
    return mask


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
