"""LoRA: y = W x + (α/r)·B A x (Hu et al., 2021, arXiv:2106.09685). QLoRA is LoRA on a 4-bit base (arXiv:2305.14314)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftsweep.config import TrainConfig
from peftsweep.errors import ModelError
from peftsweep.methods.base import Method, PackedLayer, Pass, Segments, keep_mask, select, shortest_names


class PackedLora(PackedLayer):
    """A: [K, r_max, d_in], B: [K, d_out, r_max]. Rows of A and columns of B beyond a slot's rank stay zero."""

    def __init__(self, inner: nn.Module, name: str, index: int, current: Pass, slots: int, rank: int) -> None:
        super().__init__(inner, name, index, current, slots)
        self.max_rank = rank
        self.ranks = [0] * slots
        self.scales = [0.0] * slots  # α/r
        self.dropouts = [0.0] * slots

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"A": (self.max_rank, self.in_features), "B": (self.out_features, self.max_rank)}

    def shape_of(self, name: str, params: TrainConfig) -> tuple[slice, ...]:
        return (slice(params.rank), slice(None)) if name == "A" else (slice(None), slice(params.rank))

    def start(self, slot: int, params: TrainConfig, generator: torch.Generator) -> None:
        """As peft starts it: A Kaiming-uniform with a = √5, B zero, so that the first step sees the bare base."""
        alpha = 2 * params.rank if params.alpha is None else params.alpha
        self.ranks[slot], self.scales[slot], self.dropouts[slot] = params.rank, alpha / params.rank, params.dropout
        bound = 1 / math.sqrt(self.in_features)
        first = torch.empty(params.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.stacked["A"].data[slot, : params.rank].copy_(first)

    def forward(self, x: Tensor) -> Tensor:
        segments = self.current.segments
        if not any(self.active[slot] for slot in segments.slots):
            return self.inner(x)  # type: ignore[no-any-return]
        flat = x.reshape(-1, x.shape[-1])  # [rows, d_in]
        y: Tensor = self.inner(flat)
        if y._base is not None:  # autograd forbids custom in-place functions on views, and 4-bit layers return them
            y = y.clone()
        y = _AddLora.apply(y, flat, self.stacked["A"], self.stacked["B"], self, segments)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)

    def mask(self, slot: int, x: Tensor) -> Tensor | None:
        """The slot's dropout mask over its rows x [n, d_in]; None where nothing is dropped."""
        keys, dropout = self.current.keys, self.dropouts[slot]
        if keys is None or dropout == 0.0:
            return None
        return keep_mask(tuple(x.shape), x.device, (*keys[slot], self.index), dropout, x.dtype)


class _AddLora(torch.autograd.Function):
    """y += scale·B A dropout(x), slot by slot.

    Two habits keep memory low: the dropout mask is drawn again from its seed in backward instead of a masked copy of x
    being kept, and gradients of A and B are added straight to the stacked `.grad`, which belongs to all slots.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, layer: PackedLora, segments: Segments) -> Tensor:
        if segments.uniform:
            hidden = _forward_batched(y, x, a, b, layer, segments)
        else:
            hidden = _forward_by_slot(y, x, a, b, layer, segments)
        ctx.save_for_backward(x, *hidden)
        ctx.layer, ctx.segments, ctx.keys = layer, segments, layer.current.keys
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *hidden = ctx.saved_tensors
        layer, segments = ctx.layer, ctx.segments
        if ctx.keys is not layer.current.keys:
            raise RuntimeError("backward of a pass whose dropout keys are gone")
        to_x = torch.empty_like(x) if ctx.needs_input_grad[1] else None  # the stretches cover every row
        if segments.uniform:
            _backward_batched(grad, x, hidden[0], to_x, layer, segments)
        else:
            _backward_by_slot(grad, x, hidden, to_x, layer, segments)
        return grad, to_x, None, None, None, None


def _forward_by_slot(y: Tensor, x: Tensor, a: Tensor, b: Tensor, layer: PackedLora, segments: Segments) -> list[Tensor]:
    """Each slot's stretch by itself, at its true rank. Returns scale·A·dropout(x) [n, r] of each stretch."""
    saved = []
    for slot, start, stop in segments.stretches():
        rank = layer.ranks[slot] if layer.active[slot] else 0
        rows = x[start:stop]
        mask, scale = layer.mask(slot, rows), layer.scales[slot]
        if mask is not None:
            rows, scale = rows * mask, scale / (1 - layer.dropouts[slot])
        hidden = (rows @ a[slot, :rank].T.to(x.dtype)).mul_(scale)  # [n, r]
        y[start:stop].addmm_(hidden, b[slot, :, :rank].T.to(x.dtype))
        saved.append(hidden)
    return saved


