"""Attention within each text of a row, registered with transformers under a name of its own.

On a GPU, short texts go through a kernel over tiles of rows (attention_kernels.py) and long ones through flash
attention over texts of any length. Elsewhere, and for models that these kernels do not support, the texts are laid out
as padded batches of similar length, so that no text sees another, and the padding is removed again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peftsweep.layers.packed_batch import Group, PackedBatch
from peftsweep.models import unsupported_error

ATTENTION = "peftsweep_rows"  # the name under which transformers finds `attend`
SHORT = 128  # tokens up to which a CPU computes attention by plain products
_sdpa: Any = sdpa_attention_forward


class _ThreadState(threading.local):
    """What `attend` needs to know of the pass in its thread: transformers passes nothing of ours on to it."""

    batch: PackedBatch
    capturing = False  # whether attention's result leaves the block as an exception
    replayed: Tensor | None = None  # what attention returns without computing anything


_thread = _ThreadState()


class _CapturedError(Exception):
    """Carries attention's result out of a block."""


def run_backbone(backbone: nn.Module, batch: PackedBatch) -> Tensor:
    """The backbone's last hidden state: [T, d], or [m, d] where its last block returns the pooled rows only."""
    _thread.batch = batch
    try:
        out = backbone(input_ids=batch.input_ids, position_ids=batch.position_ids)
    finally:
        del _thread.batch  # it would live as long as the thread
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def current_batch() -> PackedBatch:
    """The batch of the pass in this thread."""
    return _thread.batch


def capture_attention(block: Callable[[], object]) -> Tensor:
    """Run a block up to its attention and return attention's result [1, T, heads, d]; the rest of the block is skipped.

    Raises:
        ValueError: the block does not call `attend`.
    """
    _thread.capturing = True
    try:
        block()
    except _CapturedError as captured:
        result: Tensor = captured.args[0]
        return result
    finally:
        _thread.capturing = False
    raise ValueError("a block without attention")


@contextmanager
def replay_attention(result: Tensor) -> Iterator[None]:
    """Inside this context, attention returns `result`, whatever its inputs are."""
    _thread.replayed = result
    try:
        yield
    finally:
        _thread.replayed = None