def _backward_by_slot(
    grad: Tensor, x: Tensor, saved: Sequence[Tensor], to_x: Tensor | None, layer: PackedLora, segments: Segments
) -> None:
    a, b = layer.stacked["A"], layer.stacked["B"]
    assert a.grad is not None and b.grad is not None
    for (slot, start, stop), hidden in zip(segments.stretches(), saved, strict=True):
        rank = hidden.shape[1]
        if rank == 0:  # this trial does not adapt the layer
            if to_x is not None:
                to_x[start:stop] = 0
            continue
        rows, g = x[start:stop], grad[start:stop]
        mask, scale = layer.mask(slot, rows), layer.scales[slot]
        if mask is not None:
            rows, scale = rows * mask, scale / (1 - layer.dropouts[slot])
        b.grad[slot, :, :rank] += g.T @ hidden  # [d_out, r]
        to_hidden = (g @ b[slot, :, :rank].to(g.dtype)).mul_(scale)  # [n, r]
        a.grad[slot, :rank] += to_hidden.T @ rows  # [r, d_in]
        if to_x is not None:
            back = torch.mm(to_hidden, a[slot, :rank].to(g.dtype), out=to_x[start:stop])  # [n, d_in]
            if mask is not None:
                back.mul_(mask)


def _batched(layer: PackedLora, x: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor]:
    """dropout(x) [k, n, d_in], the mask over it (of no elements when nothing is dropped), the scales [k, 1, 1]."""
    k = len(segments.slots)
    stacked = x.view(k, -1, x.shape[-1])
    mask = x.new_empty(0)
    scales = []
    for i, slot in enumerate(segments.slots):
        drawn = layer.mask(slot, stacked[i, : segments.real[i]])  # over real rows alone: their number is the slot's own
        kept = 1.0 if drawn is None else 1 - layer.dropouts[slot]
        scales.append(layer.scales[slot] / kept if layer.active[slot] else 0.0)
        if drawn is not None:
            if mask.numel() == 0:
                mask = torch.ones_like(stacked)
            mask[i, : segments.real[i]] = drawn
    scale = torch.tensor(scales, device=x.device, dtype=x.dtype).view(k, 1, 1)
    return (stacked * mask if mask.numel() else stacked), mask, scale


def _of_slots(stacked: Tensor, segments: Segments) -> Tensor:
    """Rows of a stack [K, …] that belong to the pass; the stack itself when those are all of them."""
    if segments.slots == tuple(range(stacked.shape[0])):
        return stacked
    return stacked[list(segments.slots)]


def _forward_batched(y: Tensor, x: Tensor, a: Tensor, b: Tensor, layer: PackedLora, segments: Segments) -> list[Tensor]:
    k = len(segments.slots)
    rows, _, scale = _batched(layer, x, segments)
    hidden = torch.bmm(rows, _of_slots(a, segments).to(x.dtype).mT) * scale  # [k, n, r]
    y.view(k, -1, y.shape[-1]).baddbmm_(hidden, _of_slots(b, segments).to(x.dtype).mT)
    return [hidden]


def _backward_batched(
    grad: Tensor, x: Tensor, hidden: Tensor, to_x: Tensor | None, layer: PackedLora, segments: Segments
) -> None:
    a, b = layer.stacked["A"], layer.stacked["B"]
    assert a.grad is not None and b.grad is not None
    k = len(segments.slots)
    slots = torch.tensor(segments.slots, device=x.device)
    rows, mask, scale = _batched(layer, x, segments)
    g = grad.reshape(k, -1, grad.shape[-1])
    b.grad.index_add_(0, slots, torch.bmm(g.mT, hidden).to(b.dtype))
    to_hidden = torch.bmm(g, _of_slots(b, segments).to(g.dtype)) * scale
    a.grad.index_add_(0, slots, torch.bmm(to_hidden.mT, rows).to(a.dtype))
    if to_x is not None:
        back = torch.bmm(to_hidden, _of_slots(a, segments).to(g.dtype))
        to_x.copy_((back if mask.numel() == 0 else back * mask).view_as(x))


class Lora(Method):
    name = "lora"
    hyperparameters = frozenset({"rank", "alpha", "dropout", "target_modules"})

    def targets(self, params: TrainConfig) -> tuple[str, ...]:
        """All linear layers of the backbone unless the trial names some."""
        return self.linears if params.target_modules == "auto" else select(self.linears, params.target_modules)

    def layer(
        self, inner: nn.Module, name: str, index: int, current: Pass, slots: int, candidates: Sequence[TrainConfig]
    ) -> PackedLora:
        layer = PackedLora(inner, name, index, current, slots, max(params.rank for params in candidates))
        narrowest = min(layer.in_features, layer.out_features)
        if layer.max_rank > narrowest:
            raise ModelError(
                f"rank: {layer.max_rank} is above the width of {name} ({layer.in_features} → {layer.out_features}); "
                f"choose ranks up to {narrowest} or leave that layer out by target_modules"
            )
        return layer

    def peft_config(self, params: TrainConfig, **common: Any) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=params.rank,
            lora_alpha=2 * params.rank if params.alpha is None else params.alpha,  # type: ignore[arg-type]
            lora_dropout=params.dropout,
            target_modules=shortest_names(self.targets(params), self.modules),
            **common,
        )

    def to_peft(self, path: str, parameter: str, value: Tensor, params: TrainConfig) -> tuple[str, Tensor]:
        return f"lora_{parameter}.weight", value


class QLora(Lora):
    """LoRA whose base is held in NF4 with double quantisation."""

    name = "qlora"
    four_bit = True