def has_kernel(model: Any) -> bool:
    """Whether a kernel supports this model's attention on its device."""
    config, weights = model.config.get_text_config(), next(model.parameters())
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype = getattr(config, "dtype", None) or weights.dtype
    if weights.device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or size % 8 or size > 256:
        return False
    return torch.cuda.get_device_capability(weights.device) >= (8, 0)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each text: query [1, heads, T, d] → [1, T, heads, d].

    Raises:
        ModelError: this kind of attention is not supported.
    """
    if _thread.replayed is not None:
        return _thread.replayed, None
    result = _within_texts(module, query, key, value, sliding_window, is_causal, scaling, kwargs)
    if _thread.capturing:
        raise _CapturedError(result)
    return result, None


def _within_texts(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sliding_window: int | None,
    is_causal: bool | None,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Tensor:
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    if kwargs.get("softcap") is not None:
        raise unsupported_error(module, "attention with a soft cap")
    if kwargs.get("s_aux") is not None:
        raise unsupported_error(module, "attention with sinks")
    rows = _thread.batch
    if rows.spans is None and rows.ends is None:
        return _padded(module, query, key, value, rows, causal, sliding_window, scaling, kwargs)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, d]
    # How far away a key may be to be seen: transformers gives the first distance that is not. -1: no limit.
    left = -1 if sliding_window is None or sliding_window > rows.longest else sliding_window - 1
    if rows.spans is not None:
        return _tiled(q, k, v, rows, causal, left, scaling)[None]
    return _varlen(q, k, v, rows, causal, left, scaling)[None]


def _tiled(q: Tensor, k: Tensor, v: Tensor, rows: PackedBatch, causal: bool, left: int, scale: float | None) -> Tensor:
    from peftsweep.layers.attention_kernels import attend_texts

    spans, edges, tiles = rows.spans, rows.tokens.edges, rows.tokens.tiles
    assert spans is not None and edges is not None and tiles is not None
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor
    out, _ = attend_texts(
        q, k, v, spans.begins, spans.stops, tiles, edges, scale, rows.longest if left < 0 else left, causal
    )
    return out


def _varlen(q: Tensor, k: Tensor, v: Tensor, rows: PackedBatch, causal: bool, left: int, scale: float | None) -> Tensor:
    """Flash attention. Its backward sums a query's gradient over blocks of up to 128 keys in no fixed order: from three
    blocks on, two runs differ by rounding."""
    from torch.nn.attention.varlen import varlen_attn

    ends, window = rows.ends, (left, 0 if causal else left)
    assert ends is not None
    if q.shape[1] != k.shape[1]:  # torch before 2.12 does not take grouped heads
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    out = varlen_attn(q, k, v, ends, ends, rows.longest, rows.longest, scale=scale, window_size=window)
    assert isinstance(out, Tensor)  # it would be a tuple if more were asked for
    return out


class _ToGroups(torch.autograd.Function):
    """Rows [T, …] to the groups' padded batches [n, length, …]. Padding repeats the text's own last token, so that a
    NaN in one slot cannot reach another slot through a masked product (0 · NaN)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: PackedBatch) -> tuple[Tensor, ...]:
        ctx.rows = rows
        return tuple(_rows_at(x, group.spread) for group in rows.groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Attention masks padding as keys and `_FromGroups` drops it as queries, so its gradient is zero. Each row then
        # has the gradient of its one place, and a gather (with one order of summation) can replace a scatter.
        return _rows_at(torch.cat([grad.flatten(0, 1) for grad in grads]), ctx.rows.gather), None


class _FromGroups(torch.autograd.Function):
    """The groups' padded batches [n, length, …] back to rows [T, …]."""

    @staticmethod
    def forward(ctx: Any, rows: PackedBatch, *batches: Tensor) -> Tensor:
        ctx.rows = rows
        assert rows.gather is not None
        return _rows_at(torch.cat([batch.flatten(0, 1) for batch in batches]), rows.gather)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows: PackedBatch = ctx.rows
        batches = [_rows_at(grad, group.spread) for group in rows.groups]
        for batch, group in zip(batches, rows.groups, strict=True):
            batch.flatten(0, 1).index_fill_(0, group.pads, 0)  # copies whole rows, unlike masked_fill_
        return None, *batches


def _rows_at(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x [T, …] at these places [any shape]: [any shape, …]. `index_select` copies whole rows; indexing on a CPU
    copies one element at a time."""
    return x.index_select(0, places.flatten()).view(*places.shape, *x.shape[1:])


def _padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: PackedBatch,
    causal: bool,
    window: int | None,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """Group by group: plain products for short texts on a CPU, transformers' own SDPA call for all others."""
    kwargs.pop("position_ids", None)
    q, k, v = (_ToGroups.apply(x[0].transpose(0, 1), rows) for x in (query, key, value))  # type: ignore[no-untyped-call]
    batches = []
    for group, *parts in zip(rows.groups, q, k, v, strict=True):
        mask = _mask(group, window, causal)
        wide, keys, values = (part.transpose(1, 2) for part in parts)  # [n, heads, length, d]
        if query.device.type == "cpu" and group.real.shape[1] <= SHORT:
            batches.append(_by_products(wide, keys, values, mask, causal, scaling))
        else:
            batches.append(_sdpa(module, wide, keys, values, mask, is_causal=causal, scaling=scaling, **kwargs)[0])
    out: Tensor = _FromGroups.apply(rows, *batches)  # type: ignore[no-untyped-call]
    return out[None]


def _by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """Attention by its formula: [n, heads, length, d] → [n, length, heads, d], weights in fp32 as in transformers.

    On tweets in bfloat16, a CPU's flash attention takes nine times as long, nearly all of it in backward.
    """
    if q.shape[1] != k.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = ((q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT).float()  # [n, heads, length, length]
    if mask is None and causal:
        length = q.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # Added, because a CPU is slow at masked_fill. A NaN of an unseen key comes through, but only within its text.
        scores = scores + torch.zeros(mask.shape, device=q.device).masked_fill_(~mask, -torch.inf)
    weights = scores.softmax(-1).to(q.dtype)
    return (weights @ v).transpose(1, 2)


def _mask(group: Group, sliding_window: int | None, causal: bool) -> Tensor | None:
    """Which keys each query of a group sees, [n or 1, 1, length, length]; None if `is_causal` says it already."""
    length = group.real.shape[1]
    mask = None
    if sliding_window is not None and length > sliding_window:
        mask = _window(length, sliding_window, causal, group.real.device)[None, None]
    if not causal:  # a causal query never looks right, where the padding is
        keys = group.real[:, None, None, :]
        mask = keys.expand(-1, 1, length, -1) if mask is None else mask & keys
        if sliding_window is not None:  # padding too far from its whole text would have no key, and be NaN
            mask = mask | torch.eye(length, dtype=torch.bool, device=keys.device)
    return mask


def _window(length: int, window: int, causal: bool, device: torch.device) -> Tensor:
    """Which keys a query sees in a sliding window: those closer than the window that transformers gives."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """No mask: `attend` makes its own."""


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _no_mask)
